"""Folders on this disk that commands make: nobody's files are lost in them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.storage import TEMPORARY, require_writable, writing
from radet.config import bundled
from radet.errors import ConfigError


def local_folder(out: str) -> Path:
    """The folder of a path. Raises ConfigError for a URL, which as a path would be a folder named `s3:`, and for an
    empty name, which would be the folder one happens to be in."""
    if not out:
        raise ConfigError("an empty name is no folder to write to: give one, . for this folder")
    if "://" in out:
        raise ConfigError(f"cannot write to {out}: give a local folder")
    return Path(out).expanduser()


def new_checkpoint(out: str) -> Path:
    """Where a checkpoint is to be made: an empty folder that can be written to.

    Raises ConfigError for what is no such folder, and for the name of a bundled detector: from beside it, that name
    would lead to it.
    """
    folder = local_folder(out)
    if (name := folder.resolve().name) in bundled():
        raise ConfigError(f"--out {out}: {name} is a bundled detector: name another folder")
    with writing(str(folder)):
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if there := [name for name in names if not name.startswith(TEMPORARY)]:
        raise ConfigError(f"--out {out} holds files already, {there[0]} for one: name another folder, or remove it")
    require_writable(str(folder))
    return folder


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A place to make what `folder` is to hold: it is there at the end, config.json last, and where the work failed or
    was stopped `folder` is as it was. Raises ConfigError for what the file system refuses."""
    with writing(str(folder)), tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder) as name:
        yield Path(name)
        for path in sorted(Path(name).iterdir(), key=lambda path: path.name == "config.json"):
            path.rename(folder / path.name)
