"""Parquet as a source: one row an image, as bytes or as a uri."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import s3fs

from pipelines.fetch import is_http
from pipelines.items import URI_COLUMNS, Entry, Item, choose_column, display, resolve
from pipelines.outage import READING, outage
from radet.errors import ConfigError, ImageError

_BYTES_COLUMNS = ("image", "bytes", "image_bytes", "content", "data", "img", "jpg", "png")


def open_file(location: str) -> pq.ParquetFile:
    """A local file or an S3 object, read by ranges."""
    return pq.ParquetFile(s3fs.S3FileSystem().open(location, "rb") if location.startswith("s3://") else location)


def is_readable(location: str) -> bool:
    """Whether it is a Parquet file at all; one that is not is a row with a status, wherever it stands."""
    try:
        open_file(location).close()
    except (pa.ArrowException, *READING) as error:
        if (unread := outage(error)) is not None:
            raise ConfigError(f"{location}: {unread}") from error
        return False
    return True


def choose_columns(location: str, *, ids: str | None, column: str | None) -> dict[str, str | None]:
    """The columns to read: `bytes` (null where there are only uris) and `uri` (null where there is none).

    Image bytes may be a binary column or a struct with a binary field `bytes`, as Hugging Face datasets write it.

    Raises:
        ConfigError
    """
    with open_file(location) as file:
        schema = file.schema_arrow
    if ids is not None and ids not in schema.names:
        raise ConfigError(f"{location} has no column {ids!r}: it has {', '.join(map(repr, schema.names))}")
    binary = [field.name for field in schema if _holds_bytes(field.type)]
    text = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    uri = next((name for name in URI_COLUMNS if name in text and name != column), None)
    if column in text or (column is None and not binary):
        return {"bytes": None, "uri": choose_column(location, text, column, URI_COLUMNS)}
    return {"bytes": choose_column(location, binary, column, _BYTES_COLUMNS), "uri": uri}


def refuse_http(location: str, column: str | None) -> None:
    """Raises ConfigError if the first uri is a web address."""
    with open_file(location) as file:
        first = next(file.iter_batches(batch_size=1, columns=[column]), None)
    if first is not None and first.num_rows and is_http(str(value_of(first.column(0)[0]))):
        raise ConfigError(f"{location} lists web addresses: allow reading them with --allow-http")


def value_of(scalar: pa.Scalar) -> Any:
    """As Python has it; text that is not UTF-8, which some writers leave, with surrogates, as file names have them."""
    if isinstance(scalar, pa.StringScalar | pa.LargeStringScalar):
        buffer = scalar.as_buffer()
        return None if buffer is None else buffer.to_pybytes().decode("utf-8", "surrogateescape")
    return scalar.as_py()


def row_groups(location: str) -> Iterator[dict[str, int]]:
    """Where each row group starts, and its rows; one for a file that cannot be read, so that reading it says why."""
    try:
        with open_file(location) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    except (pa.ArrowException, *READING):
        sizes = [0]
    first = 0
    for group, size in enumerate(sizes):
        yield {"group": group, "first_row": first, "rows": size}
        first += size


def read_items(body: dict[str, Any], batch_rows: int) -> Iterator[list[Item]]:
    """The rows of one row group, in batches."""
    location, uri_of_file = body["file"], body["uri_of_file"]
    columns = [name for name in dict.fromkeys((body["bytes"], body["uri"], body["ids"])) if name]
    row = body["first_row"]
    try:
        with open_file(location) as file:
            for batch in file.iter_batches(batch_rows, row_groups=[body["group"]], columns=columns):
                values = {name: batch.column(name) for name in columns}
                yield [_item(values, offset, row + offset, body) for offset in range(batch.num_rows)]
                row += batch.num_rows
    except (pa.ArrowException, *READING) as error:
        entry = Entry(f"{uri_of_file}#{row}", f"{uri_of_file}#{row}", "", body["version"])
        broken = ImageError("corrupt", f"Parquet row group {body['group']} cannot be read from row {row} on: {error}")
        unread = outage(error)
        yield [Item(entry, error=unread or broken, rest=unread is not None)]


def _item(values: dict[str, pa.Array], offset: int, row: int, body: dict[str, Any]) -> Item:
    def value(kind: str) -> Any:
        return value_of(values[body[kind]][offset]) if body[kind] else None

    named, name = value("uri"), value("ids")
    uri = display(named) if named else f"{body['uri_of_file']}#{row}"
    entry = Entry(uri if name is None else display(str(name)), uri, resolve(named, body["file"]) if named else "")
    if body["bytes"] is None:
        return Item(entry)
    data = value("bytes")
    return Item(entry, data=(data["bytes"] if isinstance(data, dict) else data) or b"")


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
