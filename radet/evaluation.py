"""How good a detector is on labelled pictures: every figure of one table row, from scores alone.

N pictures; labels 1 = generated. A picture that could not be scored is counted, never replaced.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radet.config import UNKNOWN, DetectorConfig
from radet.metrics import brier, expected_calibration_error, share_interval
from radet.ranking import Ranking

Floats = NDArray[np.float64]
Interval = tuple[float, float]

_LEAST = 5  # pictures of each class, below which a figure says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What one detector said under one condition.

    `score`  higher means generated; nan for a picture that has no score
    `p`      p_generated; None where the detector is not calibrated
    """

    score: Floats
    p: Floats | None


def figures(scored: Scored, label_N: NDArray[np.bool_], threshold: float | None, *, draws: int = 0) -> dict[str, Any]:
    """One table row: counts, ranking figures and, where there is a probability, what a threshold makes of it.

    `threshold` is the checkpoint's, on p_generated; "at 0.5" stands beside it. `draws` > 0 adds 95 % intervals: of
    ranking figures by bootstrap, of shares exact (Clopper-Pearson). Keys:

        real, generated, failed       counts; `failed` are in neither
        auroc, ap, tpr_at_1, tpr_at_5 ranking; the last two at 1 % and 5 % of THESE real pictures
        oracle_accuracy               the best that any threshold could do here, chosen on these very labels
        accuracy, balanced_accuracy, real_accuracy, fake_accuracy, fpr   at the threshold
        accuracy_at_half, balanced_accuracy_at_half                      at p = 0.5
        ece, brier                    of p
        intervals                     {figure: [low, high]}
    """
    there = np.isfinite(scored.score)
    score, label = scored.score[there], label_N[there]
    real, generated = int((~label).sum()), int(label.sum())
    row: dict[str, Any] = {"real": real, "generated": generated, "failed": int((~there).sum())}
    intervals: dict[str, Interval] = {}
    if min(real, generated) >= _LEAST:
        ranking = Ranking(score, label)
        row |= {name: float(value[0]) for name, value in ranking.figures().items()}
        row["oracle_accuracy"] = _oracle_accuracy(ranking)
        if draws:
            intervals |= ranking.intervals(draws=draws)
    if scored.p is not None and threshold is not None and real + generated:
        p = scored.p[there]
        row |= _decided(p > threshold, label, intervals if draws else {})
        at_half = _decided(p > 0.5, label, {})
        row |= {f"{name}_at_half": at_half[name] for name in ("accuracy", "balanced_accuracy")}
        row |= {"ece": expected_calibration_error(p, label), "brier": brier(p, label)}
    if draws:
        row["intervals"] = {name: list(bounds) for name, bounds in intervals.items()}
    return row


def kept_promises(p_N: Floats, label_N: NDArray[np.bool_], config: DetectorConfig) -> list[dict[str, Any]]:
    """For each stated false-positive rate of a checkpoint, the rate on these pictures, with its exact 95 % interval."""
    there = np.isfinite(p_N)
    p, label = p_N[there], label_N[there]
    found: list[dict[str, Any]] = []
    for threshold in config.thresholds:
        hits, trials = int((p[~label] > threshold.value).sum()), int((~label).sum())
        found.append(
            {
                "stated": threshold.target_fpr,
                "threshold": threshold.value,
                "fpr": hits / trials if trials else float("nan"),
                "interval": list(share_interval(hits, trials)) if trials else [0.0, 1.0],
                "tpr": float((p[label] > threshold.value).mean()) if label.any() else float("nan"),
            }
        )
    return found


def confusion(
    named: Sequence[str | None], counted_N: NDArray[np.bool_], sources: Sequence[str], families: Sequence[str]
) -> dict[str, Any]:
    """How the generated pictures of each source were named by a detector with these families.

    `named` is the score rows' `generator`, `counted_N` says which pictures count: generated, and scored. Keys:

        columns          the families, "unknown", and "real": pictures whose verdict was that, which are not named
        rows             {name, known: whether the detector knows this family, counts by column}; known ones first
        accuracy         of the named pictures of known families, the share that got their own
        unseen_unknown   of the named pictures of other families, the share that is "unknown"
    """
    columns = [*families, UNKNOWN, "real"]
    place = {name: index for index, name in enumerate(columns[:-1])}
    counts: dict[str, list[int]] = {}
    for name, counted, source in zip(named, counted_N.tolist(), sources, strict=True):
        if counted:
            counts.setdefault(source, [0] * len(columns))[-1 if name is None else place[name]] += 1
    known, unseen = ([name for name in sorted(counts) if (name in families) is there] for there in (True, False))
    right = sum(counts[name][place[name]] for name in known)
    return {
        "columns": columns,
        "rows": [{"name": name, "known": name in families, "counts": counts[name]} for name in (*known, *unseen)],
        "accuracy": _share(right, sum(sum(counts[name][:-1]) for name in known)),
        "unseen_unknown": _share(
            sum(counts[name][-2] for name in unseen), sum(sum(counts[name][:-1]) for name in unseen)
        ),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def mean_of(rows: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The unweighted mean of rows, figure by figure, over those that have it; counts are summed."""
    counts = ("real", "generated", "failed")
    found: dict[str, Any] = {name: sum(row[name] for row in rows) for name in counts}
    names = dict.fromkeys(name for row in rows for name, value in row.items() if isinstance(value, float))
    for name in names:
        values = [value for row in rows if isinstance(value := row.get(name), float)]
        found[name] = float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
    return found | {"rows": len(rows)}


def _decided(called: NDArray[np.bool_], label: NDArray[np.bool_], intervals: dict[str, Interval]) -> dict[str, float]:
    """Shares of right answers, where `called` says generated."""
    right, real, generated = called == label, ~label, label
    found = {"accuracy": float(right.mean())}
    intervals["accuracy"] = share_interval(int(right.sum()), len(right))
    if real.any():
        found |= {"real_accuracy": float(right[real].mean()), "fpr": float(called[real].mean())}
        intervals["fpr"] = share_interval(int(called[real].sum()), int(real.sum()))
    if generated.any():
        found["fake_accuracy"] = float(right[generated].mean())
        intervals["fake_accuracy"] = share_interval(int(right[generated].sum()), int(generated.sum()))
    both = [found[name] for name in ("real_accuracy", "fake_accuracy") if name in found]
    found["balanced_accuracy"] = float(np.mean(both)) if len(both) == 2 else float("nan")
    return found


def _oracle_accuracy(ranking: Ranking) -> float:
    (tp_G,), (fp_G,) = ranking.curve()
    return float((tp_G + fp_G[-1] - fp_G).max() / (tp_G[-1] + fp_G[-1]))
