"""Rows that duplicates take over, kept on disk: as they were, once each, and in the order that is asked for."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.contents import Contents
from pipelines.schema import SCORE

A, B, C = (letter * 64 for letter in "abc")


def rows(*shas: str | None) -> pa.Table:
    """Distinct in every column that can be."""
    found = [
        {
            "id": f"caf\u00e9 {number}",
            "uri": "u\n",
            "sha256": sha,
            "status": "ok",
            "width": 2**40 + number,
            "logit": float(np.float32(0.1) + number),
            "p_generated": float(np.nextafter(np.float32(1), np.float32(0))),
            "model_id": "m",
            "scored_at": datetime(2026, 1, 1, 2, 3, 4, 567000, tzinfo=UTC),
        }
        for number, sha in enumerate(shas)
    ]
    return pa.Table.from_pylist(found, schema=SCORE)


def test_a_row_comes_back_as_it_was(tmp_path: Path) -> None:
    contents, table = Contents(tmp_path), rows(A, None, B, C, A)
    contents.want([B, A, B])
    assert contents.missing == 2
    contents.offer(table.append_column("_kind", pa.array([0] * 5)))
    contents.offer(rows(A))  # found already
    assert contents.missing == 0
    assert contents.take([A, B, A]).equals(table.take([0, 2, 0]))
    assert contents.take([]).equals(SCORE.empty_table())


def test_what_was_not_wanted_or_not_found_is_not_there(tmp_path: Path) -> None:
    contents = Contents(tmp_path)
    contents.want([A, B])
    contents.offer(rows(A, C))
    assert contents.missing == 1
    for sha in (B, C):
        with pytest.raises(TypeError):
            contents.take([sha])
