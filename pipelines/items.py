"""An input on its way: where it comes from and what is known of it."""

import json
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

from pipelines.index import digest
from radet.errors import ConfigError, FetchError, ImageError

IMAGE_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".png",
        ".apng",
        ".webp",
        ".gif",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".ico",
    }
    | {".avif", ".heic", ".heif", ".jp2", ".jxl", ".svg"}
)

BATCH_BYTES = 64 << 20  # of a container's inputs that are in memory together: where they are large, a batch has fewer

_FILE_URL = re.compile(r"file:(?://[^/]*)?+(/[^?#]*)", re.IGNORECASE)  # file:///a, file://host/a, file:/a
_WEB = re.compile(r"\s*https?://", re.IGNORECASE)
_PLAIN_SUFFIX = re.compile(r"\.[a-z0-9]+")

#: Column names taken for the URI of an image, in order of preference.
URI_COLUMNS = ("uri", "url", "image_url", "path", "image_path", "file_path", "file", "filename", "file_name", "image")


class Entry(NamedTuple):
    """An input that is named but not yet read."""

    id: str
    uri: str  # where it lies, as text; a name, of bytes that have one
    location: str  # as this machine reads it; can hold what is not valid UTF-8
    version: str | None = None
    size: int | None = None

    @property
    def key(self) -> bytes:
        """Its identity from run to run, 16 bytes."""
        return digest(self.id, self.uri)


@dataclass(slots=True)
class Item:
    """An entry with its bytes, or with the error that took their place; neither while it is still to be fetched.

    `rest`: it stands for what could not be had of a container, which is opened again in the next run.
    """

    entry: Entry
    data: bytes | None = None
    error: FetchError | ImageError | None = None
    rest: bool = False


class Shard(NamedTuple):
    """A piece of the source that one task loads. Travels as JSON.

    `files`: entries with known versions, already admitted. `uris`: entries to be looked at first.
    `parquet`: one row group. `tar`: one archive. `unread`: what stands for a part of the source that could not be read.
    """

    kind: str
    body: dict[str, Any]

    @classmethod
    def unread(cls, item: Item) -> "Shard":
        """Of an item that has an error."""
        error = item.error
        assert error is not None
        transient = isinstance(error, FetchError) and error.transient
        return cls("unread", {"entries": [item.entry], "error": [error.code, error.message, transient]})

    def entries(self) -> list[Entry]:
        """Of `files`, `uris` and `unread`."""
        return [Entry(*fields) for fields in self.body["entries"]]

    def items(self) -> list[Item]:
        """The same, on their way."""
        error = None
        if self.kind == "unread":
            code, message, transient = self.body["error"]
            broken = code in ImageError.codes
            error = ImageError(code, message) if broken else FetchError(code, message, transient=transient)
        return [Item(entry, error=error) for entry in self.entries()]

    @property
    def inputs(self) -> int | None:
        """How many inputs are still to be met when it is read; None where nobody knows before."""
        if self.kind == "tar":
            return None
        if self.kind == "parquet":
            return int(self.body["rows"])
        return 0 if self.kind == "files" else len(self.body["entries"])

    @property
    def container(self) -> tuple[str, str | None]:
        """Name and version of the thing that holds the bytes; no version where each input has one of its own.

        The name tells how it is read, too: with other columns or ids it holds other inputs.
        """
        if self.kind not in ("parquet", "tar"):
            return "", None
        how = (self.body.get(part) for part in ("uri_of_file", "group", "ids", "column", "bytes", "uri"))
        return json.dumps(list(how)), self.body["version"]


def display(location: str) -> str:
    """A path as text that every format can hold: bytes that are not UTF-8 are written as escapes."""
    try:
        data = location.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        data = location.encode("utf-8", "surrogatepass")
    return data.decode("utf-8", "backslashreplace")


def version_digest(version: str | None) -> bytes | None:
    """A version as the ledger keeps it, 16 bytes; None where the listing tells none."""
    return None if version is None else digest(version)


def suffix_of(name: str) -> str:
    """In lower case, without what downloaders leave behind it: .jpg of `a.JPG`, `a.jpg?w=64` and `a.jpg:large`. What
    macOS lays beside pictures is none: ._ of `._a.jpg`, and .ds_store."""
    base = name.rpartition("/")[2].partition("?")[0].lower()
    for kind in ("._", ".ds_store"):
        if base.startswith(kind):
            return kind
    suffix = PurePosixPath(base).suffix
    plain = _PLAIN_SUFFIX.match(suffix)
    return suffix if plain is None else plain[0]


def has_image_suffix(name: str) -> bool:
    return suffix_of(name) in IMAGE_SUFFIXES


def is_image_name(name: str) -> bool:
    """An image suffix, or none at all: scraped files are often named by a hash alone."""
    return not (suffix := suffix_of(name)) or suffix in IMAGE_SUFFIXES


def id_of(given: Any, uri: str) -> str:
    """What an input is called: as its source names it, or by its uri where there is no name."""
    return uri if given is None or given == "" else display(str(given))


def named(written: str, given: Any, manifest: str, place: str) -> Entry:
    """An input by its uri in a manifest or a Parquet file, and the id beside it; by its row's place where it has none.

    Its own id is as written there, its uri where it lies: `a.jpg` beside another manifest is another input.
    """
    if not written:  # a row of its own, which says so
        return Entry(id_of(given, place), place, "")
    location = resolve(written, manifest)
    return Entry(id_of(given, display(written)), display(location), location)


def resolve(uri: str, manifest: str) -> str:
    """Where a uri in a manifest or a Parquet file is read from: relative paths start at that file's folder."""
    if (of_file := _FILE_URL.match(uri)) is not None:
        return unquote(of_file[1], errors="surrogateescape")
    if _WEB.match(uri) is not None:
        return uri.strip()
    if "://" in uri or uri.startswith("/"):
        return uri
    if manifest.startswith("s3://"):
        folder = manifest.rpartition("/")[0]
        if not {".", ".."} & set(uri.split("/")):
            return f"{folder}/{uri}"
        bucket, _, key = folder.removeprefix("s3://").partition("/")  # S3 knows no such folders, which `find` writes
        return f"s3://{bucket}{posixpath.normpath(posixpath.join('/', key, uri))}"
    return str(Path(manifest).expanduser().absolute().parent / uri)


def usual_name(names: Iterable[str], usual: tuple[str, ...]) -> str | None:
    """The first of the usual names that is there; where none is as it is written, the first in other capitals."""
    written = {name: name for name in names}
    capitals = {name.lower(): name for name in reversed(written)}
    return next((there[name] for there in (written, capitals) for name in usual if name in there), None)


def choose_column(path: str, names: list[str], asked: str | None, usual: tuple[str, ...]) -> str:
    """The column that holds the images or their uris: the one asked for, the only one, or the first usual name.

    Raises:
        ConfigError: none or several would do.
    """
    if asked is not None and asked in names:
        return asked
    if asked is None and (found := usual_name(names, usual) or (names[0] if len(names) == 1 else None)) is not None:
        return found
    there = ", ".join(map(repr, names)) or "none"
    if asked is not None:
        raise ConfigError(f"{path} has no column {asked!r}: name one of {there} with --column")
    raise ConfigError(
        f"{path} has no column named {', '.join(usual[:4])} ...: call one of {there} so, or name it to `radet score` "
        f"with --column"
    )
