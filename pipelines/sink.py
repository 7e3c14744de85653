"""The last stage of a run, and the way to read what runs have written."""

import hashlib
import io
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.ledger import Ledger
from pipelines.schema import JOIN, SAME, SCORE, SCORED, STAGED
from pipelines.storage import open_folder
from radet.errors import ConfigError

_SECONDS = ("fetch_s", "decode_s", "score_s")


def stage(ledger: Ledger, run: str, table: pa.Table) -> dict[str, Any]:
    """Write a scored batch where a crash cannot lose it; returns what to tell of it."""
    ledger.stage(run, table.select(STAGED.names).cast(STAGED))
    kinds = Counter(table["_kind"].to_pylist())
    fresh = table.filter(pc.equal(table["_kind"], SCORED))
    return {
        "rows": table.num_rows,
        "joined": kinds[JOIN],
        "same": kinds[SAME],
        "scored": pc.sum(pc.equal(fresh["status"], "ok")).as_py() or 0,
        "statuses": dict(Counter(fresh["status"].to_pylist())),
        **{name: float(pc.sum(table[name]).as_py() or 0.0) for name in _SECONDS},
    }


def read_scores(
    out: str,
    *,
    columns: list[str] | None = None,
    history: bool = False,
    verify: bool = False,
    run: str | None = None,
) -> pa.Table:
    """The committed rows of an output: for each input and model the latest one, or with `history` all of them.

    Only parts that a manifest lists are read. `verify` compares their checksums first; `run` takes that
    run's alone.

    Raises:
        ConfigError: no committed run, or (with `verify`) a part that is not what its manifest says.
    """
    folder = open_folder(out)
    manifests = list(Ledger(folder, model_id="", rescore=False).manifests())
    if run is not None:
        manifests = [manifest for manifest in manifests if manifest["run"] == run]
    if not manifests:
        raise ConfigError(f"no committed run {run or ''} in {out}".replace("  ", " "))
    wanted = None if columns is None else list(dict.fromkeys([*columns, "id", "uri", "model_id"]))
    tables = [SCORE.empty_table() if wanted is None else SCORE.empty_table().select(wanted)]
    for part in (part for manifest in manifests for part in manifest["parts"]):
        try:
            data = folder.read(part["name"])
        except FileNotFoundError:
            raise ConfigError(f"{out}/{part['name']} is gone, which a manifest in {out}/_runs lists") from None
        if verify and hashlib.sha256(data).hexdigest() != part["sha256"]:
            raise ConfigError(f"{out}/{part['name']} is damaged: its checksum is not the one in the manifest")
        # Parts of an earlier schema lack columns, which are null then.
        tables.append(pq.read_table(io.BytesIO(data), columns=wanted, schema=SCORE))
    table = pa.concat_tables(tables)
    if not history:
        order = pa.array(range(table.num_rows), pa.int64())
        keyed = table.select(["id", "uri", "model_id"]).append_column("row", order)
        last = keyed.group_by(["id", "uri", "model_id"]).aggregate([("row", "max")])["row_max"]
        table = table.take(last.take(pc.sort_indices(last)))
    return table if columns is None else table.select(columns)
