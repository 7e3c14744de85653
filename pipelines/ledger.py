"""The layout of an output folder, and what counts as done in it.

    parts/<run>-00000.parquet     committed score rows
    _runs/<run>.json              the manifest of a run, written last: what it lists is committed, nothing else is
    _runs/<run>.index.parquet     one line per input of that run: identity, version, content
    _staging/<model>/<run>-<block>.parquet    scored blocks of a run that has not ended
    _lock                         the writer's lease

A block is staged by one atomic write as soon as it is scored, so a run that dies has lost only what was in flight: the
next one takes the staged blocks for done. A run that ends folds every staged block into a few large parts (one row per
input, whatever was staged twice), writes its index, and then its manifest; a crash before the manifest leaves staging
as it was, a crash after it leaves files that the next run removes. Blocks and parts name their run; run names sort by
time.
"""

import io
import json
import re
import uuid
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.index import Index, Known
from pipelines.lease import NAME as LOCK
from pipelines.schema import JOIN, STAGED
from pipelines.storage import TEMPORARY, LocalFolder, S3Folder
from radet.errors import ConfigError

PARTS = "parts/"
RUNS = "_runs/"
STAGING = "_staging/"

_TIME = "%Y%m%dT%H%M%S%fZ"
_RUN = r"\d{8}T\d{12}Z-[0-9a-f]{6}"
_MANIFEST = re.compile(rf"{RUNS}{_RUN}\.json")
# Whatever else lies in these folders is somebody else's, and stays.
_OURS = re.compile(
    rf"{PARTS}{_RUN}-\d{{5,}}\.parquet|{RUNS}{_RUN}\.(json|index\.parquet)"
    rf"|{STAGING}[^/]+/{_RUN}-[0-9a-f]{{32}}\.parquet|.*/{re.escape(TEMPORARY)}[0-9a-f]{{32}}"
)
_IN_FOLDER = re.compile(rf".+/(?:{_OURS.pattern}|{re.escape(LOCK)})")

_READ_AHEAD = 8  # blocks
_PIECE_ROWS = 20_000
_STAGED_COLUMNS = ["_key", "_version", "sha256", "_retry", "_kind"]

