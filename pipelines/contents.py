"""Scored rows that others of the same content take theirs from, on disk: a corpus that was moved has one an input."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.schema import SCORE, completed

_OPEN = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -8192;  -- 8 MiB
CREATE TABLE content (sha TEXT PRIMARY KEY, row TEXT) WITHOUT ROWID;  -- row: null until it is found
"""
_TIME = SCORE.get_field_index("scored_at")
# As numbers, which JSON can hold; a float32 passes as the float64 of the same value.
_PLAIN = SCORE.set(_TIME, SCORE.field(_TIME).with_type(pa.int64()))


class Contents:
    """Rows by the sha256 of what they are of, as hex: first wanted, then found, then taken."""

    def __init__(self, folder: Path) -> None:
        self._database = sqlite3.connect(folder / "contents.sqlite", isolation_level=None)
        self._database.executescript(_OPEN)
        self.missing = 0  # wanted and not found yet

    def close(self) -> None:
        self._database.close()

    def want(self, shas: Sequence[str]) -> None:
        """Contents whose rows `offer` is to keep; asked for again, they count once."""
        self.missing += self._many("INSERT OR IGNORE INTO content VALUES (?, NULL)", [(sha,) for sha in shas])

    def offer(self, scored: pa.Table) -> None:
        """Keep the rows, committed or staged ones, that are wanted and not found yet."""
        if not self.missing:
            return
        shas = scored["sha256"].to_pylist()
        wanted = pa.array([sha is not None and self._row(sha) == (None,) for sha in shas], pa.bool_())
        rows = completed(scored.filter(wanted)).cast(_PLAIN).to_pylist()
        found = [(json.dumps(list(row.values())), row["sha256"]) for row in rows]
        self.missing -= self._many("UPDATE content SET row = ? WHERE sha = ? AND row IS NULL", found)

    def take(self, shas: Sequence[str]) -> pa.Table:
        """Their rows, in this order; all of them are found."""
        rows: list[dict[str, Any]] = []
        for sha in shas:
            (row,) = self._row(sha)
            rows.append(dict(zip(SCORE.names, json.loads(row), strict=True)))
        return pa.Table.from_pylist(rows, schema=_PLAIN).cast(SCORE)

    def _row(self, sha: str) -> Any:
        """(row,), (None,) while it is wanted only, None if it is not."""
        with closing(self._database.execute("SELECT row FROM content WHERE sha = ?", (sha,))) as cursor:
            return cursor.fetchone()

    def _many(self, statement: str, values: Sequence[tuple[str, ...]]) -> int:
        """Run it for each in one transaction; how many rows changed."""
        before = self._database.total_changes
        self._database.execute("BEGIN")
        self._database.executemany(statement, values)
        self._database.execute("COMMIT")
        return self._database.total_changes - before
