"""Augmentation for training: what happens to pictures on their way through the web, to both classes alike.

Without it a detector learns the file format and the resolution of its corpus (METHOD sections 3 and 4). An augmented
crop is a function of (picture, policy, config, random generator) and nothing else.

H W pixels, C=3 channels
"""

from dataclasses import dataclass

import numpy as np

from radet.crop import CropPolicy
from radet.degradations import blurred, through_jpeg, through_webp, with_noise
from radet.errors import ConfigError
from radet.images import Pixels, crop_pixels, scale_pixels, within_aspect

_LONGEST_SHORT_SIDE = 1024  # larger pictures are scaled down first: what is cut from them is far smaller


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Probabilities in [0, 1], and ranges that are drawn from evenly.

    `plain`    of the crop that scoring sees, nothing done to it. Half of them plain ranks unseen generators better than
               all augmented, and no worse after the same degradations
    `rescale`  of scaling the picture down (and up again by the crop), by a factor in `scale`
    `blur`     of a Gaussian blur, standard deviation in `blur_sigma` pixels
    `noise`    of Gaussian noise, standard deviation in `noise_sigma` of 255 levels
    `codec`    of writing it as JPEG (two times in three) or WebP, quality in `quality`
    `flip`     of mirroring left and right
    `zoom`     shorter side before the random crop, as a multiple of the crop's size
    """

    plain: float = 0.5
    rescale: float = 0.3
    scale: tuple[float, float] = (0.35, 0.9)
    blur: float = 0.15
    blur_sigma: tuple[float, float] = (0.3, 1.5)
    noise: float = 0.1
    noise_sigma: tuple[float, float] = (1.0, 6.0)
    codec: float = 0.5
    quality: tuple[int, int] = (40, 98)
    flip: float = 0.5
    zoom: tuple[float, float] = (1.0, 1.35)

    def __post_init__(self) -> None:
        if not all(0 <= p <= 1 for p in (self.plain, self.rescale, self.blur, self.noise, self.codec, self.flip)):
            raise ConfigError("augment: probabilities must be in [0, 1]")
        for name in ("scale", "blur_sigma", "noise_sigma", "quality", "zoom"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ConfigError(f"augment.{name} must be two numbers, 0 < low <= high, not [{low}, {high}]")
        if self.zoom[0] < 1 or self.quality[1] > 100:
            raise ConfigError("augment: zoom must be >= 1 and quality <= 100")


def augment(rgb_HWC: Pixels, policy: CropPolicy, config: AugmentConfig, rng: np.random.Generator) -> Pixels:
    """An augmented crop of a whole picture (radet.images.decode_pixels), uint8 [size, size, 3].

    The same numbers are drawn whatever is done with them, so that one setting never shifts what another does.
    """
    gates, draws, plain = rng.random(6), rng.random(8), rng.random()
    if plain < config.plain:
        return crop_pixels(rgb_HWC, policy)
    rgb_HWC = within_aspect(rgb_HWC)
    rgb_HWC = _with_short_side(rgb_HWC, min(_LONGEST_SHORT_SIDE, *rgb_HWC.shape[:2]))
    if gates[0] < config.rescale:
        factor = _between(config.scale, draws[0])
        rgb_HWC = _with_short_side(rgb_HWC, max(policy.size // 4, round(min(rgb_HWC.shape[:2]) * factor)))
    if gates[1] < config.blur:
        rgb_HWC = blurred(rgb_HWC, _between(config.blur_sigma, draws[1]))
    if gates[2] < config.noise:
        rgb_HWC = with_noise(rgb_HWC, _between(config.noise_sigma, draws[2]), rng)
    if gates[3] < config.codec:
        quality = round(_between(config.quality, draws[3]))
        jpeg = gates[4] < 2 / 3
        rgb_HWC = through_jpeg(rgb_HWC, quality, fine=draws[4] < 0.5) if jpeg else through_webp(rgb_HWC, quality)
    rgb_HWC = _with_short_side(rgb_HWC, round(policy.size * _between(config.zoom, draws[5])))
    height, width = rgb_HWC.shape[:2]
    top, left = int(draws[6] * (height - policy.size + 1)), int(draws[7] * (width - policy.size + 1))
    crop = rgb_HWC[top : top + policy.size, left : left + policy.size]
    return np.ascontiguousarray(crop[:, ::-1] if gates[5] < config.flip else crop)


def _with_short_side(rgb_HWC: Pixels, target: int) -> Pixels:
    height, width = rgb_HWC.shape[:2]
    shorter = min(height, width)
    return scale_pixels(rgb_HWC, target * height // shorter, target * width // shorter)


def _between(bounds: tuple[float, float], share: float) -> float:
    return float(bounds[0] + (bounds[1] - bounds[0]) * share)
