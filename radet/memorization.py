"""How far the features of generated pictures lie from a reference set's: the side memorization divergence (METHOD
section 6), as a symmetric Kullback-Leibler divergence

    J(P, Q) = KL(P || Q) + KL(Q || P)        in nats, 0 for equal distributions

of P, the features of generated pictures, and Q, those of the (claimed) training set, by two estimators:

    gaussian   both fitted as Gaussians, closed form: sees means and covariances, nothing else
    knn        from nearest neighbours: sees any difference, yet grows too slowly with J in many dimensions

Features are projected to a few principal axes first. KL only falls under a projection: both estimate a lower bound of
the divergence of the full features, and that of the pictures is larger still.

The axes are those of ALL the pictures of an analysis together, each counted once. So they know no labels (which
is what makes `chance` exact and keeps a small set from being seen along axes fitted to its own noise), and every
comparison of a layer is made in the same coordinates.

N M pictures, D feature width, K axes, R draws
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from radet.errors import ConfigError
from radet.ranking import LEVEL

Floats = NDArray[np.float64]

_RANK = 1e-10  # axes with less than this share of the first one's variance carry rounding only


class Axes(NamedTuple):
    """Principal axes, scaled so that the features they were fitted on have unit variance along each."""

    mean: Floats  # [D]
    axes: Floats  # [D, K]
    explained: float  # share of the variance that lies along them, in [0, 1]

    def project(self, x_ND: Floats) -> Floats:
        """Coordinates [N, K]."""
        return (x_ND - self.mean) @ self.axes


class Divergence(NamedTuple):
    """J in nats; an estimate of 0 scatters around 0, so it may be negative.

    `low`, `high`  95 % interval, given the axes
    `chance`       what the same pictures, divided at random into sets of the same sizes, exceed one time in twenty: a
                   `value` below it is no evidence of any difference
    """

    value: float
    low: float
    high: float
    chance: float


def fit_axes(x_ND: Floats, components: int) -> Axes:
    """The first `components` principal axes of N features, fewer where N or the rank allows no more.

    Raises ConfigError for fewer than two pictures or features that are all equal.
    """
    mean_D = x_ND.mean(0)
    _, s, axes_KD = np.linalg.svd(x_ND - mean_D, full_matrices=False)
    variance = s**2 / max(1, len(x_ND) - 1)
    keep = min(components, int((variance > _RANK * variance[0]).sum())) if len(x_ND) > 1 else 0
    if keep == 0:
        raise ConfigError("a divergence needs pictures that differ: these give the encoder one and the same features")
    axes_DK = axes_KD[:keep].T / np.sqrt(variance[:keep])
    return Axes(mean_D, axes_DK, float(variance[:keep].sum() / variance.sum()))


def least_pictures(components: int) -> int:
    """Pictures that each set must have for `gaussian_divergence` in so many dimensions: with fewer, the interval is
    wider than what it is about."""
    return 3 * components


def gaussian_divergence(p_NK: Floats, q_MK: Floats, *, draws: int = 200, seed: int = 0) -> Divergence:
    """J of Gaussians fitted to two sets, corrected for their sizes; bootstrap interval.

    With means m, covariances S and d = m_P - m_Q

        J = 1/2 [ tr(S_Q^-1 S_P) + tr(S_P^-1 S_Q) - 2K + d^T (S_P^-1 + S_Q^-1) d ]

    Plugged in as they are, estimated covariances give far too much: 0.64 instead of 0 for 150 pictures a set and K = 8.
    Shrinkage (Ledoit-Wolf) cures that and takes away most of a true difference too: 0.9 instead of 1.65. But inverse
    covariances of Gaussian samples are too large by exactly (N - 1) / (N - K - 2) in the mean, and the term in d by the
    noise of the two means; both are taken out here, which leaves an unbiased estimate. Of heavier tails it is not
    exactly so; `chance` and the interval do not lean on the Gaussian.

    Draws with replacement repeat the bias of plugging in, so the interval is the spread of the draws about their own
    mean, put around the corrected value.

    Raises ConfigError where a set is smaller than `least_pictures` of K.
    """
    least = least_pictures(p_NK.shape[1])
    if min(len(p_NK), len(q_MK)) < least:
        raise ConfigError(f"a divergence along {p_NK.shape[1]} axes needs {least} pictures in each set, at least")
    rng = np.random.default_rng(seed)
    n, m = len(p_NK), len(q_MK)
    both = np.concatenate([p_NK, q_MK])
    drawn = _gaussian(
        p_NK, rng.multinomial(n, np.full(n, 1 / n), draws), q_MK, rng.multinomial(m, np.full(m, 1 / m), draws)
    )
    inside_RN = np.zeros((draws, n + m))
    np.put_along_axis(inside_RN, rng.permuted(np.tile(np.arange(n + m), (draws, 1)), axis=1)[:, :n], 1.0, axis=1)
    relabelled = _gaussian(both, inside_RN, both, 1 - inside_RN)
    (value,) = _gaussian(p_NK, np.ones((1, n)), q_MK, np.ones((1, m)))
    return _around(float(value), drawn, relabelled)


def knn_divergence(p_NK: Floats, q_MK: Floats, *, k: int = 5, draws: int = 100, seed: int = 0) -> Divergence:
    """J from distances to the k-th nearest neighbour; interval from random halves.

    KL(P || Q) = K/N sum_i ln(nu_i / rho_i) + ln(M / (N - 1)), rho_i being the distance from picture i of P to its k-th
    neighbour in P and nu_i in Q (Wang, Kulkarni & Verdu, "Divergence estimation for multidimensional densities via
    k-nearest-neighbor distances", IEEE Trans. Inf. Theory 55 (2009), eq. 5; Perez-Cruz, ISIT 2008).

    A bootstrap draw repeats pictures, and a repeated picture is its own neighbour at distance 0. So the draws are
    halves of each set without replacement: the spread of half-sample estimates is that of the whole sample's (the
    delete-half jackknife, Shao & Wu, Ann. Statist. 17 (1989)). Features that a set holds twice count once, for the same
    reason; what both sets hold may stay, since k >= 2.

    Raises ConfigError for k < 2, or a set with fewer than 4 k different pictures.
    """
    p_NK, q_MK = np.unique(p_NK, axis=0), np.unique(q_MK, axis=0)
    n, m = len(p_NK), len(q_MK)
    if k < 2 or min(n, m) < 4 * k:
        raise ConfigError(f"{k} neighbours: at least 2, and {4 * k} different pictures in each set")
    rng = np.random.default_rng(seed)
    both = np.concatenate([p_NK, q_MK])
    distance = cdist(both, both)
    in_p, in_q = np.arange(n), np.arange(n, n + m)
    width = p_NK.shape[1]
    drawn, relabelled = [], []
    for _ in range(draws):
        half_p, half_q = (rng.choice(part, len(part) // 2, replace=False) for part in (in_p, in_q))
        drawn.append(_knn(distance, half_p, half_q, k, width))
        mixed = rng.permutation(n + m)
        relabelled.append(_knn(distance, mixed[:n], mixed[n:], k, width))
    return _around(_knn(distance, in_p, in_q, k, width), np.array(drawn), np.array(relabelled))


def _gaussian(p_NK: Floats, p_RN: NDArray[np.generic], q_MK: Floats, q_RM: NDArray[np.generic]) -> Floats:
    """The corrected J of R weighted pairs of sets, [R]; row weights are how often each picture counts."""
    mean_p, cov_p, n = _moments(p_NK, p_RN)
    mean_q, cov_q, m = _moments(q_MK, q_RM)
    k = p_NK.shape[1]
    # pinv: a draw of few pictures many times over may be singular.
    inverse_p = np.linalg.pinv(cov_p, hermitian=True) * (n - k - 2) / (n - 1)
    inverse_q = np.linalg.pinv(cov_q, hermitian=True) * (m - k - 2) / (m - 1)
    d_RK = mean_p - mean_q
    a_R = np.einsum("rij,rji->r", inverse_q, cov_p)  # tr(S_Q^-1 S_P)
    b_R = np.einsum("rij,rji->r", inverse_p, cov_q)
    far_R = np.einsum("ri,rij,rj->r", d_RK, inverse_p + inverse_q, d_RK) - (a_R / n + k / m) - (b_R / m + k / n)
    found: Floats = 0.5 * (a_R + b_R - 2 * k + far_R)
    return found


def _moments(x_NK: Floats, w_RN: NDArray[np.generic]) -> tuple[Floats, Floats, float]:
    """Means [R, K], unbiased covariances [R, K, K] and the weight of a row, the same for all."""
    weight = np.asarray(w_RN, np.float64)
    n, k = float(weight[0].sum()), x_NK.shape[1]
    mean_RK = weight @ x_NK / n
    second = (weight @ (x_NK[:, :, None] * x_NK[:, None, :]).reshape(len(x_NK), k * k)).reshape(-1, k, k) / n
    return mean_RK, (second - mean_RK[:, :, None] * mean_RK[:, None, :]) * n / (n - 1), n


def _knn(distance: Floats, p: NDArray[np.intp], q: NDArray[np.intp], k: int, width: int) -> float:
    """J of two sets of positions in a matrix of distances."""

    def one_way(a: NDArray[np.intp], b: NDArray[np.intp]) -> float:
        rho = np.partition(distance[np.ix_(a, a)], k, axis=1)[:, k]  # place 0 is the picture itself
        nu = np.partition(distance[np.ix_(a, b)], k - 1, axis=1)[:, k - 1]
        return float(width * np.log(nu / rho).mean() + np.log(len(b) / (len(a) - 1)))

    return one_way(p, q) + one_way(q, p)


def _around(value: float, drawn: Floats, relabelled: Floats) -> Divergence:
    low, high = value + np.quantile(drawn - drawn.mean(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Divergence(value, float(low), float(high), float(np.quantile(relabelled, LEVEL, method="higher")))
