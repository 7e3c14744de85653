"""What happens to pictures on their way through the web, one thing at a time: how much of a score survives it?

A condition is written as its steps: "clean", "jpeg:75", "resize:0.8+jpeg:60". A degraded picture is a function of its
pixels, the condition and a seed.

H W pixels
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image, ImageFilter

from radet.errors import ConfigError, ImageError
from radet.images import MAX_SIDE, Limits, Pixels, decode_pixels, scale_pixels

CLEAN = "clean"

#: Both classes through one resize and one JPEG: neither format nor size of the original is left to tell them apart.
NEUTRAL = "square:256+jpeg:92"

#: Conditions by suite. The paper's robustness figure has JPEG 95, 90, 85 and blur 0.8, 1.0, 1.5; the rest is harder.
SUITES: dict[str, tuple[str, ...]] = {
    "clean": (CLEAN,),
    "jpeg": ("jpeg:95", "jpeg:90", "jpeg:85", "jpeg:75", "jpeg:50"),
    "blur": ("blur:0.8", "blur:1", "blur:1.5", "blur:3"),
    "webp": ("webp:80", "webp:50"),
    "resize": ("resize:0.5", "resize:0.75", "resize:2"),
    "thumbnail": ("thumbnail:128",),
    "social": ("resize:0.8+jpeg:60",),
    "noise": ("noise:3", "noise:8"),
}

_LIMITS = Limits()
_NUMBERS = 1 << 20  # of noise, drawn at once
_MOST_SIDE = 4096  # of an enlarged picture


def _jpeg(rgb_HWC: Pixels, quality: float, _: np.random.Generator) -> Pixels:
    return through_jpeg(rgb_HWC, round(quality))


def _webp(rgb_HWC: Pixels, quality: float, _: np.random.Generator) -> Pixels:
    return through_webp(rgb_HWC, round(quality))


def blurred(rgb_HWC: Pixels, sigma: float) -> Pixels:
    """Gaussian blur; `sigma` is its standard deviation in pixels."""
    return np.asarray(Image.fromarray(rgb_HWC).filter(ImageFilter.GaussianBlur(sigma)))


def _blur(rgb_HWC: Pixels, sigma: float, _: np.random.Generator) -> Pixels:
    return blurred(rgb_HWC, sigma)


def with_noise(rgb_HWC: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    """Gaussian noise on every channel; `sigma` is its standard deviation, of 255 levels."""
    noisy = np.empty_like(rgb_HWC)
    rows = max(1, _NUMBERS // rgb_HWC[0].size)  # in strips: a large picture's noise would take 24 bytes a pixel
    for top in range(0, len(rgb_HWC), rows):
        part = rgb_HWC[top : top + rows]
        noisy[top : top + rows] = (part + rng.normal(0, sigma, part.shape)).round().clip(0, 255)
    return noisy


def _resize(rgb_HWC: Pixels, factor: float, _: np.random.Generator) -> Pixels:
    height, width = rgb_HWC.shape[:2]
    factor = min(factor, max(1.0, _MOST_SIDE / max(height, width)))
    return scale_pixels(rgb_HWC, max(1, round(height * factor)), max(1, round(width * factor)))


def _thumbnail(rgb_HWC: Pixels, side: float, _: np.random.Generator) -> Pixels:
    height, width = rgb_HWC.shape[:2]
    if min(height, width) <= side:
        return rgb_HWC
    small = scale_pixels(rgb_HWC, *(max(1, round(length * side / min(height, width))) for length in (height, width)))
    return scale_pixels(small, height, width)


def _square(rgb_HWC: Pixels, side: float, _: np.random.Generator) -> Pixels:
    height, width = rgb_HWC.shape[:2]
    cut = min(height, width)
    top, left = (height - cut) // 2, (width - cut) // 2
    return scale_pixels(rgb_HWC[top : top + cut, left : left + cut], round(side), round(side))


@dataclass(frozen=True, slots=True)
class _Kind:
    apply: Callable[[Pixels, float, np.random.Generator], Pixels]
    low: float
    high: float
    meaning: str
    longest: int = MAX_SIDE  # side that it takes, pixels


_KINDS = {
    "jpeg": _Kind(_jpeg, 1, 100, "JPEG and back, by quality, 4:2:0", 65_500),
    "webp": _Kind(_webp, 1, 100, "lossy WebP and back, by quality", 16_383),
    "blur": _Kind(_blur, 0.01, 50, "Gaussian blur, standard deviation in pixels"),
    "noise": _Kind(with_noise, 0.01, 255, "Gaussian noise, standard deviation of 255 levels"),
    "resize": _Kind(_resize, 0.01, 8, "scaled by a factor"),
    "thumbnail": _Kind(_thumbnail, 1, 4096, "shorter side down to so many pixels, and back to the original size"),
    "square": _Kind(_square, 1, 4096, "square centre, scaled to so many pixels"),
}


@dataclass(frozen=True, slots=True)
class Condition:
    """A chain of steps, each a kind and its number. `text` is how it is written."""

    text: str
    steps: tuple[tuple[str, float], ...]

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Raises ConfigError that lists what there is."""
        if text == CLEAN:
            return cls(text, ())
        return cls(text, tuple(_step(part, text) for part in text.split("+") if part != CLEAN))

    def apply(self, rgb_HWC: Pixels, seed: int) -> Pixels:
        """The degraded picture, uint8 [H', W', 3]. `seed` >= 0 decides the noise.

        Raises ImageError too_many_pixels for a picture that is longer than its format can be.
        """
        rng = np.random.default_rng(seed)
        for name, number in self.steps:
            kind = _KINDS[name]
            if (side := max(rgb_HWC.shape[:2])) > kind.longest:
                raise ImageError(
                    "too_many_pixels", f"{name} takes {kind.longest} pixels a side, the picture has {side}"
                )
            rgb_HWC = np.ascontiguousarray(kind.apply(rgb_HWC, number, rng))
        return rgb_HWC


