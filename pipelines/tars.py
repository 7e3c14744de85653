"""WebDataset tars as a source: every member with an image suffix, or with none, is an input."""

import itertools
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import s3fs

from pipelines.fetch import MAX_BYTES
from pipelines.items import BATCH_BYTES, Entry, Item, display, id_of, is_image_name
from pipelines.outage import READING, outage
from radet.errors import FetchError, ImageError

Member = tuple[str, bytes | FetchError]

_ABOUT_THE_NEXT = (b"L", b"K", b"x", b"X", b"g")  # types of headers that are read whole, into memory: names, pax
_MAX_HEADER = 1 << 20
_ASKED = 16  # times behind the end of a file, of which an archive that is whole needs a few


class _Header(tarfile.TarInfo):
    """Only a block of zeros ends an archive: tarfile takes a damaged header, and the end of the data, for its end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise
            raise tarfile.ReadError(str(error)) from error
        if header.type in _ABOUT_THE_NEXT and header.size > _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {header.size:,} bytes")
        return header


def read_items(body: dict[str, Any], batch_rows: int) -> Iterator[list[Item]]:
    """The images of one archive, in batches, in one pass from front to back.

    With `ids`, the id is that field of the sample's `.json` member; WebDataset keeps a sample's members together.
    """
    uri_of_file = body["uri_of_file"]
    batch: list[Item] = []
    size = 0
    try:
        with _open(body["file"]) as file, _archive(file) as archive:
            for item in _items(archive, uri_of_file, body["ids"]):
                batch.append(item)
                size += len(item.data or b"")
                if len(batch) == batch_rows or size >= BATCH_BYTES:
                    yield batch
                    batch, size = [], 0
    except (tarfile.TarError, EOFError, *READING) as error:
        entry = Entry(uri_of_file, uri_of_file, "", body["version"])
        broken = ImageError("truncated", f"the archive cannot be read to its end: {error}")
        unread = outage(error)
        batch.append(Item(entry, error=unread or broken, rest=unread is not None))
    if batch:
        yield batch


def _open(location: str) -> IO[bytes]:
    if location.startswith("s3://"):
        return s3fs.S3FileSystem().open(location, "rb", block_size=8 << 20)  # type: ignore[no-any-return]
    return open(location, "rb")  # closed by the caller's `with`


@contextmanager
def _damaged() -> Iterator[None]:
    """What tarfile believes of a damaged header until it stumbles over it (the `ord` of nothing, a size beyond all), as
    an error of its own."""
    try:
        yield
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise tarfile.ReadError(f"a damaged header: {error}") from error


class _Ending:
    """A file that says a few times that it has ended. tarfile passes over what a header announces by reading on, behind
    the end of the file too: where the size is damaged, for years."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._asked = 0

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        if not data:
            self._asked += 1
            if self._asked > _ASKED:
                raise EOFError("it ends before what a header announces")
        return data


def _archive(file: IO[bytes]) -> tarfile.TarFile:
    with _damaged():
        return tarfile.open(fileobj=_Ending(file), mode="r|*", tarinfo=_Header)  # type: ignore[call-overload,no-any-return]


def _next(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    with _damaged():
        return archive.next()


def _items(archive: tarfile.TarFile, uri_of_file: str, ids: str | None) -> Iterator[Item]:
    for sample in _samples(archive, ids):
        given = None if ids is None else _field(sample, ids)
        for name, data in sample:
            if is_image_name(name):
                uri = display(f"{uri_of_file}#{name}")
                entry = Entry(id_of(given, uri), uri, "")
                yield Item(entry, data=data) if isinstance(data, bytes) else Item(entry, error=data)


def _samples(archive: tarfile.TarFile, ids: str | None) -> Iterator[list[Member]]:
    """Members that share an id: names that agree up to the first dot of the base name. Without ids each is alone."""
    if ids is None:
        return ([member] for member in _members(archive) if is_image_name(member[0]))
    return (list(sample) for _, sample in itertools.groupby(_members(archive), lambda member: _key(member[0])))


def _members(archive: tarfile.TarFile) -> Iterator[Member]:
    """Images and `.json`, each with its bytes or with what is wrong with it."""
    while (member := _next(archive)) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # else what was met stays, a kilobyte each
        if not (is_image_name(member.name) or member.name.endswith(".json")):
            continue
        if member.issym() or member.islnk():
            mend = "pack it with tar --dereference --hard-dereference"
            yield member.name, FetchError("not_found", f"a link to {member.linkname} within the archive: {mend}")
        elif member.isfile() and member.size > MAX_BYTES:
            yield member.name, FetchError("too_large_bytes", f"{member.size:,} bytes, over the cap of {MAX_BYTES:,}")
        elif member.isfile():
            with _damaged():
                content = archive.extractfile(member)
                assert content is not None  # a regular file
                data = content.read()
            if len(data) < member.size:
                raise tarfile.ReadError(f"{member.name} is cut short")
            yield member.name, data


def _key(name: str) -> str:
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


def _field(sample: list[Member], name: str) -> Any:
    """What the sample's `.json` says; None where there is none, or none that can be read."""
    found: Any = {}
    for member, data in sample:
        if member.endswith(".json") and isinstance(data, bytes):
            try:
                found = json.loads(data)
            except (ValueError, RecursionError):
                found = {}
    return found.get(name) if isinstance(found, dict) else None
