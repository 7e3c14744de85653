"""The end of a run: staged blocks become parts, an index and a manifest.

Memory is bounded by one block, one row group being written, and what pipelines.choice holds: one byte per input. What
duplicates take over lies on disk (pipelines.contents).
"""

import hashlib
import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.choice import Choice
from pipelines.contents import Contents
from pipelines.index import Index
from pipelines.lease import held
from pipelines.ledger import INDEX, PARTS, RUNS, Ledger, run_of
from pipelines.schema import JOIN, SAME, SCORE, SCORED
from radet.errors import ConfigError
from radet.score import SCHEMA_VERSION

PART_ROWS = 500_000
HIGHEST = 5  # pictures that the manifest names
_GROUP_ROWS = 5_000

#: What a row has of its own, also when its content was scored under another input.
_OWN = ("id", "uri", "scored_at")


class IncompleteError(Exception):
    """An input has no staged row: nothing is committed, staging stays for the next run."""


class Commit:
    """Folds the staged blocks of a ledger into a committed run, under the lease of that id."""

    def __init__(self, ledger: Ledger, index: Index, run: str, lease: str) -> None:
        self._lease = lease
        self._ledger = ledger
        self._index = index
        self._run = run
        self._blocks = ledger.staged()
        self._statuses: Counter[str] = Counter()
        self._verdicts: Counter[str] = Counter()
        self._origins: Counter[str] = Counter()
        self._highest: list[dict[str, Any]] = []  # rows, the highest first

    def write(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Write parts, index and, last, the manifest (returned). `facts` are added to the manifest as they are.

        Raises:
            IncompleteError: rows and inputs do not add up.
            ConfigError: another run has taken over the output.
        """
        keep = self._choose()
        kept = sum(int(mask.sum()) for mask in keep)
        if kept != self._index.expected:
            raise IncompleteError(f"{self._index.expected:,} inputs but {kept:,} rows: run the same command again")
        with (
            tempfile.TemporaryDirectory(prefix="radet-commit-") as scratch,
            closing(Contents(Path(scratch))) as contents,
        ):
            self._find(contents, keep)
            parts, index = self._write_files(keep, contents)
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "run": self._run,
            "model_id": self._ledger.model_id,
            "rows": sum(part["rows"] for part in parts),
            "statuses": dict(self._statuses.most_common()),
            "verdicts": dict(self._verdicts.most_common()),
            "digital_source_types": dict(self._origins.most_common()),
            "highest": [{name: row[name] for name in ("uri", "p_generated", "verdict")} for row in self._highest],
            "parts": parts,
            "index": index,
            "folded_runs": sorted({run_of(name) for name in self._blocks} | {self._run}),
            **facts,
        }
        body = json.dumps(manifest, indent=1, ensure_ascii=False).encode()
        if not held(self._ledger.folder, self._lease):  # it may have removed our parts, which no manifest lists yet
            raise ConfigError(f"another run has taken over {self._ledger.folder.url}: this one does not commit")
        self._ledger.folder.write(f"{RUNS}{self._run}.json", body)
        self._ledger.folder.delete(self._blocks)
        return manifest

    def _choose(self) -> list[npt.NDArray[np.bool_]]:
        """Which row of which block stands for each input: a mask per block.

        The row of the latest run wins, and within a run one that has its own score; none that the index passed over.
        """
        runs = sorted({run_of(name) for name in self._blocks})
        passed_over = {run: self._index.passed_over(run) for run in runs}
        counting: list[npt.NDArray[np.bool_]] = []
        with tempfile.TemporaryDirectory(prefix="radet-commit-") as scratch:
            choice = Choice(Path(scratch), self._index.expected)
            for name, table in self._ledger.blocks(["_key", "_kind"], self._blocks):
                keys, kinds, out = table["_key"].to_pylist(), table["_kind"].to_numpy(), passed_over[run_of(name)]
                counts = np.array([not out or pair not in out for pair in zip(keys, kinds.tolist(), strict=True)], bool)
                counting.append(counts)
                rank = runs.index(run_of(name)) * 2 + (kinds != JOIN)
                choice.add(b"".join(itertools.compress(keys, counts)), rank[counts])
            for counts, chosen in zip(counting, choice.masks(), strict=True):
                counts[counts] = chosen
        return counting

    def _kept(self, keep: list[npt.NDArray[np.bool_]], columns: list[str] | None = None) -> Iterator[pa.Table]:
        for (_, table), mask in zip(self._ledger.blocks(columns, self._blocks), keep, strict=True):
            yield table.filter(pa.array(mask))

    def _find(self, contents: Contents, keep: list[npt.NDArray[np.bool_]]) -> None:
        """The scored rows, one per content, that JOIN rows wait for: from staged blocks, else from earlier parts."""
        for table in self._kept(keep, ["sha256", "_kind"]):
            contents.want(table.filter(pc.equal(table["_kind"], JOIN))["sha256"].to_pylist())
        # Rows that give way to others included: what was scored of a content stays true of it. Of one for which there
        # was no room, what may have been scored since comes first.
        for no_room in (False, True):
            for _, table in self._ledger.blocks(None, self._blocks) if contents.missing else ():
                scored = pc.equal(table["_kind"], SCORED)
                contents.offer(table.filter(pc.and_(scored, pc.equal(table["_retry"], no_room))))
        if contents.missing:
            committed = [m for m in self._ledger.manifests() if m["model_id"] == self._ledger.model_id]
            for part in (part for manifest in reversed(committed) for part in manifest["parts"]):
                if not contents.missing:
                    break
                for rows in self._ledger.pieces(part["name"]):
                    contents.offer(rows)
        if contents.missing:
            count = f"{contents.missing:,} duplicates without a scored original"
            raise IncompleteError(f"{count}: run the same command again")

    def _write_files(
        self, keep: list[npt.NDArray[np.bool_]], contents: Contents
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        with tempfile.TemporaryDirectory(prefix="radet-commit-") as scratch:
            parts = _Parts(self._ledger, f"{PARTS}{self._run}-{{:05d}}.parquet", SCORE, Path(scratch), PART_ROWS)
            index = _Parts(self._ledger, f"{RUNS}{self._run}.index.parquet", INDEX, Path(scratch), None)
            for table in self._kept(keep):
                table = _fill_in(table, contents)  # noqa: PLW2901
                index.add(_index_rows(table))
                rows = table.filter(pc.not_equal(table["_kind"], SAME)).select(SCORE.names).cast(SCORE)
                self._statuses.update(rows["status"].to_pylist())
                self._verdicts.update(v for v in rows["verdict"].to_pylist() if v is not None)
                self._origins.update(o for o in rows["digital_source_type"].to_pylist() if o is not None)
                self._rank(rows)
                parts.add(rows)
            containers = self._index.containers()
            if containers:
                key, version, count = zip(*containers, strict=True)
                blank = [None] * len(containers)
                index.add(pa.table([key, version, blank, [False] * len(containers), count], schema=INDEX))
            return parts.close(), (index.close() or [index.empty()])[0]

    def _rank(self, rows: pa.Table) -> None:
        """Keep the pictures most likely generated, each content once; of equals, the first uri."""
        least = self._highest[-1]["p_generated"] if len(self._highest) == HIGHEST else 0.0
        likely = rows.select(["uri", "sha256", "p_generated", "verdict"]).filter(pc.field("p_generated") >= least)
        ranked = sorted(self._highest + likely.to_pylist(), key=lambda row: (-row["p_generated"], row["uri"]))
        once: dict[str, dict[str, Any]] = {}
        for row in ranked:
            once.setdefault(row["sha256"], row)
        self._highest = list(once.values())[:HIGHEST]


def _index_rows(table: pa.Table) -> pa.Table:
    sha = pa.array([bytes.fromhex(s) if s else None for s in table["sha256"].to_pylist()], pa.binary(32))
    ones = pa.array(np.ones(len(table), dtype=np.int64))
    return pa.table([table["_key"], table["_version"], sha, table["_retry"], ones], schema=INDEX)


def _fill_in(rows: pa.Table, contents: Contents) -> pa.Table:
    """A block, with the score columns of JOIN rows taken from the row of their content."""
    joins = rows.filter(pc.equal(rows["_kind"], JOIN))
    if not len(joins):
        return rows
    joined = contents.take(joins["sha256"].to_pylist())
    # Of bytes that were there, this is want of room to decode them, which is over by the next run.
    joins = _with(joins, "_retry", pc.equal(joined["status"], "unreachable"))
    for name in SCORE.names:
        if name not in _OWN:
            joins = _with(joins, name, joined[name])
    return pa.concat_tables([rows.filter(pc.not_equal(rows["_kind"], JOIN)), joins])


def _with(table: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), values)


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
