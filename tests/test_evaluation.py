"""One table row, against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, brier_score_loss, roc_curve

from radet.config import DetectorConfig, resolve
from radet.evaluation import Scored, figures, kept_promises, mean_of

RNG = np.random.default_rng(0)
LABEL = RNG.random(500) < 0.4
SCORE = np.round(RNG.normal(size=500) + LABEL, 1)
P = 1 / (1 + np.exp(-SCORE))


def test_decisions_are_those_of_scikit_learn() -> None:
    threshold = float(P[SCORE == 0.4][0])  # as some pictures have it, which are not above it
    row = figures(Scored(score=SCORE, p=P), LABEL, threshold)
    called = threshold < P
    assert row["accuracy"] == pytest.approx(accuracy_score(LABEL, called), abs=1e-9)
    assert row["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(LABEL, called), abs=1e-9)
    assert row["accuracy_at_half"] == pytest.approx(accuracy_score(LABEL, P > 0.5), abs=1e-9)
    assert row["brier"] == pytest.approx(brier_score_loss(LABEL, P), abs=1e-9)
    assert row["fpr"] == pytest.approx(called[~LABEL].mean(), abs=1e-9)
    assert row["real_accuracy"] + row["fpr"] == pytest.approx(1)
    fpr, tpr, _ = roc_curve(LABEL, SCORE, drop_intermediate=False)
    best = max(t * LABEL.sum() + (1 - f) * (~LABEL).sum() for f, t in zip(fpr, tpr, strict=True)) / len(LABEL)
    assert row["oracle_accuracy"] == pytest.approx(best, abs=1e-9)


def test_what_could_not_be_scored_is_counted_and_in_no_figure() -> None:
    score = SCORE.copy()
    score[::10] = np.nan
    p = np.where(np.isfinite(score), P, np.nan)
    row = figures(Scored(score=score, p=p), LABEL, 0.6)
    there = np.isfinite(score)
    assert row["failed"] == 50
    assert row["real"] + row["generated"] == 450
    assert row["accuracy"] == pytest.approx(((P > 0.6) == LABEL)[there].mean())
    none = np.full(500, np.nan)
    assert figures(Scored(score=none, p=none), LABEL, 0.6) == {"real": 0, "generated": 0, "failed": 500}


def test_without_a_probability_nothing_is_decided_and_too_few_pictures_rank_nothing() -> None:
    row = figures(Scored(score=SCORE, p=None), LABEL, None, draws=50)
    assert "accuracy" not in row
    assert set(row["intervals"]) == {"auroc", "ap", "tpr_at_1", "tpr_at_5"}
    for real in (4, 5):
        few = figures(Scored(score=SCORE[: 5 + real], p=None), np.arange(5 + real) < 5, None)
        assert ("auroc" in few) == (real == 5)
    one_class = figures(Scored(score=SCORE, p=P), np.ones(500, bool), 0.6, draws=10)
    assert "auroc" not in one_class
    assert one_class["fake_accuracy"] == pytest.approx((P > 0.6).mean())
    assert np.isnan(one_class["balanced_accuracy"])


def test_intervals_hold_the_figure() -> None:
    row = figures(Scored(score=SCORE, p=P), LABEL, 0.6, draws=300)
    for name, (low, high) in row["intervals"].items():
        assert low <= row[name] <= high, name
    assert row["intervals"]["fpr"][1] - row["intervals"]["fpr"][0] < 0.15


def test_promises_are_checked_with_the_checkpoints_own_thresholds() -> None:
    config = DetectorConfig.read(resolve("radet-lite"))
    p = P.copy()
    p[::3] = np.nan  # no score
    there = np.isfinite(p)
    kept = kept_promises(p, LABEL, config)
    assert [row["stated"] for row in kept] == [0.01, 0.03, 0.05]
    for row, threshold in zip(kept, config.thresholds, strict=True):
        assert row["fpr"] == pytest.approx((P[there & ~LABEL] > threshold.value).mean())
        assert row["tpr"] == pytest.approx((P[there & LABEL] > threshold.value).mean())
        assert row["interval"][0] <= row["fpr"] <= row["interval"][1]
    without = kept_promises(P, np.ones(500, bool), config)[0]
    assert np.isnan(without["fpr"])
    assert without["interval"] == [0.0, 1.0]


def test_a_mean_is_over_rows_that_have_the_figure() -> None:
    rows = [
        {"real": 3, "generated": 4, "failed": 1, "auroc": 0.5, "name": "a"},
        {"real": 3, "generated": 2, "failed": 0, "auroc": 0.9},
        {"real": 1, "generated": 1, "failed": 0},
        {"real": 1, "generated": 0, "failed": 0, "auroc": float("nan")},
    ]
    assert mean_of(rows) == {"real": 8, "generated": 7, "failed": 1, "auroc": pytest.approx(0.7), "rows": 4}
