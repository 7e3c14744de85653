"""An input on its way: where it comes from and what is known of it."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

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

#: Column names taken for the URI of an image, in order of preference.
URI_COLUMNS = ("uri", "url", "image_url", "path", "image_path", "file_path", "file", "filename", "file_name", "image")


class Entry(NamedTuple):
    """An input that is named but not yet read."""

    id: str
    uri: str  # as a user would write it
    location: str  # as this machine reads it; can hold what is not valid UTF-8
    version: str | None = None
    size: int | None = None

    @property
    def key(self) -> bytes:
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
    `parquet`: one row group. `tar`: one archive.
    """

    kind: str
    body: dict[str, Any]

    def entries(self) -> list[Entry]:
        """Of `files` and `uris`."""
        return [Entry(*fields) for fields in self.body["entries"]]

    @property
    def inputs(self) -> int | None:
        """How many inputs are still to be met when it is read; None where nobody knows before."""
        if self.kind == "tar":
            return None
        if self.kind == "parquet":
            return int(self.body["rows"])
        return len(self.body["entries"]) if self.kind == "uris" else 0

    @property
    def names_uris(self) -> bool:
        """Whether its inputs still have to be looked at and fetched."""
        return self.kind == "uris" or (self.kind == "parquet" and self.body["bytes"] is None)

    @property
    def container(self) -> tuple[str, str | None]:
        """Name and version of the thing that holds the bytes; no version where each input has one of its own."""
        if self.kind in ("files", "uris") or self.names_uris:
            return "", None
        return f"{self.body['uri_of_file']}#{self.body.get('group', '')}", self.body["version"]


def display(location: str) -> str:
    """A path as text that every format can hold: bytes that are not UTF-8 are written as escapes."""
    try:
        data = location.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        data = location.encode("utf-8", "surrogatepass")
    return data.decode("utf-8", "backslashreplace")


def version_digest(version: str | None) -> bytes | None:
    return None if version is None else digest(version)


def has_image_suffix(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def is_image_name(name: str) -> bool:
    """An image suffix, or none at all: scraped files are often named by a hash alone."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES | {""}


def resolve(uri: str, manifest: str) -> str:
    """Where a uri in a manifest or a Parquet file is read from: relative paths start at that file's folder."""
    if uri.startswith("file://"):
        return unquote(urlsplit(uri).path)
    if "://" in uri or uri.startswith("/"):
        return uri
    if manifest.startswith("s3://"):
        return f"{manifest.rpartition('/')[0]}/{uri}"
    return str(Path(manifest).expanduser().absolute().parent / uri)


def choose_column(path: str, names: list[str], asked: str | None, usual: tuple[str, ...]) -> str:
    """The column that holds the images or their uris: the one asked for, the only one, or the first usual name.

    Raises:
        ConfigError: none or several would do.
    """
    if asked is not None and asked in names:
        return asked
    found = [name for name in usual if name in names]
    if asked is None and (found or len(names) == 1):
        return (found or names)[0]
    wrong = f"has no column {asked!r}" if asked is not None else f"has no column named {', '.join(usual[:4])} ..."
    raise ConfigError(f"{path} {wrong}: name one of {', '.join(map(repr, names)) or 'none'} with --column")
