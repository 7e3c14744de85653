"""Evaluation: labelled pictures through the scoring pipeline, once for each detector, and every table out of the rows.

OUT/inputs.jsonl        what is scored: each picture under each condition, as a manifest
OUT/scores/<detector>/  a scoring run like any other, so an interrupted evaluation goes on where it ended
OUT/metrics.json        every figure (docs/evaluation.md says what each means);  tables/*.csv the same for spreadsheets
OUT/report.html         the page for people (pipelines.report)

N pictures
"""

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.cluster import connected
from pipelines.evaluation_inputs import draw, input_id, manifest_of, pair_groups
from pipelines.evaluation_tables import write_tables
from pipelines.items import display
from pipelines.labelled import Labelled, list_labelled
from pipelines.lease import Lease
from pipelines.ledger import Ledger
from pipelines.s3 import greet
from pipelines.score import ScoreJob, Watcher, score
from pipelines.sink import read_scores
from pipelines.storage import open_folder
from pipelines.weights import find_encoders, local_model
from radet.config import DetectorConfig
from radet.config import resolve as resolve_model
from radet.degradations import CLEAN, conditions
from radet.errors import ConfigError
from radet.evaluation import Scored, confusion, figures, kept_promises, mean_of

Floats = NDArray[np.float64]

DRAWS = 1000
_BRANCHES = ("semantic", "discrepancy", "lowlevel")
_BRANCH_SOURCES = {"lowlevel": ": a CNN on FerretNet's residual (arXiv 2509.20890)"}
_COLUMNS = [
    *("id", "status", "error", "logit", "p_generated", "generator", "drift_cosine"),
    *(f"logit_{name}" for name in _BRANCHES),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateJob:
    """What to evaluate, on what, where to.

    `suites`   names of radet.degradations.SUITES, or conditions, separated by commas
    `neutral`  every condition once more, behind one resize and one JPEG for both classes
    `peers`    models on whose encoders published methods are evaluated too (radet.peers)
    `groups`   a manifest with a uri and a pair_group column; without it a pair group is a source with both classes
    `limit`    at most so many pictures, drawn evenly from the whole listing, one of each class at least
    """

    data: str
    models: tuple[str, ...]
    out: str
    suites: str = CLEAN
    neutral: bool = False
    peers: tuple[str, ...] = ()
    groups: str | None = None
    limit: int | None = None
    address: str | None = None
    workers: int | None = None
    batch_size: int | None = None
    allow_http: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One detector of the tables, or one of its branches alone.

    `scored`     by condition
    `drift`      cosine drift of each picture as it is, [N]; None for a branch, and where there is no drift
    `ms`         to score one picture in one process, without decoding; None where nothing was scored. For a branch the
                 detector's, times what the branch alone took next to the detector in this process
    `gmac`       multiply-accumulates of one picture, in 1e9; for a branch of the passes that it needs alone
    `whole`      False for a branch
    `confusion`  as radet.evaluation.confusion gives it, for pictures as they are; None where no generator is named
    """

    name: str
    source: str
    model_id: str
    config: DetectorConfig
    scored: dict[str, Scored]
    drift: Floats | None
    ms: float | None
    gmac: float
    whole: bool
    confusion: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything that was found; `rows` are those of metrics.json."""

    labelled: Labelled
    groups: NDArray[np.str_]  # [N]
    conditions: list[str]
    contenders: list[Contender]
    rows: list[dict[str, Any]]
    failures: list[dict[str, str]]
    promises: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def sources(self) -> NDArray[np.str_]:
        """What made each picture, [N]."""
        return np.array(self.labelled.sources)

    def row(self, detector: str, condition: str = CLEAN, scope: str = "all", name: str = "") -> dict[str, Any] | None:
        """The row of metrics.json, or None."""
        for row in self.rows:
            if (row["detector"], row["condition"], row["scope"], row["name"]) == (detector, condition, scope, name):
                return row
        return None


class EvaluateWatcher:
    """What an evaluation tells while it runs."""

    def opened(self, labelled: Labelled, conditions: list[str], detectors: list[str]) -> None:
        """Before any picture is scored."""

    def detector(self, number: int, name: str) -> Watcher:  # noqa: ARG002
        """Before each detector; the watcher of its scoring run."""
        return Watcher()


def evaluate(job: EvaluateJob, watcher: EvaluateWatcher) -> Evaluation:
    """Score, tabulate and write metrics.json and the tables; the report is drawn from what is returned.

    Raises ConfigError and ModelError before any work, IncompleteError as pipelines.score.
    """
    chosen = conditions(job.suites, neutral=job.neutral)
    if len(set(job.models)) != len(job.models) or not job.models:
        raise ConfigError("name one model at least, and none twice")
    greet(*job.models, *job.peers, job.data, job.out)
    for model in (*job.models, *job.peers):
        DetectorConfig.read(resolve_model(local_model(model)))
    labelled = draw(list_labelled(job.data), job.limit)
    groups = pair_groups(labelled, job.groups)
    folder = open_folder(job.out)
    asked = pa.array([input_id(location, condition) for location in labelled.locations for condition in chosen])
    with (
        tempfile.TemporaryDirectory(prefix="radet-peers-") as scratch,
        Lease(folder),  # another one would write other inputs
        connected(job.address),
    ):
        folder.write("inputs.jsonl", manifest_of(labelled, chosen))
        entrants = _entrants(job, Path(scratch))
        watcher.opened(labelled, chosen, [entrant.name for entrant in entrants])
        contenders: list[Contender] = []
        failures: list[dict[str, str]] = []
        for number, entrant in enumerate(entrants):
            table, ms = _scored_by(job, folder.url, entrant, watcher.detector(number, entrant.name))
            table = table.filter(pc.is_in(table["id"], asked))  # OUT may hold rows of other pictures and conditions
            contenders += _contenders(entrant, table, labelled, chosen, ms)
            failures = failures or _failures(table)
    rows = [row for contender in contenders for row in _rows(contender, labelled, groups, chosen)]
    promises = {
        c.name: kept_promises(p, labelled.generated, c.config)
        for c in contenders
        if (p := c.scored[CLEAN].p) is not None and c.config.thresholds
    }
    found = Evaluation(
        labelled=labelled,
        groups=groups,
        conditions=chosen,
        contenders=contenders,
        rows=rows,
        failures=failures,
        promises=promises,
    )
    write_tables(folder, display(job.data), found)
    return found


def _scored_by(job: EvaluateJob, out: str, entrant: "_Entrant", watcher: Watcher) -> tuple[pa.Table, float | None]:
    """Score OUT/inputs.jsonl by one detector: all rows that OUT now has of it, and the milliseconds of a picture."""
    scores = scores_of(out, entrant.name)
    one = ScoreJob(
        src=f"{out}/inputs.jsonl",
        out=scores,
        model=entrant.model,
        ids="id",
        address=job.address,
        workers=job.workers,
        batch_size=job.batch_size,
        allow_http=job.allow_http,
    )
    model_id = score(one, watcher)["model_id"]
    table = read_scores(scores, columns=[*_COLUMNS, "model_id"])
    return table.filter(pc.equal(table["model_id"], model_id)), _milliseconds(scores, model_id)


def scores_of(out: str, detector: str) -> str:
    """Where an evaluation keeps the scores of a detector of this name."""
    return f"{out.rstrip('/')}/scores/{_slug(detector)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entrant:
    """A detector before it has scored."""

    name: str
    source: str
    model: str
    config: DetectorConfig
    gmac: float
    branches: dict[str, tuple[float, float]] = field(default_factory=dict)  # gmac, time next to the whole


def _entrants(job: EvaluateJob, scratch: Path) -> list[_Entrant]:
    """The models, then the peers: where a picture has no room for all, the peers give way."""
    from radet.cost import gmac  # noqa: PLC0415 - torch, which other drivers do without
    from radet.detector import Detector  # noqa: PLC0415
    from radet.peers import LINEAR, LINEAR_SOURCE, drift_detectors, linear_detector  # noqa: PLC0415

    find_encoders()
    own: list[_Entrant] = []
    others: list[_Entrant] = []
    for model in dict.fromkeys((*job.models, *job.peers)):
        detector = Detector.from_pretrained(local_model(model))
        if model in job.models:
            name = _unique(detector.config.name, own + others)
            own.append(
                _Entrant(
                    name=name,
                    source=f"{display(model)}, {detector.model_id}",
                    model=model,
                    config=detector.config,
                    gmac=gmac(detector),
                    branches=_branch_costs(detector),
                )
            )
        if model in job.peers:
            suffix = f" on {detector.config.name}'s encoder" if len(job.peers) > 1 else ""
            peers = [(peer.name, peer.source, other) for peer, other in drift_detectors(detector)]
            if (linear := linear_detector(detector)) is not None:
                peers.insert(0, (LINEAR, LINEAR_SOURCE, linear))
            for peer, source, other in peers:
                name = _unique(peer + suffix, own + others)
                where = _saved(other, _slug(name), scratch, job.out)
                others.append(_Entrant(name=name, source=source, model=where, config=other.config, gmac=gmac(other)))
    return own + others


def _saved(detector: Any, slug: str, scratch: Path, out: str) -> str:
    """Where the scoring processes find a peer: in OUT if that is S3, which every node reaches, else on this disk."""
    detector.save_pretrained(scratch / slug)
    if not out.startswith("s3://"):
        return str(scratch / slug)
    shared = open_folder(f"{out.rstrip('/')}/models/{slug}")
    for file in (scratch / slug).iterdir():
        shared.write(file.name, file.read_bytes())
    return shared.url


def _branch_costs(detector: Any) -> dict[str, tuple[float, float]]:
    from radet.cost import gmac, relative_time  # noqa: PLC0415
    from radet.peers import branch_detector  # noqa: PLC0415

    heads = detector.config.heads
    if heads is None or len(heads.branches) == 1:
        return {}
    alone = {branch: branch_detector(detector, branch) for branch in heads.branches}
    return {branch: (gmac(one), relative_time(one, detector)) for branch, one in alone.items()}


def _contenders(
    entrant: _Entrant, table: pa.Table, labelled: Labelled, chosen: list[str], ms: float | None
) -> Iterator[Contender]:
    """The detector and, where it has several branches, each of them alone. `ms` as in Contender."""
    where = _places(table, labelled, chosen)

    def column(name: str) -> dict[str, Floats]:
        values = table[name].to_numpy(zero_copy_only=False).astype(np.float64)
        found = {}
        for condition, (rows, places) in where.items():
            found[condition] = np.full(len(labelled.locations), np.nan)
            found[condition][places] = values[rows]
        return found

    logit, p, drift = column("logit"), column("p_generated"), column("drift_cosine")
    model_id = table["model_id"][-1].as_py() if len(table) else ""
    calibrated, drifts = entrant.config.calibration is not None, np.isfinite(drift[CLEAN]).any()
    scores = logit if np.isfinite(logit[CLEAN]).any() else drift

    def contender(name: str, source: str, scored: dict[str, Scored], gmac: float, time: float = 1.0) -> Contender:
        whole = name == entrant.name
        return Contender(
            name=name,
            source=source,
            model_id=model_id,
            config=entrant.config,
            scored=scored,
            drift=drift[CLEAN] if whole and drifts else None,
            ms=None if ms is None else ms * time,
            gmac=gmac,
            whole=whole,
        )

    own = {c: Scored(score=scores[c], p=p[c] if calibrated else None) for c in chosen}
    heads = entrant.config.heads
    whole = contender(entrant.name, entrant.source, own, entrant.gmac)
    if heads is not None and heads.attribution is not None:
        named: list[str | None] = [None] * len(labelled.locations)
        for row, position in zip(*where[CLEAN], strict=True):
            named[position] = table["generator"][row].as_py()
        counted_N = labelled.generated & np.isfinite(scores[CLEAN])
        families = heads.attribution.families
        whole = replace(whole, confusion=confusion(named, counted_N, labelled.sources, families))
    yield whole
    for branch, cost in entrant.branches.items():
        alone = {c: Scored(score=values, p=None) for c, values in column(f"logit_{branch}").items()}
        source = f"a branch of {entrant.name}{_BRANCH_SOURCES.get(branch, '')}"
        yield contender(f"{entrant.name}: {branch} alone", source, alone, *cost)


def _places(table: pa.Table, labelled: Labelled, chosen: list[str]) -> dict[str, tuple[list[int], list[int]]]:
    """By condition: rows of the table, and the position of the picture that each is of, which the listing may name
    twice."""
    positions_of: dict[str, list[int]] = {}
    for position, location in enumerate(labelled.locations):
        positions_of.setdefault(display(location), []).append(position)
    found: dict[str, tuple[list[int], list[int]]] = {condition: ([], []) for condition in chosen}
    for row, name in enumerate(table["id"].to_pylist()):
        condition, _, location = name.partition("!")
        if condition in found:
            rows, positions = found[condition]
            for position in positions_of.get(location, ()):
                rows.append(row)
                positions.append(position)
    return found


def _rows(
    contender: Contender, labelled: Labelled, groups: NDArray[np.str_], chosen: list[str]
) -> Iterator[dict[str, Any]]:
    label, sources = labelled.generated, np.array(labelled.sources)
    verdict = contender.config.verdict
    threshold = None if verdict is None else verdict.generated_above
    for condition in chosen:
        scored = contender.scored[condition]

        def row(scope: str, name: str, values: dict[str, Any], condition: str = condition) -> dict[str, Any]:
            return {"detector": contender.name, "condition": condition, "scope": scope, "name": name, **values}

        def of(chosen_N: NDArray[np.bool_], draws: int, scored: Scored = scored) -> dict[str, Any]:
            part = Scored(score=scored.score[chosen_N], p=None if scored.p is None else scored.p[chosen_N])
            return figures(part, label[chosen_N], threshold, draws=draws)

        yield row("all", "", figures(scored, label, threshold, draws=DRAWS))
        generators = {name: of(~label | (sources == name), DRAWS // 5) for name in sorted(set(sources[label]))}
        pairs = {
            name: of(groups == name, DRAWS // 5)
            for name in sorted(set(groups.tolist()) - {""})
            if 0 < label[groups == name].mean() < 1
        }
        for scope, parts in (("generator", generators), ("pair group", pairs)):
            yield from (row(scope, str(name), values) for name, values in parts.items())
            if parts:
                yield row(f"mean of {scope}s", "", mean_of(list(parts.values())))


def _failures(table: pa.Table) -> list[dict[str, str]]:
    return [
        {"id": row["id"], "status": row["status"], "error": row["error"] or ""}
        for row in table.to_pylist()
        if row["status"] != "ok"
    ]


def _milliseconds(out: str, model_id: str) -> float | None:
    """Of scoring one picture in one process, over all runs of this output."""
    manifests = Ledger(open_folder(out), model_id=model_id, rescore=False).manifests()
    works = [manifest["work"] for manifest in manifests if manifest["model_id"] == model_id]
    scored = sum(work["scored"] for work in works)
    return 1000 * sum(work["score_s"] for work in works) / scored if scored else None


def _unique(name: str, found: list[_Entrant]) -> str:
    taken = {entrant.name for entrant in found}
    return next(text for text in (name, *(f"{name} ({n})" for n in range(2, 100))) if text not in taken)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
