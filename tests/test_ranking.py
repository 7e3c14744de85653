"""Ranking figures against scikit-learn, and what their intervals promise."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from radet.metrics import threshold_at
from radet.ranking import Ranking


def draw(seed: int, count: int = 400, shift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.random(count) < 0.4
    return rng.normal(size=count) + shift * label, label


@pytest.mark.parametrize("digits", [0, 1, 8])
@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_scikit_learn_with_and_without_ties(seed: int, digits: int) -> None:
    score, label = draw(seed)
    score = np.round(score, digits)
    figures = Ranking(score, label).figures()
    assert figures["auroc"][0] == pytest.approx(roc_auc_score(label, score), abs=1e-9)
    assert figures["ap"][0] == pytest.approx(average_precision_score(label, score), abs=1e-9)


@pytest.mark.parametrize("digits", [0, 1, 8])
@pytest.mark.parametrize(("name", "fpr"), [("tpr_at_1", 0.01), ("tpr_at_5", 0.05)])
def test_tpr_is_what_the_threshold_of_that_rate_finds(name: str, fpr: float, digits: int) -> None:
    score, label = draw(3)
    score = np.round(score, digits)
    expected = (score[label] > threshold_at(score[~label], fpr)).mean()
    assert Ranking(score, label).figures()[name][0] == pytest.approx(expected, abs=1e-12)


def test_weights_count_as_copies_do() -> None:
    score, label = draw(1, 60)
    score = np.round(score, 1)
    weight = np.random.default_rng(0).integers(0, 4, size=(3, 60)).astype(float)
    weight[0, score == score.max()] = 0
    weighted = Ranking(score, label).figures(weight)
    for row, copies in enumerate(weight.astype(int)):
        alone = Ranking(np.repeat(score, copies), np.repeat(label, copies)).figures()
        for name, value in alone.items():
            assert weighted[name][row] == pytest.approx(value[0], abs=1e-12), name


def test_without_one_class_there_is_no_figure() -> None:
    for label in ([1, 1], [0, 0]):
        figures = Ranking([0.1, 0.2], label).figures()
        assert np.isnan([figures["auroc"][0], figures["tpr_at_1"][0]]).all()
    assert np.isnan(Ranking([], []).intervals(draws=10)["auroc"]).all()
    with pytest.raises(ValueError, match="no rank"):
        Ranking([np.nan, 1.0], [0, 1])


def test_intervals_are_seeded_and_cover_the_truth_as_often_as_they_say() -> None:
    score, label = draw(0)
    assert Ranking(score, label).intervals(draws=100) == Ranking(score, label).intervals(draws=100)
    tied = Ranking(np.zeros(len(label)), label).intervals(draws=20)["ap"]
    assert tied == pytest.approx([label.mean()] * 2), "every draw has as many pictures of each class"
    truth = 0.760250  # of two unit normals one apart: Phi(1 / sqrt 2)
    inside = 0
    for seed in range(300):
        low, high = Ranking(*draw(seed, 200)).intervals(draws=200, seed=seed)["auroc"]
        inside += low <= truth <= high
    assert 0.91 <= inside / 300 <= 0.98
