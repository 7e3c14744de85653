"""Parquet as a source: one row an image, as bytes or as a uri."""

import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import s3fs

from pipelines.fetch import is_http
from pipelines.items import BATCH_BYTES, URI_COLUMNS, Entry, Item, Shard, choose_column, display, id_of, named
from pipelines.outage import READING, outage
from radet.errors import ConfigError, FetchError, ImageError

_BYTES_COLUMNS = ("image", "bytes", "image_bytes", "content", "data", "img", "jpg", "png")
_PIECE = 8 << 20  # of a column, read at once
_AHEAD = 1 << 20
_FAILURES = (ImageError, pa.ArrowException, *READING)


def open_file(location: str) -> pq.ParquetFile:
    """A local file or an S3 object, read by ranges: each column piece by piece, however large its row groups are."""
    # Columns are read by turns, and what S3 sends ahead of one is thrown away for the next: hence little of that.
    where = (
        s3fs.S3FileSystem().open(location, "rb", block_size=_AHEAD)
        if location.startswith("s3://")
        else pa.OSFile(os.fsencode(location))  # whose name may be no UTF-8
    )
    return pq.ParquetFile(where, buffer_size=_PIECE, pre_buffer=False)


def is_parquet(location: str) -> bool:
    """False where its contents are something else: a row with a status, wherever it stands."""
    try:
        open_file(location).close()
    except (pa.ArrowException, *READING) as error:
        return outage(error) is not None
    return True


def choose_columns(location: str, *, ids: str | None, column: str | None) -> dict[str, str | None]:
    """The columns to read: `bytes` (null where there are only uris) and `uri` (null where there is none).

    Image bytes may be a binary column or a struct with a binary field `bytes`, as Hugging Face datasets write it.

    Raises:
        ConfigError
    """
    try:
        with open_file(location) as file:
            schema = file.schema_arrow
    except (pa.ArrowException, *READING) as error:
        raise ConfigError(f"{location}: {outage(error) or error}") from error
    if ids is not None and ids not in schema.names:
        raise ConfigError(f"{location} has no column {ids!r}: it has {', '.join(map(repr, schema.names))}")
    binary = [field.name for field in schema if _holds_bytes(field.type)]
    text = [field.name for field in schema if _is_text(field.type)]
    if column in schema.names and column not in binary + text:
        kind = schema.types[schema.names.index(column)]
        raise ConfigError(f"{location} has {kind} in its column {column!r}, where image bytes or uris should be")
    if column in text or (column is None and not binary):
        chosen: dict[str, str | None] = {"bytes": None, "uri": choose_column(location, text, column, URI_COLUMNS)}
    else:
        # Where a column is asked for, there may be several of pictures: a row's uri would call them all the same.
        uri = next((name for name in URI_COLUMNS if name in text), None) if column is None else None
        chosen = {"bytes": choose_column(location, binary, column, _BYTES_COLUMNS), "uri": uri}
    if (wrong := _misfit(schema, chosen | {"ids": ids})) is not None:
        raise ConfigError(f"{location} {wrong}")
    return chosen


def refuse_http(location: str, column: str | None) -> None:
    """Raises ConfigError if the first uri is a web address."""
    try:
        with open_file(location) as file:
            first = next(file.iter_batches(batch_size=1, columns=[column]), None)
    except (pa.ArrowException, *READING):
        return  # its row will say why
    if first is not None and first.num_rows and is_http(str(value_of(first.column(0)[0]))):
        raise ConfigError(f"{location} lists web addresses: allow reading them with --allow-http")


def value_of(scalar: pa.Scalar) -> Any:
    """As Python has it; text that is not UTF-8, which some writers leave, with surrogates, as file names have them."""
    if isinstance(scalar, pa.StringScalar):
        buffer = scalar.as_buffer()
        return None if buffer is None else buffer.to_pybytes().decode("utf-8", "surrogateescape")
    return scalar.as_py()


def row_groups(body: dict[str, Any]) -> Iterator[Shard]:
    """The row groups of a file with image bytes; if it cannot be read, a shard that says why."""
    try:
        with _open_as(body) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    except _FAILURES as error:
        yield Shard.unread(_unread(body, 0, error))
        return
    first = 0
    for group, size in enumerate(sizes):
        yield Shard("parquet", body | {"group": group, "first_row": first, "rows": size})
        first += size


