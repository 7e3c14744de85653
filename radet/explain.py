"""Why this score: where in the picture the encoder's view moved, what each branch said, and how unusual the drift is.

B batch, D width of a patch token, h w patches, S side of the crop, H W pixels of an overlay
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from radet.config import UNKNOWN, DetectorConfig
from radet.detector import Detector
from radet.discrepancy import cosine_drift
from radet.errors import FetchError, ImageError, RadetError
from radet.images import Pixels
from radet.metrics import percentile
from radet.rows import ImageLike, read_row
from radet.score import Score

Heat = NDArray[np.float32]

#: Dark violet over red to pale yellow, rising in lightness, so that it also reads in grey.
_COLOURS = np.array([(13, 8, 60), (110, 20, 110), (190, 50, 85), (240, 110, 45), (252, 190, 60), (252, 250, 190)])

_BRANCHES = {
    "semantic": "what the picture shows, as the encoder sees it",
    "discrepancy": "how its view drifts when the picture is perturbed",
    "lowlevel": "pixel-level traces",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What stands behind one score.

    `score`          the Score itself, equal to Detector.score's
    `crop`           what the detector looked at, uint8 [S, S, 3]
    `heat`           cosine drift of each patch of the crop, fp32 [h, w], >= 0; None where the probe is "none"
    `percentile`     share of real reference pictures that drift less, in [0, 1]; None as `heat`
    `p_percentile`   share of real calibration pictures with a lower p_generated; None while uncalibrated
    `contributions`  what each branch adds to the logit; with `bias` they add up to it
    `sentences`      all that in words
    """

    score: Score
    crop: Pixels
    heat: Heat | None
    percentile: float | None
    p_percentile: float | None
    contributions: dict[str, float]
    bias: float
    sentences: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, without the pixels."""
        return {
            "score": self.score.to_dict(),
            "heat": None if self.heat is None else [[float(f"{drift:.5g}") for drift in row] for row in self.heat],
            "percentile": self.percentile,
            "p_percentile": self.p_percentile,
            "contributions": self.contributions,
            "bias": self.bias,
            "sentences": list(self.sentences),
        }

    def overlay(self, opacity: float = 0.55, side: int | None = None) -> Image.Image:
        """The heat over the crop, `side` pixels (default S); the crop alone where there is no heat.

        Colours run from the picture's own least to its largest drift: they say where, not how much.
        """
        picture = Image.fromarray(self.crop)
        if side is not None:
            picture = picture.resize((side, side), Image.Resampling.BICUBIC)
        if self.heat is None:
            return picture
        return Image.blend(picture, self.heat_map(picture.width), opacity)

    def heat_map(self, side: int) -> Image.Image:
        """The heat alone, in colours, `side` pixels; only where there is one."""
        assert self.heat is not None
        low, high = float(self.heat.min()), float(self.heat.max())
        grey = Image.fromarray((self.heat - low) / max(high - low, 1e-12))
        share_HW = np.asarray(grey.resize((side, side), Image.Resampling.BICUBIC)).clip(0, 1)
        steps = np.linspace(0, 1, len(_COLOURS))
        return Image.fromarray(
            np.stack([np.interp(share_HW, steps, _COLOURS[:, channel]) for channel in range(3)], axis=-1).astype(
                np.uint8
            )
        )


def explain(detector: Detector, image: ImageLike, *, id: str | None = None) -> Explanation:  # noqa: A002
    """Explain one picture. Costs a scoring and one more pass of the encoder for the clean picture and each view.

    Raises ImageError or FetchError for what Detector.score would give a row with another status than "ok".
    """
    row = read_row(image, 0, detector.config.crop)
    (score,) = detector.score_rows([row], None if id is None else [id])
    if row.crop is None:
        raise _error_of(score)
    return explain_crop(detector, row.crop, score)


def explain_crop(detector: Detector, crop: Pixels, score: Score) -> Explanation:
    """Explain the detector's score of a crop, at one more pass of the encoder for the clean picture and each view."""
    heat = _heat(detector, crop)
    reference, calibration = detector.config.reference, detector.config.calibration
    below = p_below = None
    if reference is not None and score.drift_cosine is not None:
        below = percentile(score.drift_cosine, reference.quantiles)
    if calibration is not None and score.p_generated is not None:
        p_below = percentile(score.p_generated, calibration.real)
    contributions, bias = _contributions(detector, score)
    return Explanation(
        score=score,
        crop=crop,
        heat=heat,
        percentile=below,
        p_percentile=p_below,
        contributions=contributions,
        bias=bias,
        sentences=tuple(_sentences(detector.config, score, below, p_below, contributions, bias)),
    )


