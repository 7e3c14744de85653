"""A picture inside a Parquet file as a location of its own, for what jumps about in a corpus: training, evaluation.

    parquet://<version>/<column>/<row group>/<row in it>!s3://bucket/train-00000.parquet

Parquet can only be read by whole row groups. The first reader of one on a node lays its pictures down in the
node's cache as an Arrow file; from then on every process maps that into memory.
"""

import hashlib
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

import pyarrow as pa

from pipelines.node_cache import locked, node_cache
from pipelines.outage import READING, outage
from radet.errors import ConfigError, FetchError

_SCHEME = "parquet://"
_MAPPED = 256  # row groups that a process keeps open


class Cell(NamedTuple):
    """One row of a column of images: binary, or a struct with a binary field `bytes`."""

    file: str
    version: str  # of the file, when it was listed
    column: str
    group: int
    row: int  # in the group

    @property
    def location(self) -> str:
        version, column = (quote(text, safe="") for text in (self.version, self.column))
        return f"{_SCHEME}{version}/{column}/{self.group}/{self.row}!{self.file}"

    @classmethod
    def parse(cls, location: str) -> "Cell | None":
        """None for a location of another kind. Raises FetchError for one that is not as `location` writes it."""
        if not location.startswith(_SCHEME):
            return None
        place, _, file = location.removeprefix(_SCHEME).partition("!")
        try:
            version, column, group, row = place.split("/")
            return cls(file, unquote(version), unquote(column), int(group), int(row))
        except ValueError:
            raise FetchError("not_found", f"{location} names no row of a Parquet file") from None

    def read(self) -> bytes:
        """The picture's file; b"" for null. Raises FetchError, and ConfigError for a disk without room."""
        cells = _mapped(self.file, self.version, self.column, self.group)
        if not 0 <= self.row < len(cells):
            raise FetchError("not_found", f"{self.file} has no row {self.row} in row group {self.group}")
        return cells[self.row].as_py() or b""


@lru_cache(maxsize=_MAPPED)
def _mapped(file: str, version: str, column: str, group: int) -> pa.Array:
    name = hashlib.sha256("\0".join((file, version, column, str(group))).encode()).hexdigest()[:32]
    folder = node_cache() / "cells"
    folder.mkdir(exist_ok=True)
    target = folder / f"{name}.arrow"
    with locked(target.with_suffix(".lock")):
        if not target.exists():
            _lay_down(file, column, group, target.with_suffix(".tmp"))
            os.replace(target.with_suffix(".tmp"), target)
    return pa.ipc.open_file(pa.memory_map(str(target))).get_batch(0).column(0)


def _lay_down(file: str, column: str, group: int, target: Path) -> None:
    from pipelines import parquet  # noqa: PLC0415 - which needs the fetcher, which reads cells

    try:
        with parquet.open_file(file) as opened:
            cells = opened.read_row_group(group, columns=[column]).column(0).combine_chunks()
        if pa.types.is_struct(cells.type):
            cells = cells.field("bytes")
        cells = cells.cast(pa.large_binary())
    except (pa.ArrowException, LookupError, OverflowError, ValueError, *READING) as error:
        broken = FetchError("not_found", f"row group {group} of {file} has no pictures {column!r} to be read: {error}")
        raise outage(error) or broken from error
    schema = pa.schema([("data", cells.type)])
    try:
        with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(pa.record_batch([cells], names=["data"]))
    except OSError as error:
        target.unlink(missing_ok=True)
        mend = "RADET_CACHE names a folder with room for a copy of the pictures in Parquet files"
        raise ConfigError(f"{target.parent} cannot be written to: {error}; {mend}") from error
