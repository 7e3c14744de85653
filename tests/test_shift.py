"""PSI and KS against quantiles."""

import math

import numpy as np
import pytest

from radet.metrics import quantiles
from radet.shift import NOTABLE_PSI, ks, psi

REAL = np.random.default_rng(1).beta(2, 5, 20_000)


def test_the_same_distribution_does_not_shift() -> None:
    later = np.random.default_rng(2).beta(2, 5, 2000)
    assert psi(later, quantiles(REAL)) < 0.05
    assert ks(later, quantiles(REAL)) < 0.05


def test_another_one_does() -> None:
    later = np.random.default_rng(3).beta(4, 4, 2000)
    assert psi(later, quantiles(REAL)) > NOTABLE_PSI
    assert ks(later, quantiles(REAL)) > 0.3


def test_psi_is_its_formula() -> None:
    reference = np.linspace(0, 1, 21)
    later = np.concatenate([np.full(90, 0.01), np.full(10, 0.99)])
    counts = np.array([90, *[0] * 18, 10]) + 0.5
    shares = counts / counts.sum()
    assert psi(later, reference) == pytest.approx(float(((shares - 0.05) * np.log(shares / 0.05)).sum()))


def test_ks_is_the_largest_distance_at_the_quantiles() -> None:
    assert ks([2.0, 3.0], np.linspace(0, 1, 21)) == 1.0
    assert ks([-2.0, -3.0], np.linspace(0, 1, 21)) == 1.0
    assert ks([0.25, 0.75], np.linspace(0, 1, 21)) == pytest.approx(0.25)


def test_ties_in_the_reference_are_one_bin() -> None:
    tied = [0.0] * 11 + list(np.linspace(0.1, 1, 10))
    later = np.concatenate([np.zeros(50), np.random.default_rng(4).uniform(0.1, 1, 50)])
    assert 0 <= psi(later, tied) < 0.3
    assert ks(later, tied) < 0.1


def test_no_values_are_no_shift() -> None:
    assert math.isnan(psi([], quantiles(REAL)))
    assert math.isnan(ks([], quantiles(REAL)))