def conditions(suites: str, *, neutral: bool = False) -> list[str]:
    """The conditions of comma-separated suites or conditions; "clean" always comes first.

    `neutral` adds to each the same behind the NEUTRAL steps. Raises ConfigError for what is neither.
    """
    found = [CLEAN]
    for name in filter(None, (part.strip() for part in suites.split(","))):
        found += SUITES.get(name) or (Condition.parse(name).text,)
    found = list(dict.fromkeys(found))
    if neutral:
        found += [NEUTRAL if text == CLEAN else f"{NEUTRAL}+{text}" for text in found]
    return found


def degrade(data: bytes, condition: str, limits: Limits = _LIMITS) -> bytes:
    """A picture's bytes -> the degraded picture's, a PNG. Noise is drawn by the bytes' hash.

    Raises ImageError as the decoder does, ConfigError for an unknown condition.
    """
    seed = int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
    pixels = Condition.parse(condition).apply(decode_pixels(data, limits), seed)
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG", compress_level=1)
    return out.getvalue()


def through_jpeg(rgb_HWC: Pixels, quality: int, *, fine: bool = False) -> Pixels:
    """As JPEG and back. `fine` keeps the colours' full resolution (4:4:4)."""
    data = simplejpeg.encode_jpeg(
        np.ascontiguousarray(rgb_HWC), quality=quality, colorsubsampling="444" if fine else "420"
    )
    pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB")
    return pixels


def through_webp(rgb_HWC: Pixels, quality: int) -> Pixels:
    """As lossy WebP and back."""
    out = io.BytesIO()
    Image.fromarray(rgb_HWC).save(out, "WEBP", quality=quality, method=1)
    return np.asarray(Image.open(out).convert("RGB"))


def _step(part: str, text: str) -> tuple[str, float]:
    name, _, number = part.partition(":")
    kind = _KINDS.get(name)
    if kind is None:
        known = ", ".join(f"{name}:N ({kind.meaning})" for name, kind in _KINDS.items())
        raise ConfigError(f"{text!r} names no suite ({', '.join(SUITES)}) and no condition; conditions are {known}")
    try:
        value = float(number)
    except ValueError:
        raise ConfigError(f"{text!r}: {name} needs a number, {kind.meaning}") from None
    if not kind.low <= value <= kind.high:
        raise ConfigError(f"{text!r}: {name} takes {kind.low:g} to {kind.high:g}, {kind.meaning}")
    return name, value
