"""How a command ends that did not fail and did not do all of its work."""

SCORES_ARE_KEPT = "stopped: what is scored so far is kept, run the same command again to go on"


class Stop(Exception):  # noqa: N818 - not an error of the program: its end
    """What to say at the end, and the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
