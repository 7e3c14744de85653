"""A probability that means what it says, and a verdict with the rates that it states."""

import numpy as np
import pytest
from numpy.typing import NDArray

from radet.calibration import fit_fusion, fit_platt, fit_thresholds, fit_verdict, probability, sigmoid, verdicts
from radet.config import CalibrationConfig
from radet.errors import ConfigError, ModelError
from radet.thresholds import VerdictConfig

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
    again = fit_platt(LOGIT[even], LABEL[even], "noise", before=found)
    assert again.ece_before == pytest.approx(found.ece_after), "by the calibration that it replaces"
    p = probability(LOGIT[even], found)
    assert (found.real[10], found.generated[10]) == pytest.approx([np.median(p[LABEL[even] == c]) for c in (0, 1)])


def test_thresholds_state_what_they_do() -> None:
    p = probability(LOGIT, fit_platt(LOGIT, LABEL, "noise"))
    found = fit_thresholds(p, LABEL)
    assert [t.target_fpr for t in found] == [0.01, 0.03, 0.05]
    for threshold in found:
        assert (p[~LABEL] > threshold.value).mean() == pytest.approx(threshold.achieved_fpr)
        assert threshold.achieved_fpr <= threshold.target_fpr
        assert threshold.interval[0] < threshold.achieved_fpr < threshold.interval[1]
        assert (p[LABEL] > threshold.value).mean() == pytest.approx(threshold.tpr)
        below, above = p[~LABEL & (p <= threshold.value)].max(), p[~LABEL & (p > threshold.value)].min()
        assert threshold.value == pytest.approx((float(below) + float(above)) / 2), "on no picture's own score"


def test_the_band_abstains_between_its_rates() -> None:
    p = probability(LOGIT, fit_platt(LOGIT, LABEL, "noise"))
    found = fit_verdict(p, LABEL)
    said = np.array(verdicts(p, found))
    assert (said[~LABEL] == "generated").mean() <= 0.05
    assert (said[LABEL] == "real").mean() <= 0.05
    assert (said == "uncertain").any()


def test_a_rate_is_kept_under_every_condition_and_by_the_least_threshold() -> None:
    p = probability(LOGIT, fit_platt(LOGIT, LABEL, "noise"))
    softer, harder = np.clip(p + 0.1, 0, 1), np.clip(p - 0.1, 0, 1)
    harder[:7] = np.nan  # no score under this condition
    degraded = {"softer": softer, "harder": harder}
    for threshold, alone in zip(
        fit_thresholds(p, LABEL, degraded=degraded), fit_thresholds(softer, LABEL), strict=True
    ):
        assert threshold.value == alone.value, "the worst condition alone decides"
        assert threshold.achieved_fpr == pytest.approx((p[~LABEL] > threshold.value).mean())
        rates = {one.condition: one for one in threshold.degraded}
        assert list(rates) == ["softer", "harder"]
        assert rates["softer"].fpr == alone.achieved_fpr <= threshold.target_fpr
        read = np.isfinite(harder)
        assert rates["harder"].fpr == pytest.approx((harder[read & ~LABEL] > threshold.value).mean())
        assert rates["harder"].tpr == pytest.approx((harder[read & LABEL] > threshold.value).mean())
    band = fit_verdict(p, LABEL, degraded=degraded)
    for copy in (p, softer, harder[np.isfinite(harder)]):
        label = LABEL[np.isfinite(harder)] if len(copy) < len(LABEL) else LABEL
        said = np.array(verdicts(copy, band))
        assert (said[~label] == "generated").mean() <= 0.05
        assert (said[label] == "real").mean() <= 0.05


def test_a_perfect_detector_needs_no_band() -> None:
    found = fit_verdict(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1]))
    assert found.real_below <= found.generated_above
    assert verdicts([0.1, 0.2, 0.8, 0.9], found)[2:] == ["generated", "generated"]


def test_a_nearly_perfect_detector_needs_no_band_either() -> None:
    """One real picture in forty lies among the generated ones: both rates are kept by many thresholds."""
    label = np.arange(80) >= 40
    found = fit_verdict(np.concatenate([np.linspace(0, 0.2, 39), [0.9], np.linspace(0.7, 1, 40)]), label)
    assert found.real_below == found.generated_above < 0.7


@pytest.mark.parametrize(("real", "generated"), [(20, 20), (200, 100)])
def test_separated_classes_are_as_sure_as_their_number_allows(real: int, generated: int) -> None:
    rng = np.random.default_rng(0)
    logit = np.concatenate([rng.normal(-1, 0.2, real), rng.normal(3, 0.1, generated)])
    label = np.arange(real + generated) >= real
    found = fit_platt(logit, label, "noise")
    p = probability(logit, found)
    assert p[~label].mean() == pytest.approx(1 / (real + 2), rel=0.1)
    assert 1 - p[label].mean() == pytest.approx(1 / (generated + 2), rel=0.1)
    middle = (logit[~label].max() + logit[label].min()) / 2
    band = fit_verdict(p, label)
    for value in (band.real_below, band.generated_above, *(t.value for t in fit_thresholds(p, label))):
        assert (np.log(value / (1 - value)) - found.offset) / found.scale == pytest.approx(middle, abs=1e-3)


