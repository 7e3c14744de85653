"""One picture on its way to a Score: what is known before the detector has seen it."""

import errno
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from radet.crop import CropPolicy
from radet.errors import ConfigError, FetchError, ImageError
from radet.files import read_file
from radet.images import Limits, Pixels, decode_opened, decode_picture, read_header
from radet.provenance import digital_source_type

#: What a caller may hand in: raw bytes, a path, or an opened picture.
ImageLike = bytes | bytearray | memoryview | str | Path | Image.Image

LIMITS = Limits()

_NO_SUCH_NAME = {errno.ELOOP, errno.ENAMETOOLONG}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`facts` are fields of a Score (sha256, size, format, status ...); `crop` is None where status is not ok."""

    facts: dict[str, Any]
    crop: Pixels | None


def read_row(image: ImageLike, position: int, policy: CropPolicy, limits: Limits = LIMITS) -> Row:
    """Read, hash, decode and crop one picture. Whatever is wrong with it becomes a status: never raises for a picture.

    `uri` is the path as given, or "#<position>" for bytes and opened pictures. An opened picture has no raw bytes, so
    no sha256 and no claim of its origin; its alpha, profile and orientation mean the same as in a file. Raises
    ConfigError for what is none of these, MemoryError where there is no room to decode.
    """
    if not isinstance(image, ImageLike):
        raise ConfigError(f"picture #{position} is a {type(image).__name__}: give bytes, a path or a picture of Pillow")
    if isinstance(image, Image.Image):
        return _opened(image, position, policy, limits)
    uri = str(image) if isinstance(image, str | Path) else f"#{position}"
    try:
        data = read_bytes(image, limits)
    except (ImageError, FetchError) as error:
        return _refused({"uri": uri}, error)
    row = see(data, policy, limits)
    return Row(facts=row.facts | {"uri": uri, "sha256": hashlib.sha256(data).hexdigest()}, crop=row.crop)


def read_bytes(image: bytes | bytearray | memoryview | str | Path, limits: Limits = LIMITS) -> bytes:
    """The raw bytes themselves, or those that a path leads to. Raises ImageError or FetchError for such a path."""
    if not isinstance(image, str | Path):
        return bytes(image)
    path = str(image)
    try:
        return read_file(path, limits.max_bytes)
    except PermissionError:
        raise FetchError("forbidden", f"{path}: no permission to read it") from None
    except OSError as error:
        absent = isinstance(error, FileNotFoundError | NotADirectoryError) or error.errno in _NO_SUCH_NAME
        if absent and "://" in path:
            raise FetchError("not_found", f"{path} is no file: give the bytes that it leads to, or a path") from None
        raise FetchError("not_found" if absent else "unreachable", f"{path}: {error.strerror}") from None
    except ValueError as error:  # a NUL in the name
        raise FetchError("not_found", f"{path!r}: {error}") from None


def see(data: bytes, policy: CropPolicy, limits: Limits = LIMITS) -> Row:
    """Decode and crop raw bytes. Whatever is wrong with them becomes a status: never raises for a picture, and
    MemoryError where there is no room to decode it."""
    facts: dict[str, Any] = {"bytes": len(data)}
    try:
        header = read_header(data, limits)
        facts |= {"format": header.format, "width": header.width, "height": header.height}
        facts["digital_source_type"] = digital_source_type(data)
        picture = decode_picture(data, header, policy, limits)
    except ImageError as error:
        return _refused(facts, error)
    return Row(facts=facts | {"phash": picture.phash}, crop=picture.crop)


def _opened(image: Image.Image, position: int, policy: CropPolicy, limits: Limits) -> Row:
    facts: dict[str, Any] = {"uri": f"#{position}", "format": image.format, "bytes": None}
    try:
        picture = decode_opened(image, policy, limits)
    except ImageError as error:
        return _refused(facts, error)
    size = {"width": picture.header.width, "height": picture.header.height}
    return Row(facts=facts | size | {"phash": picture.phash}, crop=picture.crop)


def _refused(facts: dict[str, Any], error: ImageError | FetchError) -> Row:
    return Row(facts=facts | {"status": error.code, "error": error.message}, crop=None)
