"""What SRC names, and its inputs, listed lazily.

    a folder, s3://bucket/prefix        the images below it
    *.parquet, or a folder of them      rows with image bytes or uris
    *.tar, or a folder of them          WebDataset archives (also .tar.gz, .tgz)
    *.csv, *.tsv, *.jsonl               a manifest with a uri column
    an image file                       itself

Files with an image suffix or none are inputs; others are counted and left alone. A folder whose first files include
Parquet files or tars is taken for a dataset of those. Several SRCs are read one after another, each as what it is.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from pipelines import parquet
from pipelines.fetch import is_http
from pipelines.items import Entry, Shard, display, is_image_name, named, suffix_of
from pipelines.listing import walk
from pipelines.manifests import first_line, is_manifest, lines, uri_column
from radet.errors import ConfigError

_PEEK = 1000  # files looked at to tell what a folder holds
_LOOKED_INTO = 8  # Parquet files opened to tell which columns hold the images
_TARS = (".tar", ".tar.gz", ".tgz")
_SUFFIXES_TOLD = 100


class Source(Protocol):
    """What can be scored."""

    description: str

    @property
    def ignored(self) -> dict[str, int]:
        """Files that are no inputs, by suffix."""

    def entries(self) -> Iterator[Entry]:
        """Inputs whose versions the listing tells; nothing if the source has shards."""

    def shards(self, size: int) -> Iterator[Shard]:
        """Pieces that a task opens to find the inputs, `size` uris or one container each; nothing if it has entries."""


def open_source(
    src: str | tuple[str, ...],
    *,
    ids: str | None = None,
    column: str | None = None,
    allow_http: bool = False,
    but: str | None = None,
) -> Source:
    """Find out what SRC is, from its name or from the first files below it; a folder `but` in it is left out.

    Raises:
        ConfigError: nothing there or nothing that is read, no readable column, or web addresses without `allow_http`.
    """
    opened = [_open(one, ids=ids, column=column, allow_http=allow_http, but=but) for one in each(src)]
    return opened[0] if len(opened) == 1 else Several(opened)


def each(src: str | tuple[str, ...]) -> tuple[str, ...]:
    """SRC's names: it is one, or several."""
    return (src,) if isinstance(src, str) else src


def _open(src: str, *, ids: str | None, column: str | None, allow_http: bool, but: str | None) -> Source:
    name = src.lower().rstrip("/")
    if is_http(src):
        raise ConfigError(f"{src} is one page: put web addresses into a .csv or .jsonl manifest with a uri column")
    if is_manifest(name):
        return Manifest(src, ids=ids, column=column, allow_http=allow_http)
    first = list(itertools.islice(walk(src, but=but), _PEEK))
    if not first:
        raise ConfigError(f"{src} is empty")
    for suffixes, kind in (((".parquet",), "parquet"), (_TARS, "tar")):
        if any(entry.location.lower().endswith(suffixes) for entry in first):
            return Containers(src, but, suffixes, kind, ids=ids, column=column, allow_http=allow_http)
    if ids is not None or column is not None:
        raise ConfigError(f"{src} is a folder of images: --ids and --column go with Parquet, tars or a manifest")
    if len(first) < _PEEK and not any(is_image_name(entry.location) for entry in first):
        found = ", ".join(sorted({suffix_of(entry.uri) for entry in first})[:10])
        raise ConfigError(
            f"nothing in {src} is named like a picture, a Parquet file or a tar, there is only {found}; "
            f"a list of uris is a .csv, .tsv or .jsonl"
        )
    return Files(src, but)


class Files:
    """The images below a folder or an S3 prefix."""

    def __init__(self, root: str, but: str | None) -> None:
        self.root = root
        self._but = but
        self.description = f"images under {display(root)}"
        self.ignored: dict[str, int] = {}

    def entries(self) -> Iterator[Entry]:
        for entry in walk(self.root, but=self._but):
            if is_image_name(entry.location):
                yield entry
            else:
                _count(self.ignored, entry)

    def shards(self, size: int) -> Iterator[Shard]:  # noqa: ARG002
        return iter(())


