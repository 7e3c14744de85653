"""Divergences where the true value is known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from radet.errors import ConfigError
from radet.memorization import fit_axes, gaussian_divergence, knn_divergence, least_pictures

Floats = NDArray[np.float64]


def pair(seed: int, n: int, m: int, k: int, *, mean: float, std: float) -> tuple[Floats, Floats]:
    """Samples of N(mean, std^2 I) and of N(0, I)."""
    rng = np.random.default_rng(seed)
    return mean + std * rng.normal(size=(n, k)), rng.normal(size=(m, k))


def truth(k: int, mean: float, std: float) -> float:
    """J of those two: the closed form for isotropic Gaussians."""
    return 0.5 * k * (std**2 + std**-2 - 2 + mean**2 * (1 + std**-2))


@pytest.mark.parametrize(("mean", "std"), [(0.5, 1.0), (0.0, 1.5), (0.4, 0.7)])
def test_gaussian_divergence_is_the_closed_form(mean: float, std: float) -> None:
    found = gaussian_divergence(*pair(0, 3000, 3000, 4, mean=mean, std=std))
    assert found.value == pytest.approx(truth(4, mean, std), rel=0.1)
    assert found.low < truth(4, mean, std) < found.high
    assert found.value > found.chance


def test_correlated_gaussians_too() -> None:
    rng = np.random.default_rng(1)
    mixing = np.array([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [-0.5, 0.3, 0.9]])
    p, q = rng.normal(size=(4000, 3)) @ mixing.T, rng.normal(size=(4000, 3))
    covariance = mixing @ mixing.T
    expected = 0.5 * (np.trace(covariance) + np.trace(np.linalg.inv(covariance)) - 6)
    assert gaussian_divergence(p, q).value == pytest.approx(expected, rel=0.1)


def test_a_set_of_some_dozens_is_not_biased() -> None:
    """Plugging the estimated covariances in would give about 1.1 too much here."""
    values = [gaussian_divergence(*pair(s, 30, 90, 6, mean=0.3, std=1.2), draws=1).value for s in range(200)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values) - truth(6, 0.3, 1.2)) < 4 * error
    assert error < 0.06


def test_the_interval_covers_and_chance_is_exceeded_as_rarely_as_it_says() -> None:
    true = truth(4, 0.4, 1.3)
    apart = [gaussian_divergence(*pair(s, 80, 80, 4, mean=0.4, std=1.3), draws=100, seed=s) for s in range(100)]
    assert np.mean([one.low <= true <= one.high for one in apart]) >= 0.88
    equal = [gaussian_divergence(*pair(s, 80, 80, 4, mean=0, std=1), draws=100, seed=s) for s in range(100)]
    assert np.mean([one.low <= 0 <= one.high for one in equal]) >= 0.9
    assert np.mean([one.value > one.chance for one in equal]) <= 0.13


def test_knn_divergence_is_about_the_true_one_in_few_dimensions() -> None:
    """Of near distributions, in the mean: it falls short where one set reaches beyond the other."""
    values = [knn_divergence(*pair(s, 1000, 1000, 2, mean=0.5, std=1), draws=1).value for s in range(12)]
    assert np.mean(values) == pytest.approx(truth(2, 0.5, 1), rel=0.2)


def test_knn_divergence_of_equal_distributions_is_about_zero() -> None:
    found = [knn_divergence(*pair(s, 70, 90, 4, mean=0, std=1), draws=40, seed=s) for s in range(40)]
    assert abs(np.mean([one.value for one in found])) < 0.1
    assert np.mean([one.low <= 0 <= one.high for one in found]) >= 0.85
    assert np.mean([one.value > one.chance for one in found]) <= 0.15


def test_the_interval_of_knn_is_as_wide_as_its_spread() -> None:
    """The half-sample draws stand for the whole sample's spread, without any factor."""
    found = [knn_divergence(*pair(s, 120, 120, 2, mean=0.5, std=1), draws=40, seed=s) for s in range(40)]
    spread = np.std([one.value for one in found])
    width = np.median([one.high - one.low for one in found]) / (2 * 1.96)
    assert 0.6 < width / spread < 1.7


def test_knn_sees_what_means_and_covariances_do_not() -> None:
    rng = np.random.default_rng(3)
    angle = rng.uniform(0, 2 * np.pi, 400)
    ring = np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.1 * rng.normal(size=(400, 2))
    disc = rng.normal(size=(400, 2))
    assert gaussian_divergence(ring, disc).value < 0.2
    found = knn_divergence(ring, disc)
    assert found.low > max(0.5, found.chance)


def test_a_picture_that_is_there_twice_is_not_its_own_neighbour() -> None:
    p, q = pair(4, 60, 60, 3, mean=0.3, std=1)
    once, twice = knn_divergence(p, q), knn_divergence(np.concatenate([p, p]), q)
    assert once == twice
    shared = knn_divergence(np.concatenate([p, q[:10]]), q)
    assert np.isfinite(shared).all()


def test_both_are_symmetric_and_functions_of_their_seed() -> None:
    p, q = pair(5, 90, 60, 3, mean=0.3, std=1.2)
    for divergence in (gaussian_divergence, knn_divergence):
        assert divergence(p, q, seed=1) == divergence(p, q, seed=1)
        assert divergence(p, q, seed=1).low != divergence(p, q, seed=2).low
        assert divergence(p, q).value == pytest.approx(divergence(q, p).value, rel=1e-9)


def test_axes_are_those_of_the_largest_variance_at_unit_scale() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(500, 6)) * np.array([9.0, 5.0, 2.0, 0.1, 0.1, 0.1]) + 7
    axes = fit_axes(x, 3)
    assert axes.explained > 0.99
    y = axes.project(x)
    assert np.allclose(np.cov(y.T), np.eye(3), atol=1e-9)
    assert np.allclose(y.mean(0), 0, atol=1e-9)
    assert fit_axes(x[:3], 8).axes.shape == (6, 2), "three pictures span two axes"


def test_too_few_pictures_are_refused() -> None:
    p, q = pair(7, least_pictures(4) - 1, 100, 4, mean=0, std=1)
    with pytest.raises(ConfigError, match="12 pictures in each set"):
        gaussian_divergence(p, q)
    with pytest.raises(ConfigError, match="different pictures"):
        knn_divergence(np.repeat(p[:5], 10, axis=0), q)
    with pytest.raises(ConfigError, match="one and the same"):
        fit_axes(np.ones((10, 3)), 2)
