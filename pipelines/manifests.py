"""Lines of a CSV, TSV or JSON Lines file: the one way in which manifests of inputs, labels and groups are read."""

import csv
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import s3fs

from pipelines.items import URI_COLUMNS, choose_column, usual_name
from pipelines.outage import READING
from radet.errors import ConfigError

_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
_TABLES = (".csv", ".tsv")
_UTF16 = ("\udcff\udcfe", "\udcfe\udcff")  # its first two bytes, as `_open` reads them

csv.field_size_limit(16 << 20)  # csv's own 128 KiB refuse a page's text beside a picture's address


def is_manifest(path: str) -> bool:
    return path.lower().endswith(_SUFFIXES)


def lines(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and columns, by name; no columns for a line that cannot be read.

    UTF-8, with or without a byte order mark; bytes that are not stand as surrogates, with which a file of that name is
    found (`pipelines.items.display` writes them as text). Raises ConfigError where there is no such file, or no text,
    or where a quote of a .csv is out of place.
    """
    with _open(path) as file:
        if file.read(2) in _UTF16:
            raise ConfigError(f"{path} is UTF-16: save it as UTF-8")
        file.seek(0)
        if _is_table(path):
            yield from _named(_tsv(file) if path.lower().endswith(".tsv") else _csv(path, file))
        else:
            yield from _json(file)


def first_line(path: str) -> dict[str, Any]:
    """Of those that can be read. Raises ConfigError as `lines`, and where there is none."""
    found = next((row for _, row in lines(path) if row), None)
    if found is None:
        raise ConfigError(f"{path} has no rows")
    return found


def uri_column(path: str, first: dict[str, Any], asked: str | None = None) -> str:
    """The column that names the pictures, `first` being a row.

    The only column of a table is not taken for it, as elsewhere: where no line names the columns it is a picture.

    Raises:
        ConfigError
    """
    if asked is None and _is_table(path) and usual_name(first, URI_COLUMNS) is None:
        raise ConfigError(
            f"the first line of {path} must name the columns, one of them `uri`; it is {', '.join(first)!r}: "
            f"put such a line there, or tell `radet score` with --column which of these holds the uris"
        )
    return choose_column(path, list(first), asked, URI_COLUMNS)


def _is_table(path: str) -> bool:
    return path.lower().endswith(_TABLES)


def _named(rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """By the first row's names; a row that is too short has None for the rest."""
    full = ((number, fields) for number, fields in rows if fields)
    _, names = next(full, (0, []))
    for number, fields in full:
        yield number, dict(itertools.zip_longest(names, fields[: len(names)]))


def _csv(path: str, file: TextIO) -> Iterator[tuple[int, list[str]]]:
    header = next((line for line in file if line.strip()), "")
    file.seek(0)
    bare = re.sub('"[^"]*"', "", header)
    delimiter = ";" if ";" in bare and "," not in bare else ","  # as Excel writes it where a comma is a decimal point
    # Strict, else a stray quote takes all lines up to the next one with it.
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    begun = 1
    try:
        for fields in reader:
            yield reader.line_num, fields
            begun = reader.line_num + 1
    except csv.Error as error:
        raise ConfigError(f"{path}, line {begun}: {error}; is a quote left open?") from error


def _tsv(file: TextIO) -> Iterator[tuple[int, list[str]]]:
    """Each line by itself: who writes these seldom quotes, and a caption may begin with a quote and never end it."""
    for number, line in enumerate(file, 1):
        bare = line.rstrip("\r\n")
        try:
            (fields,) = csv.reader([bare], delimiter="\t", strict=True)
        except csv.Error:
            fields = bare.split("\t")
        yield number, fields


def _json(file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = {}
            yield number, row if isinstance(row, dict) else {}


def _open(path: str) -> TextIO:
    how = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": ""}
    try:
        if path.startswith("s3://"):
            return s3fs.S3FileSystem().open(path, "r", **how)  # type: ignore[no-any-return]
        return Path(path).expanduser().open("r", **how)  # type: ignore[no-any-return,call-overload]
    except (ValueError, *READING) as error:  # AWS_ENDPOINT_URL without http://, say
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
