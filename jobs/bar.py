"""How far a run is: a bar on a terminal, and in a log, where there is nothing to draw one on, a line now and then."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_EVERY_S = 30.0  # between two lines of a log


class Bar:
    """One bar, for one stage of the work after the other; it is gone when the work is done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,  # it would end in an empty line
        )
        self._stage: TaskID | None = None
        self._name = ""
        self.wait("starting")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def wait(self, stage: str) -> None:
        """A stage of which nobody knows how long it takes."""
        self._begin(stage, None)

    def show(self, stage: str, done: int, total: int, state: str = "") -> None:
        """`done` of `total` steps of a stage; the time left is reckoned from the stage's own beginning."""
        if stage != self._name:
            self._begin(stage, total)
        assert self._stage is not None
        self._bar.update(self._stage, completed=done, total=total, state=state)
        if not self._console.is_terminal and time.monotonic() - self._said > _EVERY_S:
            self._said = time.monotonic()
            self._console.print(", ".join(filter(None, [f"{stage}: {done}/{total}", state])), soft_wrap=True)

    def _begin(self, stage: str, total: int | None) -> None:
        if self._stage is not None:
            self._bar.remove_task(self._stage)
        self._stage, self._name = self._bar.add_task(stage, total=total, state=""), stage