def test_a_gap_is_one_that_no_degradation_closes() -> None:
    p, label = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1])
    narrower, closed = np.array([0.1, 0.6, 0.7, 0.9]), np.array([0.1, 0.85, 0.7, np.nan])
    (threshold,) = fit_thresholds(p, label, [0.01], {"narrower": narrower})
    assert threshold.value == fit_verdict(p, label, degraded={"narrower": narrower}).generated_above
    assert 0.6 < threshold.value < 0.7
    (threshold,) = fit_thresholds(p, label, [0.01], {"closed": closed})
    assert 0.85 < threshold.value < 0.85 + 1e-5
    (threshold,) = fit_thresholds(p, label, [0.01], {"met": np.array([0.1, 0.5, 0.5, 0.9])})
    assert 0.5 < threshold.value < 0.5 + 1e-5
    band = fit_verdict(p, label, degraded={"closed": closed})
    assert (band.real_below, band.generated_above) == pytest.approx((0.7, 0.85), abs=1e-5)


def test_classes_at_both_ends_have_a_threshold_between_them() -> None:
    (threshold,) = fit_thresholds(np.array([0.0, 1.0]), np.array([0, 1]), [0.01])
    assert 0 < threshold.value < 1


def test_sigmoid_does_not_overflow() -> None:
    assert sigmoid([-1e4, 0, 1e4]).tolist() == [0, 0.5, 1]


def test_configs_that_cannot_be() -> None:
    words = {"fitted_on": "x", "images": 1, "ece_before": 0.0, "ece_after": 0.0, "real": (0.5,) * 21}
    words["generated"] = words["real"]
    with pytest.raises(ModelError, match="scale must be > 0"):
        CalibrationConfig(scale=-1.0, offset=0.0, **words)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="real_below"):
        VerdictConfig(real_below=0.6, generated_above=0.5, target_fpr=0.05, target_fnr=0.05)


def test_what_is_no_better_than_chance_is_said_so() -> None:
    with pytest.raises(ConfigError, match=r"no better than chance on noise \(AUROC 0\.[0-4]"):
        fit_platt(-LOGIT, LABEL, "noise")


@pytest.mark.parametrize("logit", [np.zeros(4000), np.full(4000, 2.0), np.where(np.arange(4000) == 7, np.nan, LOGIT)])
def test_what_says_nothing_is_no_better_than_chance(logit: NDArray[np.float64]) -> None:
    with pytest.raises(ConfigError, match="no better than chance on noise"):
        fit_platt(logit, LABEL, "noise")


def test_probabilities_at_the_ends_have_thresholds_within_them() -> None:
    """So few pictures that the rate is none of them: the threshold lies above the highest real one, which may be 1."""
    p, label = np.array([0.2, 1.0, 0.0, 1.0]), np.array([0, 0, 1, 1])
    for threshold in fit_thresholds(p, label):
        assert threshold.value == 1.0
        assert threshold.achieved_fpr == 0 == (p[label == 0] > threshold.value).mean()
    band = fit_verdict(p, label)
    assert (band.real_below, band.generated_above) == (0.0, 1.0)
    assert verdicts(p, band) == ["uncertain"] * 4


def test_fusion_weighs_branches_by_what_they_are_worth() -> None:
    rng = np.random.default_rng(0)
    label = rng.random(4000) < 0.3
    good, coin, wrong = (k * label + rng.normal(0, 1, 4000) for k in (1.0, 0.1, -1.0))
    weight, _ = fit_fusion(np.stack([good, 5 * good + 7, coin, wrong], axis=1), label)
    assert (weight > 0).all()
    assert weight[2:] == pytest.approx(1e-3), (
        "hardly better than a coin is left out, and what is wrong not turned round"
    )
    # The two first say the same: together they weigh what a regression on one of them gives, 1 / variance.
    assert weight[0] + 5 * weight[1] == pytest.approx(1.0, abs=0.1)


def test_fusion_of_separable_classes_stays_finite() -> None:
    label = np.arange(40) % 2 == 1
    (weight,), bias = fit_fusion((2.0 * label - 1)[:, None] / 10, label)
    assert np.isfinite(bias)
    assert weight == pytest.approx(1e3 * sigmoid(-weight / 10)), "where the loss falls as fast as 1e-4 w^2 / 2 rises"
