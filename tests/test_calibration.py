"""A probability that means what it says, and a verdict with the rates that it states."""

import numpy as np
import pytest

from radet.calibration import fit_platt, fit_thresholds, fit_verdict, probability, sigmoid, verdicts
from radet.config import CalibrationConfig, VerdictConfig
from radet.errors import ModelError

RNG = np.random.default_rng(0)
LABEL = RNG.random(4000) < 0.25
LOGIT = 0.5 * RNG.normal(size=4000) + LABEL - 3  # far off: a quarter of the slope, another zero


def test_platt_recovers_the_probability_at_even_odds() -> None:
    found = fit_platt(LOGIT, LABEL, "noise")
    # Two normals one apart with deviation 1/2: the log odds are 4 (x - midpoint).
    assert found.scale == pytest.approx(4, rel=0.1)
    assert -found.offset / found.scale == pytest.approx(-2.5, abs=0.05)
    assert found.images == 4000
    p = probability(LOGIT, found)
    assert 0.45 < p[np.abs(LOGIT + 2.5) < 0.02].mean() < 0.55


def test_calibration_lowers_the_error() -> None:
    even = np.concatenate([np.flatnonzero(LABEL), np.flatnonzero(~LABEL)[: LABEL.sum()]])
    found = fit_platt(LOGIT[even], LABEL[even], "noise")
    assert found.ece_after < 0.03 < found.ece_before


def test_thresholds_state_what_they_do() -> None:
    p = probability(LOGIT, fit_platt(LOGIT, LABEL, "noise"))
    found = fit_thresholds(p, LABEL)
    assert [t.target_fpr for t in found] == [0.01, 0.03, 0.05]
    for threshold in found:
        assert (p[~LABEL] > threshold.value).mean() == pytest.approx(threshold.achieved_fpr)
        assert threshold.achieved_fpr <= threshold.target_fpr
        assert threshold.interval[0] < threshold.achieved_fpr < threshold.interval[1]
        assert (p[LABEL] > threshold.value).mean() == pytest.approx(threshold.tpr)


def test_the_band_abstains_between_its_rates() -> None:
    p = probability(LOGIT, fit_platt(LOGIT, LABEL, "noise"))
    found = fit_verdict(p, LABEL)
    said = np.array(verdicts(p, found))
    assert (said[~LABEL] == "generated").mean() <= 0.05
    assert (said[LABEL] == "real").mean() <= 0.05
    assert (said == "uncertain").any()


def test_a_perfect_detector_needs_no_band() -> None:
    found = fit_verdict(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1]))
    assert found.real_below <= found.generated_above
    assert verdicts([0.1, 0.2, 0.8, 0.9], found)[2:] == ["generated", "generated"]


def test_sigmoid_does_not_overflow() -> None:
    assert sigmoid([-1e4, 0, 1e4]).tolist() == [0, 0.5, 1]


def test_configs_that_cannot_be() -> None:
    words = {"fitted_on": "x", "images": 1, "ece_before": 0.0, "ece_after": 0.0}
    with pytest.raises(ModelError, match="scale must be > 0"):
        CalibrationConfig(scale=-1.0, offset=0.0, **words)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="real_below"):
        VerdictConfig(real_below=0.6, generated_above=0.5, target_fpr=0.05, target_fnr=0.05)
