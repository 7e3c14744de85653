"""How good a score is, without any threshold chosen on the data it is judged by. N pictures; labels 1 = generated."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from radet.config import QUANTILES
from radet.ranking import LEVEL, Ranking

Floats = NDArray[np.float64]

_BINS = 15  # of the expected calibration error


def auroc(score_N: ArrayLike, label_N: ArrayLike) -> float:
    """Probability that a generated picture scores higher than a real one, ties counted half; in [0, 1].

    nan where a class is absent, or a score is not finite.
    """
    if not np.isfinite(np.asarray(score_N, np.float64)).all():
        return float("nan")
    return float(Ranking(score_N, label_N).figures()["auroc"][0])


def threshold_at(real_N: ArrayLike, fpr: float) -> float:
    """The smallest threshold with at most a share `fpr` of the real pictures above it: `score > threshold` is a hit."""
    ordered = np.sort(np.asarray(real_N, np.float64))[::-1]
    return float(ordered[min(int(np.floor(fpr * len(ordered) + 1e-9)), len(ordered) - 1)])


def share_interval(hits: int, trials: int) -> tuple[float, float]:
    """The 95 % Clopper-Pearson interval of the share hits / trials, trials >= 1: exact, never too narrow."""
    from scipy.stats import beta  # noqa: PLC0415 - two seconds, which scoring does without

    tail = (1 - LEVEL) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, trials - hits + 1))
    high = 1.0 if hits == trials else float(beta.ppf(1 - tail, hits + 1, trials - hits))
    return low, high


def expected_calibration_error(p_N: ArrayLike, label_N: ArrayLike) -> float:
    """ECE over 15 bins of equal count: mean |share of generated - mean p|, weighted by count; in [0, 1].

    Pictures with the same p all count with the mean of their labels. Otherwise their order would decide which of them
    lie in which bin.
    """
    p, label = np.asarray(p_N, np.float64), np.asarray(label_N, np.float64)
    _, place, count = np.unique(p, return_inverse=True, return_counts=True)
    label = (np.bincount(place, label) / count)[place]
    order = np.argsort(p, kind="stable")
    gaps = [abs(label[part].mean() - p[part].mean()) * len(part) for part in np.array_split(order, _BINS) if len(part)]
    return float(sum(gaps) / len(p))


def brier(p_N: ArrayLike, label_N: ArrayLike) -> float:
    """Mean squared error of a probability."""
    return float(np.mean((np.asarray(p_N, np.float64) - np.asarray(label_N, np.float64)) ** 2))


def quantiles(value_N: ArrayLike) -> tuple[float, ...]:
    """At the shares radet.config.QUANTILES, to six digits: what a checkpoint keeps of a distribution."""
    return tuple(float(f"{value:.6g}") for value in np.quantile(np.asarray(value_N, np.float64), QUANTILES))


def percentile(value: float, quantiles_Q: Sequence[float]) -> float:
    """Share of a distribution below `value`, in [0, 1], interpolated between its quantiles."""
    below, above = np.searchsorted(quantiles_Q, value, "left"), np.searchsorted(quantiles_Q, value, "right")
    if below < above:  # on a quantile: the middle of those it equals
        return float(np.mean(QUANTILES[below:above]))
    return float(np.interp(value, quantiles_Q, QUANTILES))
