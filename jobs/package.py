"""The folder that travels with a job: a zip of named parts, the same bytes for the same files."""

import hashlib
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from radet.errors import ConfigError

_MAX_BYTES = 64 << 20  # Ray takes 500 MiB; code does not need it, and every node fetches it
_LEFT_OUT = {"__pycache__"}
_SECRET = re.compile(
    r"\.(pem|key|p12|pfx|jks|keystore|kdbx)$|^id_(rsa|dsa|ecdsa|ed25519)"
    r"|^(credentials?|client_secrets?|secrets?)(\.(json|ya?ml|toml|ini|cfg|csv|txt))?$"
)
_PRIVATE_KEY = re.compile(rb"\A\s*-----BEGIN [A-Z ]*PRIVATE KEY")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # of zip files: times would make other bytes, and each is another upload


class Package(NamedTuple):
    """What is sent. Names are relative to `root`, with `/`."""

    root: Path
    names: tuple[str, ...]
    size: int  # bytes, before compression

    def digest(self) -> str:
        """Changes with any name and byte."""
        found = hashlib.sha256()
        for name in self.names:
            data = (self.root / name).read_bytes()
            found.update(b"%s\0%d\0%s" % (os.fsencode(name), len(data), data))
        return found.hexdigest()

    def write(self, target: Path) -> None:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in self.names:
                info = zipfile.ZipInfo(name, _EPOCH)
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = 0o644 << 16
                archive.writestr(info, (self.root / name).read_bytes())


def package(root: Path, include: Sequence[str]) -> Package:
    """The files below `root` that `include` names, hidden ones and bytecode left out.

    Raises ConfigError for a part that is not there, for what leaves the folder, by a link too, for what looks like a
    secret, which every node would get, and above 64 MiB.
    """
    if not root.is_dir():
        raise ConfigError(f"working_dir: no such folder: {root}")
    names = sorted({name for part in include for name in _files(root, part)})
    size = sum((root / name).stat().st_size for name in names)
    if size > _MAX_BYTES:
        raise ConfigError(
            f"working_dir: {size / 1e6:,.0f} MB in {len(names):,} files, over {_MAX_BYTES / 1e6:.0f} MB: name less in "
            "include; data belongs in S3, weights in the image"
        )
    return Package(root, tuple(names), size)


def _files(root: Path, part: str) -> Iterator[str]:
    start = Path(os.path.normpath(root / part))
    _require_inside(root, start, part)
    if not start.exists():
        raise ConfigError(f"include: the working_dir {root} has no {part}: name what is to be sent")
    for path in [start] if start.is_file() else sorted(start.rglob("*")):
        parts = path.relative_to(root).parts
        if path.is_file() and not any(name.startswith(".") or name in _LEFT_OUT for name in parts):
            name = "/".join(parts)
            _require_inside(root, path, name)
            _require_no_secret(path, name)
            yield name


def _require_inside(root: Path, path: Path, name: str) -> None:
    if not (path.is_relative_to(root) and path.resolve().is_relative_to(root.resolve())):
        raise ConfigError(f"include: {name} is, or leads, outside of the working_dir {root}")


def _require_no_secret(path: Path, name: str) -> None:
    with path.open("rb") as file:
        if not _SECRET.search(path.name.lower()) and not _PRIVATE_KEY.match(file.read(100)):
            return
    raise ConfigError(f"include: {name} looks like a secret, and is not sent: name what the job needs, without it")
