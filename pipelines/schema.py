"""The Parquet form of a score, and the batches that travel between the stages of a run."""

import dataclasses
import types
import typing
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from radet.score import SCHEMA_VERSION, Score

_ARROW: dict[type, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float32(),
    datetime: pa.timestamp("ms", tz="UTC"),
}


def _field(name: str, hint: Any) -> pa.Field:
    """`int | None` -> a nullable int64 column; a Literal is the type of its values."""
    nullable = typing.get_origin(hint) in (types.UnionType, typing.Union)
    kinds = [h for h in typing.get_args(hint) if h is not type(None)] if nullable else [hint]
    kind = type(typing.get_args(kinds[0])[0]) if typing.get_origin(kinds[0]) is typing.Literal else kinds[0]
    return pa.field(name, _ARROW[kind], nullable=nullable)


#: One column per field of radet.Score: the rows of a committed part.
SCORE = pa.schema(
    [_field(name, hint) for name, hint in typing.get_type_hints(Score).items()],
    metadata={"radet.schema_version": str(SCHEMA_VERSION)},
)

#: What a detector adds to a row.
EVIDENCE = [
    field.name
    for field in dataclasses.fields(Score)
    if field.name.startswith(("logit", "drift_", "p_", "verdict", "generator"))
]

# How a staged row came about.
SCORED = 0  # this input was decoded and scored, or failed
JOIN = 1  # its content is scored under another input of the same content: columns are filled in at the commit
SAME = 2  # its content is what an earlier run scored for it: no new row

#: A staged row: a score, what the ledger needs to know of its input, and where the time went (seconds).
STAGED = pa.schema(
    [
        *[field.with_nullable(True) for field in SCORE],
        pa.field("_key", pa.binary(16)),  # identity of the input: hash of id and uri
        pa.field("_version", pa.binary(16)),  # hash of etag, or size and mtime; null where the source has none
        pa.field("_kind", pa.int8()),
        pa.field("_retry", pa.bool_()),  # a transient failure, to be tried again by the next run
    ]
)

#: What the CPU stage hands to the scorers: staged rows without evidence, and the crop of those to be scored.
LOADED = pa.schema(
    [
        *[field for field in STAGED if field.name not in {*EVIDENCE, "model_id", "scored_at"}],
        pa.field("crop", pa.large_binary()),  # uint8, size x size x 3; null where there is nothing to score
        pa.field("fetch_s", pa.float32()),
        pa.field("decode_s", pa.float32()),
    ]
)


def completed(rows: pa.Table) -> pa.Table:
    """SCORE's columns of rows that may be of an earlier schema: null where they have none."""
    for field in SCORE:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows.select(SCORE.names).cast(SCORE)


def pack(table: pa.Table) -> pa.Table:
    """A table as ONE row.

    Ray Data cuts and merges blocks by their size in bytes. A batch that is one row stays one block from the CPU stage
    to its staged file, so a crash costs whole batches, known in size.
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data = sink.getvalue()
    offsets = pa.py_buffer(np.array([0, data.size], dtype=np.int64))
    return pa.table({"batch": pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data])})


def unpack(row: pa.Table) -> pa.Table:
    """The table that `pack` made one row of; no copy."""
    return pa.ipc.open_stream(row["batch"].chunk(0)[0].as_buffer()).read_all()