def uris(body: dict[str, Any], size: int) -> Iterator[Shard]:
    """The uris of a file, up to `size` a shard; for what cannot be read of it, a shard that says why."""
    first = 0
    try:
        with _open_as(body) as file:
            for group in range(file.num_row_groups):
                yield from _uris(file, group, first, body, size)
                first += file.metadata.row_group(group).num_rows
    except _FAILURES as error:
        yield Shard.unread(_unread(body, first, error))


def _uris(file: pq.ParquetFile, group: int, row: int, body: dict[str, Any], size: int) -> Iterator[Shard]:
    try:
        for batch in file.iter_batches(size, row_groups=[group], columns=_columns(body)):
            pairs = zip(*(_values(batch, body[kind]) for kind in ("uri", "ids")), strict=True)
            entries = [
                named(str(uri or ""), given, body["file"], _place(body, row + offset))
                for offset, (uri, given) in enumerate(pairs)
            ]
            yield Shard("uris", {"entries": entries})
            row += batch.num_rows
    except _FAILURES as error:
        yield Shard.unread(_unread(body, row, error))


def read_items(body: dict[str, Any], batch_rows: int) -> Iterator[list[Item]]:
    """The rows of one row group with their bytes, in batches."""
    row = body["first_row"]
    try:
        with _open_as(body) as file:
            group = file.metadata.row_group(body["group"])
            fit = max(1, BATCH_BYTES * group.num_rows // max(1, group.total_byte_size))
            for batch in file.iter_batches(min(batch_rows, fit), row_groups=[body["group"]], columns=_columns(body)):
                values = zip(*(_values(batch, body[kind]) for kind in ("bytes", "uri", "ids")), strict=True)
                yield [_item(_place(body, row + offset), *fields) for offset, fields in enumerate(values)]
                row += batch.num_rows
    except _FAILURES as error:
        yield [_unread(body, row, error)]


def _item(place: str, data: Any, uri: Any, given: Any) -> Item:
    """The place makes it an input of its own: a uri beside bytes is but a name, which other rows may have too."""
    entry = Entry(id_of(given, place), display(str(uri)) if uri else place, "")
    if not isinstance(data, dict):
        return Item(entry, data=data or b"")
    if data["bytes"] is None and data.get("path"):
        why = f"the row has no bytes but the path {data['path']!r}: write the dataset with its pictures embedded"
        return Item(entry, error=FetchError("not_found", why))
    return Item(entry, data=data["bytes"] or b"")


def _unread(body: dict[str, Any], row: int, error: Exception) -> Item:
    place, lost = _place(body, row), outage(error)
    broken = ImageError("corrupt", f"the Parquet file cannot be read from row {row} on: {error}")
    return Item(Entry(place, place, "", body["version"]), error=lost or broken, rest=lost is not None)


def _place(body: dict[str, Any], row: int) -> str:
    return f"{body['uri_of_file']}#{row}" + (f":{body['column']}" if body["column"] else "")


def _columns(body: dict[str, Any]) -> list[str]:
    return [name for name in dict.fromkeys((body["bytes"], body["uri"], body["ids"])) if name]


def _values(batch: pa.RecordBatch, column: str | None) -> list[Any]:
    if column is None or batch.schema.names.count(column) != 1:
        return [None] * batch.num_rows
    return [value_of(scalar) for scalar in batch.column(column)]


def _open_as(body: dict[str, Any]) -> pq.ParquetFile:
    """A file that has the columns of its source. Raises ImageError where it has not."""
    file = open_file(body["file"])
    if (wrong := _misfit(file.schema_arrow, body)) is not None:
        file.close()
        raise ImageError("corrupt", f"the file {wrong}")
    return file


def _misfit(schema: pa.Schema, body: dict[str, Any]) -> str | None:
    """What is wrong with a file's columns of pictures and ids; a uri beside image bytes may be missing."""
    pictures = body["bytes"] or body["uri"]
    for name in (pictures, body["ids"]):
        if name is not None and (count := schema.names.count(name)) != 1:
            return f"has {'no column' if count == 0 else 'more than one column'} {name!r}"
    kind = schema.field(pictures).type
    if pa.types.is_null(kind) or (_holds_bytes(kind) if body["bytes"] else _is_text(kind)):
        return None
    return f"has {kind} in its column {pictures!r}, where {'image bytes' if body['bytes'] else 'uris'} should be"


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _holds_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    if types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))
