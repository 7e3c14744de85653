"""Two scoring outputs side by side: has what the detector says shifted from one night to the next?"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.ledger import RUNS, Ledger
from pipelines.s3 import greet
from pipelines.sink import read_scores
from pipelines.storage import open_folder
from radet.errors import ConfigError
from radet.metrics import quantiles
from radet.shift import NOTABLE_PSI, psi

#: Scored pictures from which on a PSI, over twenty bins, says something of them and not of their number.
LEAST = 100
_MOST = 2_000_000  # rows of a night that is compared in passing
_VALUES = ("p_generated", "logit", "drift_cosine", "drift_mahalanobis")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """Of one value: how many pictures have it, its medians, PSI and KS of the later against the earlier, and how likely
    chance alone gives such a KS."""

    value: str
    earlier: int
    later: int
    median_earlier: float
    median_later: float
    psi: float
    ks: float
    chance: float

    @property
    def notable(self) -> bool:
        """Large, and no accident of few pictures."""
        return self.psi > NOTABLE_PSI and self.chance < 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`statuses` and `verdicts`: shares of the rows, earlier and later, by name."""

    model_id: str
    rows: tuple[int, int]
    shifts: list[Shift]
    statuses: dict[str, tuple[float, float]]
    verdicts: dict[str, tuple[float, float]]

    @property
    def notable(self) -> bool:
        return any(shift.notable for shift in self.shifts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nights:
    """A run of an output and the one before it."""

    earlier: str
    later: str
    comparison: Comparison


def compare_nights(out: str, manifest: dict[str, Any]) -> Nights | None:
    """The run of `manifest` against the latest one before it that this model scored pictures in.

    None where there is none, or where one of the two is too small to say anything, or too large to be read in passing.
    """
    before: dict[str, Any] | None = None
    for one in Ledger(open_folder(out), model_id=manifest["model_id"], rescore=False).manifests():
        enough = one["statuses"].get("ok", 0) >= LEAST and one["rows"] <= _MOST
        if one["model_id"] == manifest["model_id"] and one["run"] < manifest["run"] and enough:
            before = one
    if before is None or not LEAST <= manifest["statuses"].get("ok", 0) <= manifest["rows"] <= _MOST:
        return None
    earlier, later = (f"{out.rstrip('/')}/{RUNS}{run}.json" for run in (before["run"], manifest["run"]))
    return Nights(earlier=before["run"], later=manifest["run"], comparison=compare(earlier, later))


def compare(earlier: str, later: str) -> Comparison:
    """Two outputs of `radet score`, or two runs of one (OUT/_runs/RUN.json).

    Raises ConfigError: no committed run there, or scores of different models, which say nothing of the pictures.
    """
    greet(earlier, later)
    tables = [_read(earlier), _read(later)]
    models = [set(table["model_id"].unique().to_pylist()) for table in tables]
    both = models[0] & models[1]
    if not both:
        raise ConfigError(f"{earlier} and {later} have no model in common: score both with the same one")
    # An output may hold several models' scores; the newest that both have is the one that is in use.
    model_id = max(both, key=lambda name: _last(tables[1], name))
    old, new = (table.filter(pc.equal(table["model_id"], model_id)) for table in tables)
    found = [shift for name in _VALUES if (shift := _shift(name, _numbers(old, name), _numbers(new, name))) is not None]
    if not found:
        raise ConfigError(f"{earlier} or {later} has no scored picture of model {model_id}")
    return Comparison(
        model_id=model_id,
        rows=(old.num_rows, new.num_rows),
        shifts=found,
        statuses=_shares(old, new, "status"),
        verdicts=_shares(old, new, "verdict"),
    )


def _read(out: str) -> pa.Table:
    columns = [*_VALUES, "status", "verdict", "model_id", "scored_at"]
    folder, inside, name = out.rpartition(f"/{RUNS}")
    if not inside:
        return read_scores(out, columns=columns)
    return read_scores(folder, columns=columns, run=name.removesuffix(".json"))


def _last(table: pa.Table, model_id: str) -> datetime:
    found: datetime = pc.max(table.filter(pc.equal(table["model_id"], model_id))["scored_at"]).as_py()
    return found


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    found: NDArray[np.float64] = table[name].drop_null().to_numpy().astype(np.float64)
    return found


def _shift(name: str, old: NDArray[np.float64], new: NDArray[np.float64]) -> Shift | None:
    if not len(old) or not len(new):
        return None
    from scipy.stats import ks_2samp  # noqa: PLC0415 - a second, at the end of runs that have a night before

    test = ks_2samp(old, new)
    return Shift(
        value=name,
        earlier=len(old),
        later=len(new),
        median_earlier=float(np.median(old)),
        median_later=float(np.median(new)),
        psi=psi(new, quantiles(old)),
        ks=float(test.statistic),
        chance=float(test.pvalue),
    )


def _shares(old: pa.Table, new: pa.Table, column: str) -> dict[str, tuple[float, float]]:
    counts = [
        {str(pair["values"]): pair["counts"] for pair in table[column].drop_null().value_counts().to_pylist()}
        for table in (old, new)
    ]
    totals = [max(1, sum(count.values())) for count in counts]
    names = sorted(counts[0].keys() | counts[1].keys())
    return {name: (counts[0].get(name, 0) / totals[0], counts[1].get(name, 0) / totals[1]) for name in names}
