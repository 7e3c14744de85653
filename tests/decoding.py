"""Short ways to decode and to compare, for the tests of radet.images."""

import numpy as np
from PIL import Image

from radet.errors import ImageError
from radet.images import (
    CropPolicy,
    Limits,
    Picture,
    decode_picture,
    read_header,
)

NATIVE = CropPolicy(resize=None, size=224)


def decode(data: bytes, policy: CropPolicy | None = None, limits: Limits | None = None) -> Picture:
    limits = limits or Limits()
    return decode_picture(data, read_header(data, limits), policy or CropPolicy(), limits)


def code_of(data: bytes, limits: Limits | None = None) -> str:
    try:
        decode(data, limits=limits)
    except ImageError as error:
        return error.code
    return "ok"


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference, levels of 255."""
    return float(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).mean())


def hamming(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()


def pillow_crop(image: Image.Image) -> np.ndarray:
    """The default policy by Pillow alone, for an RGB image."""
    width, height = image.size
    size = (256 * width // min(image.size), 256 * height // min(image.size))
    left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
    resized = image.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + 224, top + 224)))
