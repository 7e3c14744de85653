"""Embedded colour profiles: RGB crop -> sRGB crop."""

import io
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

#: A profile that moves no colour by more than this many levels of 255 is sRGB by another name: pixels stay untouched.
SAME_AS_SRGB = 2


def to_srgb(crop: npt.NDArray[np.uint8], profile: bytes | None) -> npt.NDArray[np.uint8]:
    """The crop [H, W, 3] in sRGB, relative colorimetric.

    The same array comes back where there is nothing to convert: no profile, an sRGB one, one of another colour space
    than RGB (grey, CMYK), or a malformed one, which viewers ignore too.
    """
    transform = _transform(profile) if profile else None
    if transform is None:
        return crop
    return np.array(ImageCms.applyTransform(Image.fromarray(crop), transform))


@lru_cache(maxsize=32)  # a corpus holds few different profiles; radet.containers bounds each to 1 MiB
def _transform(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    if profile[16:20] != b"RGB ":
        return None
    try:
        transform = ImageCms.buildTransform(
            io.BytesIO(profile),
            ImageCms.createProfile("sRGB"),
            "RGB",
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    levels = np.linspace(0, 255, 9, dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
    moved = np.asarray(ImageCms.applyTransform(Image.fromarray(cube), transform))
    largest = np.abs(moved.astype(np.int16) - cube).max()
    return None if largest <= SAME_AS_SRGB else transform
