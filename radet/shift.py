"""Have scores shifted? Two distributions compared: a reference, kept as quantiles, and later values. N values.

    PSI = sum over 20 bins of (later share - reference share) ln(later share / reference share)
    KS  = largest distance between the two cumulative distributions

The bins hold a twentieth of the reference each. Rules of thumb for the PSI: below 0.1 nothing happened, above 0.25 look
into it. What shifts is the pictures or the pipeline; neither says which.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from radet.config import QUANTILES

Floats = NDArray[np.float64]

#: Above it, pictures or pipeline are worth a look.
NOTABLE_PSI = 0.25


def psi(value_N: ArrayLike, quantiles_Q: Sequence[float]) -> float:
    """Population stability index, >= 0, of values against a reference's quantiles at radet.config.QUANTILES.

    nan without values. Half a value is added to each bin, so that an empty one is no infinity.
    """
    value = np.asarray(value_N, np.float64)
    if not len(value):
        return float("nan")
    edges, shares = _distribution(quantiles_Q[1:-1], QUANTILES[1:-1])
    expected = np.diff(np.concatenate([[0.0], shares, [1.0]]))
    counts = np.bincount(np.searchsorted(edges, value, "left"), minlength=len(expected))
    found = (counts + 0.5) / (len(value) + 0.5 * len(expected))
    return float(((found - expected) * np.log(found / expected)).sum())


def ks(value_N: ArrayLike, quantiles_Q: Sequence[float]) -> float:
    """Kolmogorov-Smirnov distance, in [0, 1], of values to a reference that is known at its quantiles; nan without
    values."""
    value = np.sort(np.asarray(value_N, np.float64))
    if not len(value):
        return float("nan")
    edges, shares = _distribution(quantiles_Q, QUANTILES)
    return float(np.abs(np.searchsorted(value, edges, "right") / len(value) - shares).max())


def _distribution(quantiles_Q: Sequence[float], shares_Q: Sequence[float]) -> tuple[Floats, Floats]:
    """The reference's cumulative distribution: distinct values, and the share up to and with each."""
    edges, last = np.unique(np.asarray(quantiles_Q, np.float64)[::-1], return_index=True)
    return edges, np.asarray(shares_Q, np.float64)[::-1][last]
