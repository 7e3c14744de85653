"""One picture on its way to a Score: what is known before the detector has seen it."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from radet.crop import CropPolicy
from radet.errors import FetchError, ImageError
from radet.images import Limits, Pixels, decode_picture, read_header

#: What a caller may hand in: raw bytes, a path, or an opened picture.
ImageLike = bytes | str | Path | Image.Image

LIMITS = Limits()

#: Modes that PNG stores without loss; any other picture becomes RGB first.
_PNG_MODES = {"1", "L", "LA", "I;16", "P", "RGB", "RGBA"}

_ORIENTATION = 0x0112  # the EXIF tag


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`facts` are fields of a Score (sha256, size, format, status ...); `crop` is None where status is not ok."""

    facts: dict[str, Any]
    crop: Pixels | None


def read_row(image: ImageLike, position: int, policy: CropPolicy, limits: Limits = LIMITS) -> Row:
    """Read, hash, decode and crop one picture. Whatever is wrong with it becomes a status: never raises for a picture.

    `uri` is the path as given, or "#<position>" for bytes and opened pictures. An opened picture has no raw bytes, so
    no sha256; it goes through the decoder as a PNG, so its alpha, profile and orientation mean the same as in a file.
    """
    uri = str(image) if isinstance(image, str | Path) else f"#{position}"
    facts: dict[str, Any] = {"uri": uri}
    try:
        if isinstance(image, Image.Image):
            data = _png(image)
        else:
            data = image if isinstance(image, bytes) else _read_file(Path(image))
            facts["sha256"] = hashlib.sha256(data).hexdigest()
    except (ImageError, FetchError) as error:
        return Row(facts=facts | {"status": error.code, "error": error.message}, crop=None)
    row = see(data, policy, limits)
    if isinstance(image, Image.Image):
        facts |= {"format": image.format, "bytes": None}
    return Row(facts=row.facts | facts, crop=row.crop)


def see(data: bytes, policy: CropPolicy, limits: Limits = LIMITS) -> Row:
    """Decode and crop raw bytes. Whatever is wrong with them becomes a status: never raises for a picture."""
    facts: dict[str, Any] = {"bytes": len(data)}
    try:
        header = read_header(data, limits)
        facts |= {"format": header.format, "width": header.width, "height": header.height}
        picture = decode_picture(data, header, policy, limits)
    except ImageError as error:
        return Row(facts=facts | {"status": error.code, "error": error.message}, crop=None)
    return Row(facts=facts | {"phash": picture.phash}, crop=picture.crop)


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except PermissionError:
        raise FetchError("forbidden", f"{path}: no permission to read it") from None
    except OSError as error:  # no such file, a folder, an impossible name
        raise FetchError("not_found", f"{path}: {error.strerror}") from None
    except ValueError as error:  # a NUL in the name
        raise FetchError("not_found", f"{path!r}: {error}") from None


def _png(image: Image.Image) -> bytes:
    try:
        exif = Image.Exif()
        exif[_ORIENTATION] = image.getexif().get(_ORIENTATION, 1)
        if image.mode not in _PNG_MODES:
            image = image.convert("RGB")
        out = io.BytesIO()
        image.save(out, "PNG", compress_level=1, exif=exif)
    except (OSError, ValueError, SyntaxError) as error:  # opened lazily, its data prove to be bad only now
        raise ImageError("corrupt", f"Pillow cannot read the picture: {error}") from error
    return out.getvalue()
