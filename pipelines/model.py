"""What a scorer tells of itself and of a picture: plain values that travel between processes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from radet.crop import CropPolicy
from radet.thresholds import ThresholdConfig

if TYPE_CHECKING:
    from radet.explain import Explanation


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The detector of one scorer, loaded and tested.

    `model_id`        of what scores: it changes with the thresholds, too
    `checkpoint_id`   of the checkpoint with its own thresholds
    `golden_error` `floor`   of the numeric self-test (radet.selftest)
    `reference_*`     quantiles that a checkpoint keeps (radet.config.QUANTILES); None where it has none
    """

    name: str
    description: str
    model_id: str
    checkpoint_id: str
    encoder: str
    encoder_sha256: str
    precision: str
    device: str
    policy: CropPolicy
    calibrated: bool
    band: tuple[float, float] | None  # real below, generated above
    thresholds: tuple[ThresholdConfig, ...]
    golden_error: float
    floor: float
    reference_real: tuple[float, ...] | None
    reference_generated: tuple[float, ...] | None
    reference_drift: tuple[float, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a scorer is not ready: a code of radet.errors, and one sentence."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What a scorer found in one crop. `evidence`: fields of a Score. Seconds."""

    evidence: dict[str, float | str | None]
    model_id: str
    band: tuple[float, float] | None
    queue_s: float
    inference_s: float
    batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherCrop:
    """The scorer has another model than the front thought, one that looks at other pixels: crop again."""

    facts: ModelFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What stands behind one score, and the score itself. Seconds."""

    explanation: "Explanation"
    band: tuple[float, float] | None
    queue_s: float
    explain_s: float
