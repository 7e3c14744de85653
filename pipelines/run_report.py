"""The page of a scoring run: what is in an output, for people."""

import hashlib
from collections import Counter
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import plots
from pipelines.fetch import Fetcher, is_http
from pipelines.ledger import Ledger
from pipelines.report import render, thumbnail
from pipelines.s3 import greet
from pipelines.sink import read_scores
from pipelines.storage import open_folder
from radet.errors import ConfigError, FetchError, ImageError

_SHOWN = 24  # pictures most likely generated
_TRIED = 3  # further copies of such a picture, the latest first, where the first by name is gone
_COPIES = 15  # contents with the most copies
_ERRORS = 50  # inputs without a score
_RUNS = 50
_COLUMNS = [
    *("id", "uri", "status", "error", "sha256", "phash", "digital_source_type"),
    *("p_generated", "logit", "verdict", "model_id"),
]


def run_page(out: str, *, allow_http: bool = False) -> str:
    """The report of the latest model's rows in `out`, HTML. Pictures are read again for thumbnails, where there are.

    Raises ConfigError where `out` has no committed run.
    """
    greet(out)
    manifests = list(Ledger(open_folder(out), model_id="", rescore=False).manifests())
    if not manifests:
        raise ConfigError(f"no committed run in {out}: give what `radet score --out` names, once that run has ended")
    latest = manifests[-1]
    table = read_scores(out, columns=_COLUMNS)
    table = table.filter(pc.equal(table["model_id"], latest["model_id"]))
    scored = table.filter(pc.equal(table["status"], "ok"))
    calibrated = bool(latest["verdicts"]) or (len(scored) > 0 and scored["p_generated"].null_count < len(scored))
    by = "p_generated" if calibrated else "logit"
    copies = _copies(scored)
    return render(
        "run.html.j2",
        out=out,
        model=latest["model"],
        model_id=latest["model_id"],
        calibrated=calibrated,
        tiles=_tiles(table, manifests, latest["model_id"]),
        statuses=Counter(table["status"].to_pylist()).most_common(),
        verdicts=Counter(v for v in scored["verdict"].to_pylist() if v is not None).most_common(),
        origins=Counter(code for code in table["digital_source_type"].to_pylist() if code is not None).most_common(),
        errors=_errors(table),
        failed=len(table) - len(scored),
        histogram=plots.svg(plots.verdicts(_by_verdict(scored, by), calibrated=calibrated)) if len(scored) else None,
        top=_top(scored, by, Fetcher(allow_http=allow_http), allow_http=allow_http),
        copies=copies.slice(0, _COPIES).to_pylist(),
        copied=len(copies),
        near=_near(scored),
        runs=[_run(manifest) for manifest in manifests[: -_RUNS - 1 : -1]],
        count=len(manifests),
    )


def _tiles(table: pa.Table, manifests: list[dict[str, Any]], model_id: str) -> list[dict[str, str]]:
    ok = pc.sum(pc.equal(table["status"], "ok")).as_py() or 0
    generated = pc.sum(pc.equal(table["verdict"], "generated")).as_py() or 0
    tiles = [
        {"name": "inputs", "value": f"{len(table):,}"},
        {"name": "scored", "value": f"{ok:,}"},
        {"name": "not scored", "value": f"{len(table) - ok:,}"},
        {"name": "verdict: generated", "value": f"{generated:,}"},
    ]
    timed = [m for m in manifests if m["model_id"] == model_id and m["work"]["rows"]]
    if timed:
        last = timed[-1]
        rate = last["work"]["rows"] / last["seconds"]
        tiles.append({"name": "images per second, latest run", "value": f"{rate:,.1f}"})
    return tiles


def _errors(table: pa.Table) -> list[dict[str, str]]:
    """Those of the latest runs first."""
    wrong = table.filter(pc.not_equal(table["status"], "ok"))
    latest = wrong.slice(max(0, len(wrong) - _ERRORS)).to_pylist()[::-1]
    return [{"uri": row["uri"], "status": row["status"], "error": row["error"] or ""} for row in latest]


def _by_verdict(scored: pa.Table, by: str) -> dict[str, plots.Floats]:
    """The scores of each verdict; under "" where the model gives none."""
    verdict = pc.fill_null(scored["verdict"], "")
    return {
        name: scored.filter(pc.equal(verdict, name))[by].to_numpy().astype(np.float64)
        for name in ("real", "uncertain", "generated", "")
    }


def _top(scored: pa.Table, by: str, fetcher: Fetcher, *, allow_http: bool) -> list[dict[str, Any]]:
    contents = scored.group_by("sha256").aggregate(
        [(by, "max"), ("uri", "min"), ("verdict", "max")]
    )  # copies are alike
    order = contents.sort_by([(f"{by}_max", "descending"), ("uri_min", "ascending")])
    highest = order.slice(0, _SHOWN)
    names: dict[str, list[str]] = {}  # by content, the latest first: a file that was moved lies there
    alike = scored.filter(pc.is_in(scored["sha256"], highest["sha256"].combine_chunks()))
    for sha256, uri in zip(alike["sha256"].to_pylist()[::-1], alike["uri"].to_pylist()[::-1], strict=True):
        names.setdefault(sha256, []).append(uri)
    shown: list[dict[str, Any]] = []
    for row in highest.to_pylist():
        uri, src = row["uri_min"], None
        for name in dict.fromkeys((uri, *names[row["sha256"]][:_TRIED])):
            if allow_http or not is_http(name):
                with suppress(FetchError, ImageError):  # gone, or inside a container: shown without its picture
                    data = fetcher.read(name)
                    if hashlib.sha256(data).hexdigest() == row["sha256"]:  # else another picture lies there now
                        uri, src = name, thumbnail(data)
                        break
        score = f"{row[f'{by}_max']:.3f}"
        shown.append({"uri": uri, "score": score, "verdict": row["verdict_max"] or "", "src": src})
    return shown


def _copies(scored: pa.Table) -> pa.Table:
    """Contents that several inputs share, most copies first."""
    counts = scored.group_by("sha256").aggregate([("uri", "count"), ("uri", "min")])
    counts = counts.filter(pc.greater(counts["uri_count"], 1))
    return counts.sort_by([("uri_count", "descending"), ("uri_min", "ascending")])


def _near(scored: pa.Table) -> int:
    """Pictures that look the same as another (equal phash) without being the same bytes."""
    pairs = scored.select(["phash", "sha256"]).group_by(["phash", "sha256"]).aggregate([])
    looks = pairs.group_by("phash").aggregate([("sha256", "count")])
    return int(pc.sum(pc.subtract(looks["sha256_count"], 1)).as_py() or 0)


def _run(manifest: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": manifest["run"],
        "finished": manifest["finished"][:19].replace("T", " "),
        "model": f"{manifest['model']} ({manifest['model_id']})",
        "rows": f"{manifest['rows']:,}",
        "scored": f"{manifest['statuses'].get('ok', 0):,}",
        "failed": f"{manifest['rows'] - manifest['statuses'].get('ok', 0):,}",
        "unchanged": f"{manifest['inputs']['unchanged']:,}",
    }
