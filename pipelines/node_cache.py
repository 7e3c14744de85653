"""This node's disk cache, which its processes share: nodes have no filesystem in common. All of it can be had again."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def node_cache() -> Path:
    """$RADET_CACHE, else $XDG_CACHE_HOME/radet, else ~/.cache/radet."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "radet"
    folder = Path(os.environ.get("RADET_CACHE") or usual)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """One process of the node at a time; `file` is the lock."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, however the process ends
        yield
