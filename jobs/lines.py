"""Progress where there is no terminal to draw a bar on."""

import time

from rich.console import Console

_EVERY_S = 30.0


class Lines:
    """Now and then a plain line, for logs; nothing on a terminal, where a bar says it better."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = time.monotonic()

    def say(self, line: str) -> None:
        """Print `line`, unless the last one is younger than half a minute."""
        if not self._console.is_terminal and time.monotonic() - self._said > _EVERY_S:
            self._said = time.monotonic()
            self._console.print(line)
