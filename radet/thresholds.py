"""From which probability on a picture is called generated, and what that costs: parts of a checkpoint's config.json.

Fitted by radet.calibration. Imports no torch, as radet.config.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from radet.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class DegradedRates:
    """What a threshold makes of degraded copies of the pictures it was fitted on.

    `condition`  as radet.degradations writes it
    `fpr`        share of the real ones above it, `tpr` of the generated ones
    """

    condition: str
    fpr: float
    tpr: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdConfig:
    """`p_generated > value` for at most `target_fpr` of real pictures, as they are and `degraded`.

    `achieved_fpr`  on the `images` real pictures it was fitted on, as they are, with its exact 95 % `interval`
    `tpr`           share of the generated pictures of the same data that it finds
    `degraded`      conditions under which the rate was kept too; none where nobody asked for it
    """

    target_fpr: float
    value: float
    achieved_fpr: float
    interval: tuple[float, float]
    tpr: float
    images: int
    degraded: tuple[DegradedRates, ...] = ()


def usual_conditions(thresholds: Iterable[ThresholdConfig]) -> tuple[str, ...]:
    """Those after which a checkpoint's thresholds keep their false-positive rate; none where nobody asked for it."""
    return tuple(dict.fromkeys(one.condition for threshold in thresholds for one in threshold.degraded))


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictConfig:
    """p > generated_above: "generated"; p < real_below: "real"; else "uncertain".

    `target_fpr`  largest share of real pictures above the band, on the calibration data, degraded as thresholds say
    `target_fnr`  of generated pictures below it
    """

    real_below: float
    generated_above: float
    target_fpr: float
    target_fnr: float

    def __post_init__(self) -> None:
        if not 0 <= self.real_below <= self.generated_above <= 1:
            raise ModelError("config_invalid", "verdict: 0 <= real_below <= generated_above <= 1 must hold")