INDEX = pa.schema(
    [
        pa.field("key", pa.binary(16), nullable=False),
        pa.field("version", pa.binary(16)),
        pa.field("sha", pa.binary(32)),
        pa.field("retry", pa.bool_(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
    ]
)


def new_run_id(after: str = "") -> str:
    """Sorts by start time, and behind the run `after`, whatever the clock says; unique also within a second."""
    now = f"{datetime.now(UTC):{_TIME}}"
    if now <= (last := after.partition("-")[0]):
        now = f"{datetime.strptime(last, _TIME) + timedelta(microseconds=1):{_TIME}}"
    return f"{now}-{uuid.uuid4().hex[:6]}"


def run_of(name: str) -> str:
    """The run that a part or a staged block names."""
    return name.rpartition("/")[2].rpartition("-")[0]


def is_of_output(name: str) -> bool:
    """Whether a file of this name below a folder is that of an output, `scores/parts/...`, in a folder there."""
    return _IN_FOLDER.fullmatch(name) is not None


class Ledger:
    """One output folder, as seen by the run that holds its lease."""

    def __init__(self, folder: LocalFolder | S3Folder, *, model_id: str, rescore: bool) -> None:
        self.folder = folder
        self.model_id = model_id
        self.rescore = rescore
        # A forced run takes up only what a forced run has staged, and never passes off older results as its own.
        self.staging = f"{STAGING}{model_id}{'.rescore' if rescore else ''}/"

    def manifests(self) -> Iterator[dict[str, Any]]:
        """The committed runs, oldest first."""
        for name in sorted(item.name for item in self.folder.list(RUNS) if _MANIFEST.fullmatch(item.name)):
            yield json.loads(self.folder.read(name))

    def next_run(self) -> str:
        """A name for a run that sorts behind all that are committed or staged, other machines' clocks or not."""
        found = [item.name for item in self.folder.list(RUNS) if _MANIFEST.fullmatch(item.name)]
        known = [name.removeprefix(RUNS).removesuffix(".json") for name in found]
        staged = [run_of(item.name) for item in self.folder.list(STAGING) if _OURS.fullmatch(item.name)]
        return new_run_id(max([*known, *staged], default=""))

    def clean(self) -> int:
        """Remove what no manifest lists and no run can take up: returns the number of files removed."""
        known: set[str] = set()
        folded: set[str] = set()
        for manifest in self.manifests():
            known.update(part["name"] for part in manifest["parts"])
            known.update({manifest["index"]["name"], f"{RUNS}{manifest['run']}.json"})
            folded.update(manifest["folded_runs"])
        orphans = [
            item.name
            for prefix in (PARTS, RUNS, STAGING)
            for item in self.folder.list(prefix)
            if _OURS.fullmatch(item.name)
            and (
                (item.name not in known if prefix != STAGING else run_of(item.name) in folded)
                or item.name.rpartition("/")[2].startswith(TEMPORARY)
            )
        ]
        self.folder.delete(orphans)
        return len(orphans)

    def staged(self) -> list[str]:
        """The blocks that interrupted runs of this model left, oldest first."""
        names = (item.name for item in self.folder.list(self.staging))
        return sorted(name for name in names if _OURS.fullmatch(name) and name.endswith(".parquet"))

    def stage(self, run: str, table: pa.Table) -> str:
        """Write one block; it is done from here on."""
        name = f"{self.staging}{run}-{uuid.uuid4().hex}.parquet"
        self.folder.write(name, to_parquet(table))
        return name

    def read(self, name: str, columns: list[str] | None) -> pa.Table:
        """A staged block, of all columns with None; those that its schema, an earlier one, lacks are null."""
        return pq.read_table(io.BytesIO(self.folder.read(name)), columns=columns, schema=STAGED)

    def pieces(self, name: str) -> Iterator[pa.Table]:
        """A file of any size that a manifest lists, a few thousand rows in memory at a time. Raises ConfigError where
        it is gone."""
        try:
            with self.folder.on_disk(name) as path, pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=_PIECE_ROWS):
                    yield pa.Table.from_batches([batch])
        except FileNotFoundError:
            manifest = "".join(f"{RUNS}{run}.json" for run in re.findall(_RUN, name))
            mend = f"put it back, or delete {manifest} as well: what that run has scored is then scored anew"
            raise ConfigError(f"{self.folder.url}/{name} is gone, which {manifest} lists: {mend}") from None

    def blocks(self, columns: list[str] | None, names: list[str]) -> Iterator[tuple[str, pa.Table]]:
        """These staged blocks with their names, in order; of all columns with None.

        A few are read ahead, since each is a request of its own on S3.
        """
        with ThreadPoolExecutor(_READ_AHEAD) as pool:
            ahead = deque(pool.submit(self.read, name, columns) for name in names[:_READ_AHEAD])
            for position, name in enumerate(names):
                yield name, ahead.popleft().result()
                if position + _READ_AHEAD < len(names):
                    ahead.append(pool.submit(self.read, names[position + _READ_AHEAD], columns))

    def fill(self, index: Index) -> None:
        """Tell the index what is committed for this model (unless all is to be scored again) and what is staged."""
        staged = self.staged()
        for manifest in self.manifests():
            if manifest["model_id"] == self.model_id:
                # A forced run and a plain one leave each other's blocks alone, so one may have overtaken the other.
                overtakes = bool(staged) and manifest["run"] > run_of(staged[0])
                for rows in self.pieces(manifest["index"]["name"]) if overtakes or not self.rescore else ():
                    if not self.rescore:
                        index.add_committed(map(Known._make, zip(*(c.to_pylist() for c in rows.columns), strict=True)))
                    if overtakes:
                        index.overtake(manifest["run"], rows["key"].to_pylist())
        with_joins = []
        for name, block in self.blocks(_STAGED_COLUMNS, staged):
            joins = pc.equal(block["_kind"], JOIN)
            index.add_staged(run_of(name), _staged_inputs(block.filter(pc.invert(joins))))
            if pc.any(joins).as_py():
                with_joins.append(name)
        for name, block in self.blocks(_STAGED_COLUMNS, with_joins):  # they count only where their content is known
            index.add_staged(run_of(name), _staged_inputs(block.filter(pc.equal(block["_kind"], JOIN))))


def _staged_inputs(table: pa.Table) -> Iterator[tuple[Known, int]]:
    for key, version, sha, retry, kind in zip(*(c.to_pylist() for c in table.columns), strict=True):
        yield Known(key, version, bytes.fromhex(sha) if sha else None, retry, 1), kind


def to_parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
