"""Figures by hand and against scikit-learn."""

import math

import numpy as np
import pytest

from radet.config import QUANTILES
from radet.metrics import (
    auroc,
    brier,
    expected_calibration_error,
    percentile,
    quantiles,
    share_interval,
    threshold_at,
)

RNG = np.random.default_rng(0)
LABEL = RNG.random(300) < 0.4
SCORE = np.round(RNG.normal(size=300) + LABEL, 1)  # with ties


def test_auroc_counts_pairs_with_ties_half() -> None:
    assert auroc([1, 2, 2, 3], [0, 0, 1, 1]) == pytest.approx(3.5 / 4)
    assert math.isnan(auroc([1, 2], [1, 1]))
    assert math.isnan(auroc([1, math.nan], [0, 1]))


@pytest.mark.parametrize("fpr", [0.0, 0.01, 0.05, 0.5])
def test_a_threshold_keeps_its_rate_and_no_smaller_one_does(fpr: float) -> None:
    real = np.concatenate([SCORE[~LABEL], SCORE[~LABEL]])
    threshold = threshold_at(real, fpr)
    assert (real > threshold).mean() <= fpr
    below = real[real < threshold].max()
    assert (real > below).mean() > fpr


def test_a_rate_of_a_whole_number_of_pictures_may_be_used_up() -> None:
    assert 0.29 * 100 < 29, "as a computer multiplies"
    assert threshold_at(np.arange(100), 0.29) == 70


def test_intervals_of_a_share() -> None:
    low, high = share_interval(5, 100)
    assert (low, high) == (pytest.approx(0.0164, abs=1e-4), pytest.approx(0.1128, abs=1e-4))  # Clopper-Pearson tables
    assert share_interval(0, 10)[0] == 0.0
    assert share_interval(10, 10)[1] == 1.0


def test_calibration_error_of_ties_is_the_same_in_any_order() -> None:
    """Copies of a picture, say, or all that a saturated detector gives 1."""
    label = np.arange(40) < 20
    for order in (np.arange(40), np.random.default_rng(0).permutation(40)):
        assert expected_calibration_error(np.full(40, 0.5), label[order]) == pytest.approx(0)
        assert expected_calibration_error(np.full(40, 0.7), label[order]) == pytest.approx(0.2)


def test_calibration_error_of_an_honest_and_of_a_boastful_probability() -> None:
    p = RNG.random(20_000)
    label = RNG.random(20_000) < p
    assert expected_calibration_error(p, label) < 0.02
    assert expected_calibration_error(np.clip(p * 2, 0, 1), label) > 0.15
    assert expected_calibration_error([0.1] * 20 + [0.9] * 40, [0, 1] * 30) == pytest.approx(0.4), "right on the whole"
    assert brier([1, 0, 0.5], [1, 0, 1]) == pytest.approx(0.25 / 3)


def test_percentiles_of_a_kept_distribution() -> None:
    kept = quantiles(np.arange(101.0))
    assert kept == pytest.approx([100 * share for share in QUANTILES])
    assert [percentile(x, kept) for x in (-1, 0, 12.5, 100, 101)] == [0.0, 0.0, 0.125, 1.0, 1.0]
    steps = quantiles([0.0] * 50 + [1.0] * 50)
    assert percentile(0.0, steps) == pytest.approx(0.225, abs=0.03)  # the middle of those it equals
