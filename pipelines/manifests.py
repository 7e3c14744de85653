"""Lines of a CSV, TSV or JSON Lines file: the one way in which manifests of inputs, labels and groups are read."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import s3fs

from pipelines.outage import READING
from radet.errors import ConfigError

_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
_TABLES = {".csv": ",", ".tsv": "\t"}
_UTF16 = ("\udcff\udcfe", "\udcfe\udcff")  # its first two bytes, as `_open` reads them

csv.field_size_limit(16 << 20)  # csv's own 128 KiB refuse a page's text beside a picture's address


def is_manifest(path: str) -> bool:
    return path.lower().endswith(_SUFFIXES)


def lines(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and columns, by name; no columns for a line that cannot be read.

    UTF-8, with or without a byte order mark; bytes that are not stand as surrogates, with which a file of that name is
    found (`pipelines.items.display` writes them as text). Raises ConfigError where there is no such file, or no text.
    """
    separator = _TABLES.get(path[-4:].lower())
    with _open(path) as file:
        if file.read(2) in _UTF16:
            raise ConfigError(f"{path} is UTF-16: save it as UTF-8")
        file.seek(0)
        yield from _json(file) if separator is None else _table(path, file, separator)


def first_line(path: str) -> dict[str, Any]:
    """Of those that can be read. Raises ConfigError as `lines`, and where there is none."""
    found = next((row for _, row in lines(path) if row), None)
    if found is None:
        raise ConfigError(f"{path} has no rows")
    return found


def _table(path: str, file: TextIO, separator: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(file, delimiter=separator)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise ConfigError(f"{path}, line {reader.line_num}: {error}; is a quote left open?") from error


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
    except READING as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
