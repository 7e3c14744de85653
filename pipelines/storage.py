"""A folder for results: on local disk or under an S3 prefix, with the few operations a safe commit needs.

Every write is atomic: a reader sees the whole file or none. Names are relative, with `/`.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from pipelines import s3
from radet.errors import ConfigError, FetchError

TEMPORARY = ".tmp-"  # local files being written; never read, removed when an output is opened for writing


class Stored(NamedTuple):
    """One file in a folder."""

    name: str
    size: int  # bytes


class Folder(Protocol):
    """What the ledger needs of a place for results."""

    url: str

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""

    def on_disk(self, name: str) -> AbstractContextManager[Path]:
        """The file on this machine's disk, to be read only and only inside. Raises FileNotFoundError."""

    def write(self, name: str, data: bytes) -> None:
        """Create or replace, atomically. Raises ConfigError or FetchError where it cannot be written to."""

    def upload(self, name: str, source: Path) -> None:
        """Create or replace from a local file, atomically; the local file is used up. Raises as `write`."""

    def list(self, prefix: str) -> Iterator[Stored]:
        """The files whose names start with a folder prefix such as `parts/`; nothing if there is none. Raises
        ConfigError or FetchError where it cannot be listed."""

    def delete(self, names: Iterable[str]) -> None:
        """Files that are gone already are no error."""


@contextmanager
def writing(folder: str) -> Iterator[None]:
    """What the file system refuses (no permission, no space left, a file in a folder's place) as ConfigError."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror or error}") from error


class LocalFolder:
    """A directory. Temporary file, fsync, rename: POSIX makes the last step atomic."""

    def __init__(self, url: str) -> None:
        self.root = Path(url)
        self.url = str(self.root)

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    @contextmanager
    def on_disk(self, name: str) -> Iterator[Path]:
        if not (self.root / name).is_file():
            raise FileNotFoundError(self.root / name)
        yield self.root / name

    def write(self, name: str, data: bytes) -> None:
        with writing(self.url):
            temporary = self._temporary(name)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._publish(temporary, name)

    def upload(self, name: str, source: Path) -> None:
        with writing(self.url):
            temporary = self._temporary(name)
            shutil.move(source, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            self._publish(temporary, name)

    def list(self, prefix: str) -> Iterator[Stored]:
        for folder, _, files in os.walk(self.root / prefix, onerror=_unlisted):
            for file in sorted(files):
                path = Path(folder, file)
                with suppress(FileNotFoundError):  # written, and renamed, this moment
                    yield Stored(path.relative_to(self.root).as_posix(), path.stat().st_size)

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            (self.root / name).unlink(missing_ok=True)

    def _temporary(self, name: str) -> Path:
        folder = (self.root / name).parent
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{TEMPORARY}{uuid.uuid4().hex}"

    def _publish(self, temporary: Path, name: str) -> None:
        target = self.root / name
        temporary.replace(target)
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # the rename itself must survive a power cut
        finally:
            os.close(descriptor)


def _unlisted(error: OSError) -> None:
    """What cannot be listed (a stale handle of NFS, no permission) is not taken for empty: who finds no manifest takes
    all parts for orphans."""
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise ConfigError(f"cannot list {error.filename}: {error.strerror or error}") from error


class S3Folder:
    """A prefix in a bucket. One PUT per file, which S3 makes atomic."""

    def __init__(self, url: str) -> None:
        self.bucket, prefix = s3.split(url)
        self.prefix = prefix.rstrip("/") + "/" if prefix else ""
        self.url = f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def object_url(self, name: str) -> str:
        return f"s3://{self.bucket}/{self.prefix}{name}"

    def read(self, name: str) -> bytes:
        with self._found(name) as url:
            return s3.get(url)

    @contextmanager
    def on_disk(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="radet-read-") as scratch:
            target = Path(scratch, "file")
            with self._found(name) as url:
                s3.download(url, target)
            yield target

    def write(self, name: str, data: bytes) -> None:
        s3.put(self.object_url(name), data)

    def upload(self, name: str, source: Path) -> None:
        with source.open("rb") as file:
            s3.put(self.object_url(name), file)
        source.unlink()

    def list(self, prefix: str) -> Iterator[Stored]:
        for page in s3.pages(self.bucket, self.prefix + prefix):
            for item in page:
                yield Stored(item.key.removeprefix(self.prefix), item.size)

    def delete(self, names: Iterable[str]) -> None:
        s3.delete(self.bucket, [self.prefix + name for name in names])

    @contextmanager
    def _found(self, name: str) -> Iterator[str]:
        """The object's url; that it is not there is FileNotFoundError, as of a local file."""
        try:
            yield self.object_url(name)
        except FetchError as error:
            if error.code == "not_found":
                raise FileNotFoundError(self.object_url(name)) from error
            raise


def open_folder(url: str) -> LocalFolder | S3Folder:
    """The folder that a path or an `s3://` URL names; nothing is created or contacted yet. Raises ConfigError for what
    names none, an empty name among it: of a variable that is not set, it would be the folder one happens to be in."""
    if not url:
        raise ConfigError("an empty name is no output: give a local folder or s3://bucket/prefix, . for this folder")
    if url.startswith("s3://"):
        if not s3.split(url)[0]:
            raise ConfigError(f"{url} names no bucket: write s3://bucket/prefix")
        return S3Folder(url)
    if "://" in url:
        raise ConfigError(f"cannot write to {url}: give a local folder or s3://bucket/prefix")
    return LocalFolder(str(Path(url).expanduser().absolute()))


def require_writable(url: str) -> None:
    """Raises ConfigError or FetchError where nothing can be written: better now than after hours of work."""
    folder = open_folder(url)
    name = f"{TEMPORARY}{uuid.uuid4().hex}"
    folder.write(name, b"")
    folder.delete([name])
