"""Death at a chosen moment, and a log of what was scored: installed in the workers of a run under test by Ray's
`worker_process_setup_hook`, so that the product itself knows nothing of it.

RADET_TEST_FAULT     "<operation> <name prefix> <before|after>", e.g. "upload parts/ after": SIGKILL, driver and worker
RADET_TEST_DRIVER    the driver's process id
RADET_TEST_VICTIM    "loader", "scorer" or "stager": the first worker to reach its second batch there dies, once
RADET_TEST_LOG       a folder: one line per scored batch, the number of images
"""

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any


def install() -> None:
    _log_scoring()
    fault = os.environ.get("RADET_TEST_FAULT")
    if fault:
        operation, prefix, when = fault.split()
        _kill_around(operation, prefix, when)
    victim = os.environ.get("RADET_TEST_VICTIM")
    if victim:
        _kill_worker(victim)


def _kill_worker(victim: str) -> None:
    owner, name = _owner(victim)
    original: Callable[..., Any] = getattr(owner, name)
    calls = itertools.count()

    def mortal(*arguments: Any) -> Any:
        if victim == "stager" or next(calls):
            try:
                (Path(os.environ["RADET_TEST_LOG"]).parent / "died").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    setattr(owner, name, mortal)


def _owner(victim: str) -> tuple[Any, str]:
    if victim == "loader":
        from pipelines.load import Loader  # only here: it brings torch

        return Loader, "_load_batch"
    from pipelines import score

    return (score.Scorer, "__call__") if victim == "scorer" else (score, "stage")


def _kill_around(operation: str, prefix: str, when: str) -> None:
    from pipelines import storage

    for folder in (storage.LocalFolder, storage.S3Folder):
        original: Callable[..., Any] = getattr(folder, operation)

        def faulty(self: Any, first: Any, *rest: Any, original: Callable[..., Any] = original) -> Any:
            # delete() takes names, write() and upload() a name; _publish(temporary, name) is inside a local write
            name = rest[0] if operation == "_publish" else next(iter(first), "") if operation == "delete" else first
            hit = str(name).startswith(prefix) and not str(name).endswith(".index.parquet")
            if hit and when == "before":
                _die()
            result = original(self, first, *rest)
            if hit:
                _die()
            return result

        setattr(folder, operation, faulty)
        if operation == "_publish":
            return  # S3 has no such step


def _die() -> None:
    os.kill(int(os.environ["RADET_TEST_DRIVER"]), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _log_scoring() -> None:
    import numpy as np

    from pipelines import score
    from pipelines.schema import unpack

    log = Path(os.environ["RADET_TEST_LOG"])
    original = score.Scorer.__call__

    def logged(self: Any, row: Any) -> Any:
        count = int(np.sum(unpack(row)["crop"].combine_chunks().is_valid().to_numpy(zero_copy_only=False)))
        result = original(self, row)
        with (log / f"{os.getpid()}.log").open("a") as file:
            file.write(f"{count}\n")
        return result

    score.Scorer.__call__ = logged  # type: ignore[method-assign]
