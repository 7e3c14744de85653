"""From a logit to a probability, and from a probability to a verdict with a stated false-positive rate.

Everything here is fitted on validation data and frozen in the checkpoint. N pictures; labels 1 = generated.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from radet.config import CalibrationConfig
from radet.errors import ConfigError
from radet.metrics import auroc, expected_calibration_error, quantiles, share_interval, threshold_at
from radet.score import Verdict
from radet.thresholds import DegradedRates, ThresholdConfig, VerdictConfig

Floats = NDArray[np.float64]

LEAST = 20  # pictures of each class that a probability and thresholds are fitted to
RATES = (0.01, 0.03, 0.05)  # of false positives that thresholds are set for, where no others are asked for

_FNR = 0.05  # share of generated pictures that may be called real
_ROUNDING = 1e-6  # of a probability
_LEAST_WEIGHT = 1e-3  # of a branch that says nothing
_WORTH = 0.55  # AUROC of a branch alone, below which it is not listened to
_RIDGE = 1e-4  # where the classes are separable, weights would grow without end


def require_enough(data: str, real: int, generated: int, which: str = "") -> None:
    """Raises ConfigError where `data` has too few pictures of a class to fit to. `which` are counted, if not all."""
    if min(real, generated) < LEAST:
        raise ConfigError(
            f"{data} has {real} real and {generated} generated pictures{which}: give {LEAST} of each at least"
        )


def fit_fusion(logit_NB: ArrayLike, label_N: ArrayLike) -> tuple[Floats, float]:
    """(weight of each branch, bias): the logistic regression of the label on B branches' logits, weights >= 0, both
    classes given the same weight.

    A branch that is hardly better than a coin gets next to no weight: what little a fit finds in it is chance.
    The pictures should be of sources that no branch was trained on: how often a branch is right about sources that it
    knows says little about its worth (Wolpert, "Stacked generalization", 1992).
    """
    logit, label = np.asarray(logit_NB, np.float64), np.asarray(label_N, bool)
    worth = [auroc(column, label) >= _WORTH for column in logit.T]
    bounds = [(_LEAST_WEIGHT, None if good else _LEAST_WEIGHT) for good in worth]
    return _logistic_regression(logit, label, label, np.where(worth, 1.0, _LEAST_WEIGHT), bounds, ridge=_RIDGE)


def fit_platt(
    logit_N: ArrayLike, label_N: ArrayLike, fitted_on: str, *, before: CalibrationConfig | None = None
) -> CalibrationConfig:
    """p = sigmoid(scale * logit + offset), by maximum likelihood with both classes given the same weight.

    So p is the probability at even odds, whatever the mixture of the validation data. The targets are not 0 and 1 but
    1 / (real + 2) and (generated + 1) / (generated + 2), of so many pictures (Platt 1999): where the classes are
    separated, p is as sure as their number allows, and no surer. `before` is the calibration that this one replaces.

    Raises ConfigError where the logit is no better than chance, or not a number: no increasing map makes a probability
    of it.
    """
    logit, label = np.asarray(logit_N, np.float64), np.asarray(label_N, bool)
    worth, scale, offset = auroc(logit, label), 0.0, 0.0
    if worth > 0.5:
        generated, real = int(label.sum()), int((~label).sum())
        target_N = np.where(label, (generated + 1) / (generated + 2), 1 / (real + 2))
        (scale,), offset = _logistic_regression(logit[:, None], label, target_N, np.ones(1), [(None, None)], ridge=0.0)
        scale = float(scale)
    if scale <= 0:
        found = f"the detector is no better than chance on {fitted_on} (AUROC {worth:.3f})"
        mend = "train for longer, on more pictures, or look at the labels"
        raise ConfigError(f"nothing to calibrate: {found}: {mend}")
    p_N = sigmoid(scale * logit + offset)
    return CalibrationConfig(
        scale=scale,
        offset=offset,
        fitted_on=fitted_on,
        images=len(logit),
        ece_before=expected_calibration_error(sigmoid(logit) if before is None else probability(logit, before), label),
        ece_after=expected_calibration_error(p_N, label),
        real=quantiles(p_N[~label]),
        generated=quantiles(p_N[label]),
    )


def _logistic_regression(
    x_NB: Floats,
    label_N: NDArray[np.bool_],
    target_N: ArrayLike,
    start_B: Floats,
    bounds: Sequence[tuple[float | None, float | None]],
    *,
    ridge: float,
) -> tuple[Floats, float]:
    """(weights [B] within `bounds`, bias) that minimise the mean log loss against `target_N` in [0, 1], both classes
    given the same weight, plus ridge / 2 |weights|^2."""
    from scipy.optimize import minimize  # noqa: PLC0415 - a second, which scoring does without

    share_N = np.where(label_N, 0.5 / label_N.sum(), 0.5 / (~label_N).sum())
    yes_N = np.asarray(target_N, np.float64)
    no_N = 1 - yes_N

    def loss(parameters: Floats) -> tuple[float, Floats]:
        weights = parameters[:-1]
        logit_N = x_NB @ weights + parameters[-1]
        slope_N = share_N * (no_N * sigmoid(logit_N) - yes_N * sigmoid(-logit_N))
        loss_N = yes_N * np.logaddexp(0, -logit_N) + no_N * np.logaddexp(0, logit_N)
        value = float(share_N @ loss_N + ridge / 2 * weights @ weights)
        return value, np.append(slope_N @ x_NB + ridge * weights, slope_N.sum())

    found = minimize(
        loss,
        np.append(start_B, 0.0),
        jac=True,
        method="L-BFGS-B",
        bounds=[*bounds, (None, None)],
        options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 1000},
    )
    return found.x[:-1], float(found.x[-1])


def probability(logit_N: ArrayLike, config: CalibrationConfig) -> NDArray[np.float32]:
    """Calibrated probability of generation, in [0, 1]; fp32 as rows hold it, so that a threshold means one thing."""
    return sigmoid(config.scale * np.asarray(logit_N, np.float64) + config.offset).astype(np.float32)


def fit_thresholds(
    p_N: ArrayLike,
    label_N: ArrayLike,
    rates: Iterable[float] = RATES,
    degraded: Mapping[str, ArrayLike] | None = None,
) -> tuple[ThresholdConfig, ...]:
    """Per target false-positive rate: a threshold that keeps it on these real pictures and no lower rate, what it
    achieves there, its exact 95 % interval, and the share of generated pictures it finds.

    `degraded` is p of the same pictures, [N], nan for none, by condition: the threshold is the least that keeps the
    rate as they are and under each condition, so as they are it may achieve less. Where the classes are separated,
    every rate has the one threshold between them.
    """
    p, label = np.asarray(p_N, np.float64), np.asarray(label_N, bool)
    real, generated = p[~label], p[label]
    copies = {condition: np.asarray(q, np.float64) for condition, q in (degraded or {}).items()}
    parting = _parting([p, *copies.values()], label)
    found = []
    for rate in rates:
        values = (_between_scores(_finite(one), rate) for one in (real, *(q[~label] for q in copies.values())))
        value = min(1.0, max(values)) if parting is None else parting  # of a real picture at 1: p > 1 is none
        hits = int((real > value).sum())
        found.append(
            ThresholdConfig(
                target_fpr=rate,
                value=value,
                achieved_fpr=hits / len(real),
                interval=share_interval(hits, len(real)),
                tpr=float((generated > value).mean()),
                images=len(real),
                degraded=tuple(
                    DegradedRates(
                        condition=condition,
                        fpr=float((_finite(q[~label]) > value).mean()),
                        tpr=float((_finite(q[label]) > value).mean()),
                    )
                    for condition, q in copies.items()
                ),
            )
        )
    return tuple(found)


def fit_verdict(
    p_N: ArrayLike,
    label_N: ArrayLike,
    *,
    fpr: float = 0.05,
    degraded: Mapping[str, ArrayLike] | None = None,
) -> VerdictConfig:
    """The abstain band: above it at most a share `fpr` of real pictures, below it at most 5 % of generated ones.

    Both hold for the pictures as they are and `degraded` (see fit_thresholds).

    Where the two overlap (a detector that good), the band is empty: both ends are the upper threshold, or what lies
    between classes that are separated.
    """
    label = np.asarray(label_N, bool)
    copies = [np.asarray(p, np.float64) for p in (p_N, *(degraded or {}).values())]
    if (parting := _parting(copies, label)) is not None:
        return VerdictConfig(real_below=parting, generated_above=parting, target_fpr=fpr, target_fnr=_FNR)
    above = min(1.0, max(_between_scores(_finite(p[~label]), fpr) for p in copies))
    below = max(0.0, min(-_between_scores(-_finite(p[label]), _FNR) for p in copies))
    return VerdictConfig(real_below=min(below, above), generated_above=above, target_fpr=fpr, target_fnr=_FNR)


def _parting(copies: Sequence[Floats], label_N: NDArray[np.bool_]) -> float | None:
    """The middle, on the logit, between the highest real and the lowest generated picture of all `copies`; None where
    that is no gap.

    A threshold just above the highest real picture would keep the rate too, but at the very edge of a gap that may be
    wide.
    """
    real = max(_finite(p[~label_N]).max() for p in copies)
    generated = min(_finite(p[label_N]).min() for p in copies)
    if real >= generated:
        return None
    ends = np.clip([real, generated], 1e-17, 1 - 2.0**-53)  # the logits of 0 and 1 are infinite
    return float(sigmoid((np.log(ends) - np.log1p(-ends)).mean()))


def _finite(p_N: Floats) -> Floats:
    return p_N[np.isfinite(p_N)]


def _between_scores(p_N: Floats, rate: float) -> float:
    """`threshold_at`, moved up half way to the next score: on the score of a picture itself, another machine's rounding
    would decide on which side that picture lies."""
    value = threshold_at(p_N, rate)
    higher = p_N[p_N > value]
    return float((value + higher.min()) / 2) if len(higher) else value + _ROUNDING


def verdicts(p_N: ArrayLike, config: VerdictConfig) -> list[Verdict]:
    """`generated` above the band, `real` below it, `uncertain` within."""
    return [
        "generated" if p > config.generated_above else "real" if p < config.real_below else "uncertain"
        for p in np.asarray(p_N, np.float64)
    ]


def sigmoid(x: ArrayLike) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    y: Floats = 0.5 * (1 + np.tanh(0.5 * np.asarray(x, np.float64)))
    return y
