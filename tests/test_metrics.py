"""Figures by hand and against scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from radet.metrics import (
    auroc,
    average_precision,
    bootstrap,
    brier,
    expected_calibration_error,
    share_interval,
    threshold_at,
    tpr_at,
)

RNG = np.random.default_rng(0)
LABEL = RNG.random(300) < 0.4
SCORE = np.round(RNG.normal(size=300) + LABEL, 1)  # with ties


def test_auroc_counts_pairs_with_ties_half() -> None:
    assert auroc([1, 2, 2, 3], [0, 0, 1, 1]) == pytest.approx(3.5 / 4)
    assert auroc(SCORE, LABEL) == pytest.approx(roc_auc_score(LABEL, SCORE))
    assert math.isnan(auroc([1, 2], [1, 1]))


def test_average_precision_by_hand() -> None:
    assert average_precision([3, 2, 1], [1, 0, 1]) == pytest.approx((1 + 2 / 3) / 2)
    assert math.isnan(average_precision([1.0], [0]))


@pytest.mark.parametrize("fpr", [0.0, 0.01, 0.05, 0.5])
def test_a_threshold_keeps_its_rate_and_no_smaller_one_does(fpr: float) -> None:
    real = np.concatenate([SCORE[~LABEL], SCORE[~LABEL]])
    threshold = threshold_at(real, fpr)
    assert (real > threshold).mean() <= fpr
    below = real[real < threshold].max()
    assert (real > below).mean() > fpr


def test_tpr_at_a_rate() -> None:
    score, label = np.arange(200.0), np.arange(200) % 2 == 1
    assert tpr_at(score, label, 0.05) == pytest.approx((score[label] > threshold_at(score[~label], 0.05)).mean())
    assert tpr_at([0, 1, 2, 3], [0, 0, 1, 1], 0.01) == 1.0


def test_intervals_of_a_share() -> None:
    low, high = share_interval(5, 100)
    assert (low, high) == (pytest.approx(0.0164, abs=1e-4), pytest.approx(0.1128, abs=1e-4))  # Clopper-Pearson tables
    assert share_interval(0, 10)[0] == 0.0
    assert share_interval(10, 10)[1] == 1.0


def test_calibration_error_of_an_honest_and_of_a_boastful_probability() -> None:
    p = RNG.random(20_000)
    label = RNG.random(20_000) < p
    assert expected_calibration_error(p, label) < 0.02
    assert expected_calibration_error(np.clip(p * 2, 0, 1), label) > 0.15
    assert brier([1, 0, 0.5], [1, 0, 1]) == pytest.approx(0.25 / 3)


def test_bootstrap_covers_the_figure_and_is_seeded() -> None:
    low, high = bootstrap(auroc, SCORE, LABEL, draws=200)
    assert low < auroc(SCORE, LABEL) < high
    assert (low, high) == bootstrap(auroc, SCORE, LABEL, draws=200)
