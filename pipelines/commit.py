"""The end of a run: staged blocks become parts, an index and a manifest.

Memory is bounded by one block, one row group being written, and what pipelines.choice holds: one byte per input.
"""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.choice import Choice
from pipelines.index import Index
from pipelines.ledger import INDEX, PARTS, RUNS, Ledger, run_of
from pipelines.schema import JOIN, SAME, SCORE, SCORED
from radet.score import SCHEMA_VERSION

PART_ROWS = 500_000
_GROUP_ROWS = 5_000

#: What a row has of its own, also when its content was scored under another input.
_OWN = ("id", "uri")


class IncompleteError(Exception):
    """An input has no staged row: nothing is committed, staging stays for the next run."""


class Commit:
    """Folds the staged blocks of a ledger into a committed run."""

    def __init__(self, ledger: Ledger, index: Index, run: str) -> None:
        self._ledger = ledger
        self._index = index
        self._run = run
        self._blocks = ledger.staged()
        self._statuses: Counter[str] = Counter()
        self._verdicts: Counter[str] = Counter()

    def write(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Write parts, index and, last, the manifest (returned). `facts` are added to the manifest as they are.

        Raises:
            IncompleteError: rows and inputs do not add up.
        """
        keep = self._choose()
        kept = sum(int(mask.sum()) for mask in keep)
        if kept != self._index.expected:
            raise IncompleteError(f"{self._index.expected:,} inputs but {kept:,} rows: run the same command again")
        contents = self._joined_contents(keep)
        parts, index = self._write_files(keep, contents)
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "run": self._run,
            "model_id": self._ledger.model_id,
            "rows": sum(part["rows"] for part in parts),
            "statuses": dict(self._statuses.most_common()),
            "verdicts": dict(self._verdicts.most_common()),
            "parts": parts,
            "index": index,
            "folded_runs": sorted({run_of(name) for name in self._blocks} | {self._run}),
            **facts,
        }
        body = json.dumps(manifest, indent=1, ensure_ascii=False).encode()
        self._ledger.folder.write(f"{RUNS}{self._run}.json", body)
        self._ledger.folder.delete(self._blocks)
        return manifest

    def _choose(self) -> list[npt.NDArray[np.bool_]]:
        """Which row of which block stands for each input: a mask per block.

        The row of the latest run wins, and within a run one that has its own score.
        """
        runs = sorted({run_of(name) for name in self._blocks})
        with tempfile.TemporaryDirectory(prefix="radet-commit-") as scratch:
            choice = Choice(Path(scratch), self._index.expected)
            for name, table in self._ledger.blocks(["_key", "_kind"], self._blocks):
                own_score = table["_kind"].to_numpy() != JOIN
                choice.add(b"".join(table["_key"].to_pylist()), runs.index(run_of(name)) * 2 + own_score)
            return choice.masks()

    def _kept(self, keep: list[npt.NDArray[np.bool_]], columns: list[str] | None = None) -> Iterator[pa.Table]:
        for (_, table), mask in zip(self._ledger.blocks(columns, self._blocks), keep, strict=True):
            yield table.filter(pa.array(mask))

    def _joined_contents(self, keep: list[npt.NDArray[np.bool_]]) -> pa.Table:
        """The scored rows, one per content, that JOIN rows wait for: from staged blocks, else from earlier parts."""
        wanted: set[str] = set()
        for table in self._kept(keep, ["sha256", "_kind"]):
            wanted.update(table.filter(pc.equal(table["_kind"], JOIN))["sha256"].to_pylist())
        found = [SCORE.empty_table()]
        if wanted:
            # Rows that give way to others included: what was scored of a content stays true of it.
            for _, table in self._ledger.blocks(None, self._blocks):
                self._take(table.filter(pc.equal(table["_kind"], SCORED)), wanted, found)
            committed = [m for m in self._ledger.manifests() if m["model_id"] == self._ledger.model_id]
            for part in (part for manifest in reversed(committed) for part in manifest["parts"]):
                if not wanted:
                    break
                for rows in self._ledger.pieces(part["name"]):
                    self._take(rows, wanted, found)
        if wanted:
            raise IncompleteError(f"{len(wanted):,} duplicates without a scored original: run the same command again")
        return pa.concat_tables(found)

    @staticmethod
    def _take(table: pa.Table, wanted: set[str], found: list[pa.Table]) -> None:
        rows = {sha: row for row, sha in enumerate(table["sha256"].to_pylist()) if sha in wanted}
        wanted.difference_update(rows)
        found.append(table.take(pa.array(sorted(rows.values()), pa.int64())).select(SCORE.names).cast(SCORE))

    def _write_files(
        self, keep: list[npt.NDArray[np.bool_]], contents: pa.Table
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        row_of = {sha: row for row, sha in enumerate(contents["sha256"].to_pylist())}
        with tempfile.TemporaryDirectory(prefix="radet-commit-") as scratch:
            parts = _Parts(self._ledger, f"{PARTS}{self._run}-{{:05d}}.parquet", SCORE, Path(scratch), PART_ROWS)
            index = _Parts(self._ledger, f"{RUNS}{self._run}.index.parquet", INDEX, Path(scratch), None)
            for table in self._kept(keep):
                index.add(_index_rows(table))
                rows = table.filter(pc.not_equal(table["_kind"], SAME))
                rows = _fill_in(rows, contents, row_of)
                self._statuses.update(rows["status"].to_pylist())
                self._verdicts.update(v for v in rows["verdict"].to_pylist() if v is not None)
                parts.add(rows)
            containers = self._index.containers()
            if containers:
                key, version, count = zip(*containers, strict=True)
                blank = [None] * len(containers)
                index.add(pa.table([key, version, blank, [False] * len(containers), count], schema=INDEX))
            return parts.close(), (index.close() or [index.empty()])[0]


def _index_rows(table: pa.Table) -> pa.Table:
    sha = pa.array([bytes.fromhex(s) if s else None for s in table["sha256"].to_pylist()], pa.binary(32))
    ones = pa.array(np.ones(len(table), dtype=np.int64))
    return pa.table([table["_key"], table["_version"], sha, table["_retry"], ones], schema=INDEX)


def _fill_in(rows: pa.Table, contents: pa.Table, row_of: dict[str, int]) -> pa.Table:
    """Score columns of a block, with those of JOIN rows taken from the row of their content."""
    own = rows.filter(pc.not_equal(rows["_kind"], JOIN)).select(SCORE.names).cast(SCORE)
    joins = rows.filter(pc.equal(rows["_kind"], JOIN))
    if not len(joins):
        return own
    joined = contents.take(pa.array([row_of[sha] for sha in joins["sha256"].to_pylist()], pa.int64()))
    for name in _OWN:
        position = SCORE.get_field_index(name)
        joined = joined.set_column(position, SCORE.field(position), joins[name])
    return pa.concat_tables([own, joined])


class _Parts:
    """Writes tables to files of at most so many rows: to local scratch first, then in one move to the output."""

    def __init__(self, ledger: Ledger, pattern: str, schema: pa.Schema, scratch: Path, max_rows: int | None) -> None:
        self._ledger = ledger
        self._pattern = pattern
        self._schema = schema
        self._scratch = scratch
        self._max_rows = max_rows
        self._writer: pq.ParquetWriter | None = None
        self._path = scratch
        self._rows = 0
        self._pending: list[pa.Table] = []  # of one row group
        self._done: list[dict[str, Any]] = []

    def add(self, table: pa.Table) -> None:
        if self._writer is None:
            self._path = self._scratch / f"{len(self._done)}.{self._pattern.rpartition('.')[0].rpartition('/')[2]}"
            self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd")
        self._pending.append(table)
        self._rows += len(table)
        if sum(map(len, self._pending)) >= _GROUP_ROWS:
            self._flush()
        if self._max_rows is not None and self._rows >= self._max_rows:
            self._publish()

    def close(self) -> list[dict[str, Any]]:
        if self._writer is not None:
            self._publish()
        return self._done

    def empty(self) -> dict[str, Any]:
        """An index of nothing, for a run that found nothing new."""
        self.add(self._schema.empty_table())
        return self.close()[0]

    def _flush(self) -> None:
        assert self._writer is not None
        if self._pending:
            self._writer.write_table(pa.concat_tables(self._pending))
            self._pending.clear()

    def _publish(self) -> None:
        self._flush()
        assert self._writer is not None
        self._writer.close()
        self._writer = None
        name = self._pattern.format(len(self._done))
        size = self._path.stat().st_size
        with self._path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if self._rows or self._max_rows is None:
            self._ledger.folder.upload(name, self._path)
            self._done.append({"name": name, "rows": self._rows, "bytes": size, "sha256": sha256})
        self._rows = 0