def _heat(detector: Detector, crop: Pixels) -> Heat | None:
    """Drift of the last block's patches, the mean over the probe's pairs."""
    if not detector.probe.groups:
        return None
    (x_BCHW,) = detector.pixels(crop[None])
    with detector.scoring():
        clean = detector.encoder.look(x_BCHW, detector.layers)
        pixels = [x_BCHW, *detector.probe.views(x_BCHW, clean.z)]
        patches = [detector.encoder.patches(view).double() for view in pixels]
    pairs = [pair for group in detector.probe.groups for pair in group]
    drift_Bhw = torch.stack([cosine_drift(patches[i], patches[j]) for i, j in pairs]).mean(0)
    return drift_Bhw[0].float().cpu().numpy()


def _contributions(detector: Detector, score: Score) -> tuple[dict[str, float], float]:
    if score.logit is None:
        return {}, 0.0
    if detector.heads is None:
        return {"discrepancy": score.logit}, 0.0
    weights = nn.functional.softplus(detector.heads.weight).tolist()
    logits = {name: getattr(score, f"logit_{name}") for name in detector.heads.branches}
    added = {name: weight * logits[name] for weight, name in zip(weights, logits, strict=True)}
    return added, float(detector.heads.bias.item())


def _sentences(
    config: DetectorConfig,
    score: Score,
    below: float | None,
    p_below: float | None,
    contributions: dict[str, float],
    bias: float,
) -> list[str]:
    said = []
    if score.p_generated is None or config.verdict is None:
        logit = "no logit" if score.logit is None else f"a logit ({score.logit:.2f})"
        said.append(f"{config.name} is not calibrated: it gives {logit} and no probability.")
    else:
        chance = f"At even odds of real and generated, the probability of generation is {score.p_generated:.2f}."
        above, under = config.verdict.generated_above, config.verdict.real_below
        achieved = [f"{t.achieved_fpr:.1%}" for t in config.thresholds if t.value == above]
        exceeded = achieved[0] if achieved else f"at most {config.verdict.target_fpr:.0%}"
        words = {
            "generated": f"Verdict: generated, since that is above {above:.2f}, which {exceeded} of the real "
            "calibration pictures exceeded.",
            "real": f"Verdict: real, since that is below {under:.2f}, as were at most {config.verdict.target_fnr:.0%} "
            "of the generated calibration pictures.",
            "uncertain": f"Verdict: uncertain, since that lies between {under:.2f} and {above:.2f}, where this "
            "detector does not decide.",
        }
        said += [chance, words[score.verdict or "uncertain"]]
    if p_below is not None:
        said.append(f"Of the real calibration pictures {_share(p_below)} scored lower.")
    if below is not None:
        said.append(f"Its drift of {score.drift_cosine:.3g} is larger than that of {_share(below)} of real pictures.")
    if len(contributions) > 1:
        parts = [f"{_BRANCHES[name]} ({value:+z.2f})" for name, value in contributions.items()]
        said.append(f"To the logit of {score.logit:+z.2f} add: {'; '.join(parts)}; a constant ({bias:+z.2f}).")
    if score.generator is not None and config.heads is not None and config.heads.attribution is not None:
        known = len(config.heads.attribution.families)
        said.append(
            f"It is like none of the {known} generators that this detector knows."
            if score.generator == UNKNOWN
            else f"Of the {known} generators that this detector knows, it is most like {score.generator or 'unnamed'}."
        )
    said.append("A score is a signal about how a picture was made, not a proof.")
    return said


def _share(share: float) -> str:
    """In whole percent; all and none are said only of all and none."""
    if 0.995 <= share < 1:
        return "more than 99%"
    return "less than 1%" if 0 < share < 0.005 else f"{share:.0%}"


def _error_of(score: Score) -> RadetError:
    kind: type[RadetError] = ImageError if score.status in ImageError.codes else FetchError
    return kind(score.status, score.error or score.status)
