"""One run of benchmarks.scale, in a process that imports what `radet score` does:  SRC OUT MODEL LOG."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from pipelines.coordinator import Progress
from pipelines.score import ScoreJob, Tally, Watcher, score


class Recorder(Watcher):
    """A line a staged batch: seconds since the process began, what happened, rows so far."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._begun = psutil.Process().create_time()

    def tell(self, **what: Any) -> None:
        self._file.write(json.dumps({"at": time.time() - self._begun, **what}) + "\n")

    def opened(self, source: str, facts: dict[str, Any]) -> None:  # noqa: ARG002
        self.tell(opened=facts["staged"])

    def moved(self, tally: Tally, progress: Progress) -> None:  # noqa: ARG002
        self.tell(rows=tally.rows)

    def committing(self) -> None:
        self.tell(committing=True)


def drive(src: str, out: str, model: str, log: str) -> None:
    """One run, in a process of its own."""
    recorder = Recorder(Path(log))
    manifest = score(
        ScoreJob(src=src, out=out, model=model, ids="id" if any(Path(src).glob("*.parquet")) else None), recorder
    )
    recorder.tell(ended=manifest["rows"])


if __name__ == "__main__":
    drive(*sys.argv[1:])