class Manifest:
    """A CSV, TSV or JSON Lines file, one input a line. Relative paths start at the manifest's folder."""

    def __init__(self, path: str, *, ids: str | None, column: str | None, allow_http: bool) -> None:
        self.path = path
        self.description = f"uris in {display(path)}"
        self.ignored: dict[str, int] = {}
        self._ids = ids
        first = first_line(path)
        self._column = uri_column(path, first, column)
        if ids is not None and ids not in first:
            raise ConfigError(f"{path} has no column {ids!r}: it has {', '.join(map(repr, first))}")
        if is_http(str(first[self._column])) and not allow_http:
            raise ConfigError(f"{path} lists web addresses: allow reading them with --allow-http")

    def entries(self) -> Iterator[Entry]:
        return iter(())

    def shards(self, size: int) -> Iterator[Shard]:
        rows = (self._entry(number, row) for number, row in lines(self.path))
        while batch := list(itertools.islice(rows, size)):
            yield Shard("uris", {"entries": batch})

    def _entry(self, number: int, row: dict[str, Any]) -> Entry:
        given = None if self._ids is None else row.get(self._ids)
        return named(str(row.get(self._column) or ""), given, self.path, display(f"{self.path}#{number}"))


class Containers:
    """Parquet files or tars: inputs with their bytes inside (or, in Parquet, uris)."""

    def __init__(
        self,
        root: str,
        but: str | None,
        suffixes: tuple[str, ...],
        kind: str,
        *,
        ids: str | None,
        column: str | None,
        allow_http: bool,
    ) -> None:
        self.root = root
        self._but = but
        self.description = f"{'Parquet rows' if kind == 'parquet' else 'WebDataset tars'} under {display(root)}"
        self.ignored: dict[str, int] = {}
        self._suffixes = suffixes
        self._kind = kind
        self._options: dict[str, Any] = {"ids": ids}
        if kind == "parquet":
            first, chosen = self._columns(column)
            self._options |= chosen | {"column": column}
            if chosen["bytes"] is None and not allow_http:
                parquet.refuse_http(first, chosen["uri"])
        elif column is not None:
            raise ConfigError(f"{root} holds tars: --column goes with Parquet or a manifest")

    def entries(self) -> Iterator[Entry]:
        return iter(())

    def shards(self, size: int) -> Iterator[Shard]:
        for file in self._files():
            if _is_folder(file):
                yield Shard("uris", {"entries": [file]})
                continue
            body = self._options | {"file": file.location, "uri_of_file": file.uri, "version": file.version}
            if self._kind == "tar":
                yield Shard("tar", body)
            elif self._options["bytes"]:
                yield from parquet.row_groups(body)
            else:
                yield from parquet.uris(body, size)

    def _columns(self, column: str | None) -> tuple[str, dict[str, str | None]]:
        """A file, and the columns to read: those of most of the first files; image bytes, where as many have uris.

        So a file of another kind decides nothing, even if it is listed first.
        """
        found: dict[tuple[tuple[str, str | None], ...], list[str]] = {}
        refusal = ConfigError(f"{self.root} holds no Parquet file that can be read")
        files = (file.location for file in self._files() if not _is_folder(file))
        for location in itertools.islice(filter(parquet.is_parquet, files), _LOOKED_INTO):
            try:
                chosen = parquet.choose_columns(location, ids=self._options["ids"], column=column)
            except ConfigError as error:
                refusal = error
            else:
                found.setdefault(tuple(chosen.items()), []).append(location)
        if not found:
            raise refusal
        most = max(found, key=lambda chosen: (len(found[chosen]), dict(chosen)["bytes"] is not None))
        return found[most][0], dict(most)

    def _files(self) -> Iterator[Entry]:
        self.ignored.clear()
        for entry in walk(self.root, but=self._but):
            if _is_folder(entry) or entry.location.lower().endswith(self._suffixes):
                yield entry
            else:
                _count(self.ignored, entry)


class Several:
    """Sources, one after another."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self.description = f"{sources[0].description} and {len(sources) - 1:,} more"

    @property
    def ignored(self) -> dict[str, int]:
        return dict(sum((Counter(source.ignored) for source in self._sources), Counter()))

    def entries(self) -> Iterator[Entry]:
        return itertools.chain.from_iterable(source.entries() for source in self._sources)

    def shards(self, size: int) -> Iterator[Shard]:
        return itertools.chain.from_iterable(source.shards(size) for source in self._sources)


def _is_folder(entry: Entry) -> bool:
    """One that could not be listed."""
    return entry.location.endswith("/")


def _count(ignored: dict[str, int], entry: Entry) -> None:
    suffix = suffix_of(entry.uri)
    if suffix not in ignored and len(ignored) >= _SUFFIXES_TOLD:  # numbers, say, of which each file has its own
        suffix = "others"
    ignored[suffix] = ignored.get(suffix, 0) + 1
