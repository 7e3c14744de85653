"""Bytes -> RGB crop. The one decoder of radet: every path that scores an image comes through here.

    header  = read_header(data)                        format and size, no pixels
    picture = decode_picture(data, header, policy)     the crop that the detector sees, and a perceptual hash
    picture = decode_opened(image, policy)             the same of a picture that Pillow has opened

All raise radet.errors.ImageError, whatever the picture, and MemoryError where the machine lacks room for it. They may
be called from many threads, leave Pillow's process-wide limits as they are, and decode nothing before the size that the
header announces was checked.

Which library decodes what (one path per format; measured in benchmarks/decoders.py)
    JPEG, MPO                         simplejpeg (libjpeg-turbo), exact DCT, full scale: never draft decoding
    PNG, WebP, GIF, BMP, TIFF, AVIF   Pillow
    resize                            torch: bicubic with antialiasing, on uint8; bit-identical on every CPU tried
Refused as unsupported_format: HEIF, JPEG XL, JPEG 2000, SVG, PDF, PSD, ICO and JPEGs of other than 8 bits.

What the pixels mean
    animation     GIF, WebP, AVIF, MPO, pages of a TIFF: the first. APNG: its still picture (IDAT)
    orientation   the EXIF orientation is applied; Header has the size as displayed
    transparency  over white, palettes included, and what the first frame of a GIF leaves of its canvas
    depth         12 and 16 bits: the upper 8. 1 bit and grey: to RGB. Float TIFF: [0, 1] to 0..255, clipped.
                  32-bit integer TIFF: unsupported_format, since nothing says what is white
    CMYK JPEG     read as Adobe writes it (inverted), as browsers do; the simple conversion without profile
    profiles      an embedded RGB profile other than sRGB is converted to sRGB, on the crop (see decode_picture)
    crop          shorter side to `resize`, then the square centre. A picture longer than 4:1 is first cut to its
                  central 4:1, so that enlarging 1x50000 pixels costs nothing; the crop never reaches beyond that
    phash         64-bit DCT hash of the picture as resized, of its central 4:1 where it was cut; of a 64x64 copy where
                  the policy resizes nothing. Compare by Hamming distance

What is refused
    truncated     the end of the file is missing: a JPEG without its end marker or with missing data in a scan, a PNG
                  without IEND, a RIFF shorter than it says, TIFF strips beyond the end, a GIF without its whole first
                  frame. Bytes after the end of the picture are ignored
    corrupt       a failed checksum, an impossible code, anything else that the decoder refuses; more segments, chunks
                  or scans than any encoder writes
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import imagehash
import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from radet.containers import Container, bounded, jpeg_mended, png_still, scan
from radet.crop import CropPolicy
from radet.errors import ImageError
from radet.icc import to_srgb
from radet.tiff import exif_orientation

Pixels = npt.NDArray[np.uint8]  # [H, W, 3], RGB

#: Longest side over shortest that is resized whole.
MAX_ASPECT = 4

#: Longest side, whatever the number of pixels. Pillow counts the bits of a row in 31 bits, and keeps a pointer a row.
MAX_SIDE = 1 << 24

#: Bytes a pixel that any decoder needs at most, with what is made of them.
_ROOM = 16

#: Scans of a progressive JPEG. Encoders write about ten; each is a pass over the picture, so thousands are an attack.
MAX_JPEG_SCANS = 100

#: Complaints of libjpeg about files that still hold every pixel; cameras and panorama tools write such files.
_HARMLESS = ("extraneous bytes before marker", "unknown JFIF revision", "Unknown Adobe color transform", "Invalid SOS")

#: Pixels that are converted to RGB at a time, to keep the temporary copies of a large picture small.
_STRIP_PIXELS = 1 << 20


class _Tiff(TiffImagePlugin.TiffImageFile):
    """Turned once it is loaded, as Pillow does, but without unpacking every number of its EXIF directories."""

    def load_end(self) -> None:
        ImageOps.exif_transpose(self, in_place=True)


# The plugin classes themselves, not Image.open(): that one checks Image.MAX_IMAGE_PIXELS, which is process-wide and
# warns, tries every plugin it knows, and would let an EPS start Ghostscript.
_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": _Tiff,
    "AVIF": AvifImagePlugin.AvifImageFile,
}

# Pillow has no per-call option for this, and every decoding thread of radet is counted as one CPU.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is refused before decoding. A 100-megapixel picture needs about 0.7 GB while it is decoded."""

    max_bytes: int = 64 << 20
    max_pixels: int = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the file announces. `format`: JPEG, MPO, PNG, WEBP, GIF, BMP, TIFF or AVIF. Sizes: pixels as displayed."""

    format: str
    width: int
    height: int
    container: Container | None = field(default=None, repr=False, compare=False)  # so that it is read once

    @classmethod
    def of(cls, container: Container) -> "Header":
        width, height = container.width, container.height
        if container.orientation >= 5:
            width, height = height, width
        return cls(format=container.format, width=width, height=height, container=container)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What the detector sees. `crop` is uint8 [size, size, 3], C-contiguous; `phash` 16 hexadecimal digits."""

    header: Header
    crop: Pixels
    phash: str


def read_header(data: bytes, limits: Limits = Limits()) -> Header:
    """Format and displayed size, without decoding; the pixel cap is left to decode_picture.

    Raises ImageError empty, too_large_bytes, not_an_image, unsupported_format, truncated or corrupt.
    """
    return Header.of(_scan(data, limits))


def decode_picture(
    data: bytes,
    header: Header,
    policy: CropPolicy,
    limits: Limits = Limits(),
) -> Picture:
    """Decode, orient, resize, crop. `header` is what read_header said of the same data.

    Raises ImageError too_many_pixels (before anything is decoded), truncated, corrupt or unsupported_format.
    """
    container = header.container or scan(data)
    with _decoding(container, limits):
        crop, phash = _see(_decode(data, container, limits), container, policy)
    return Picture(header=header, crop=crop, phash=phash)


def decode_opened(image: Image.Image, policy: CropPolicy, limits: Limits = Limits()) -> Picture:
    """The same for a picture that Pillow has opened, and may not have loaded yet: it means what it means in a file.

    Raises ImageError too_many_pixels, corrupt, truncated or unsupported_format.
    """
    if not all(image.size):
        raise ImageError("corrupt", f"the picture has {image.width}x{image.height} pixels")
    with _decoding(_described(image, None), limits):
        rgb = _pixels(image)  # first, since Pillow turns a TIFF when it loads it
        container = _described(image, image.info.get("exif"))  # not getexif(), which asks an XMP, too
        crop, phash = _see(rgb, container, policy)
    return Picture(header=Header.of(container), crop=crop, phash=phash)


def _described(image: Image.Image, exif: object) -> Container:
    return Container(
        format=image.format or "picture",
        width=image.width,
        height=image.height,
        orientation=exif_orientation(exif) if isinstance(exif, bytes) else 1,
        icc=bounded(image.info.get("icc_profile")),
    )


def decode_pixels(data: bytes, limits: Limits = Limits()) -> Pixels:
    """The whole picture as displayed, in sRGB, uint8 [H, W, 3]: what augmentation starts from.

    Raises ImageError as read_header and decode_picture do.
    """
    container = _scan(data, limits)
    with _decoding(container, limits):
        rgb = _decode(data, container, limits)
        upright = _turn(rgb, _left_to_turn(container))
        return to_srgb(np.ascontiguousarray(np.broadcast_to(upright, (*upright.shape[:2], 3))), container.icc)


def _scan(data: bytes, limits: Limits) -> Container:
    if not data:
        raise ImageError("empty", "zero bytes")
    if len(data) > limits.max_bytes:
        raise ImageError("too_large_bytes", f"{len(data):,} bytes are more than the cap of {limits.max_bytes:,}")
    return scan(data)


@contextmanager
def _decoding(container: Container, limits: Limits) -> Iterator[None]:
    """Checks before decoding, and whatever decoders raise as ImageError."""
    _check_pixels((container.width, container.height), limits)
    if not container.complete:
        raise ImageError("truncated", f"the end of the {container.format} data is missing")
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Three plugins check Pillow's limit themselves, for a GIF's oversized frames and beyond 179 megapixels.
        raise ImageError("too_many_pixels", f"{container.format}: {error}") from error
    except Exception as error:  # plugins raise whatever the bytes lead them to: struct.error, KeyError, zlib.error ...
        # Some call it damage when they lack memory. Only with room to spare is it the picture's fault.
        np.empty((container.height, container.width, _ROOM), np.uint8)
        reason = str(error) or type(error).__name__
        lost = "truncated" in reason.lower()
        raise ImageError("truncated" if lost else "corrupt", f"{container.format}: {reason}") from error


def _decode(data: bytes, container: Container, limits: Limits) -> Pixels:
    if container.format in _PLUGINS:
        return _decode_with_pillow(data, container, limits)
    return _decode_jpeg(data, container)


def crop_pixels(rgb_HWC: npt.NDArray[np.uint8], policy: CropPolicy) -> Pixels:
    """The same resize and crop for decoded pixels, uint8 [H, W, 3]. Returns uint8 [size, size, 3], C-contiguous."""
    return _centre_crop(_resize(rgb_HWC, policy), policy.size)


def _see(rgb: Pixels, container: Container, policy: CropPolicy) -> tuple[Pixels, str]:
    small = _resize(rgb, policy)
    thumbnail = scale_pixels(within_aspect(rgb), 64, 64) if policy.resize is None else small
    # Turned after resizing, because that is cheap, and before cropping, because the centre of an odd margin is rounded.
    orientation = _left_to_turn(container)
    crop = _centre_crop(_turn(small, orientation), policy.size)
    # The profile comes last: 50,000 pixels instead of millions. Viewers resize encoded values too, before any profile.
    return to_srgb(crop, container.icc), _phash(_turn(thumbnail, orientation))


def _decode_jpeg(data: bytes, container: Container) -> Pixels:
    if container.scans > MAX_JPEG_SCANS:
        raise ImageError("corrupt", f"the JPEG has more than {MAX_JPEG_SCANS} scans")
    cmyk = container.channels == 4
    colorspace = "CMYK" if cmyk else "RGB"
    try:
        if simplejpeg.decode_jpeg_header(data, strict=False)[:2] != (container.height, container.width):
            raise ImageError("corrupt", "the JPEG announces two sizes")
        pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace)
    except ValueError as error:
        message = str(error)
        if "premature end" in message.lower():
            raise ImageError("truncated", f"JPEG: {message}") from error
        if "unsupported" in message.lower():
            raise ImageError("unsupported_format", f"JPEG: {message}") from error
        if not any(complaint in message for complaint in _HARMLESS):
            raise
        pixels = simplejpeg.decode_jpeg(jpeg_mended(data, container.channels), colorspace, strict=False)
    if cmyk:
        height, width = pixels.shape[:2]
        return np.array(Image.frombuffer("CMYK", (width, height), 255 - pixels, "raw", "CMYK", 0, 1).convert("RGB"))
    return pixels


def _decode_with_pillow(data: bytes, container: Container, limits: Limits) -> Pixels:
    if container.format == "PNG":
        data = png_still(data)
    image = _PLUGINS[container.format](io.BytesIO(data))
    _check_pixels(image.size, limits)  # a GIF's first frame may be larger than the canvas it announces
    return _pixels(image)


def _pixels(image: Image.Image) -> Pixels:
    """As Pillow displays it, [H, W, 3]: a TIFF is turned, no other is."""
    image.load()
    width, height = image.size
    rgb = np.empty((height, width, 3), np.uint8)
    depth, white_is_zero = _samples(image)
    step = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, step):
        bottom = min(height, top + step)
        rgb[top:bottom] = _rgb(image.crop((0, top, width, bottom)), depth)
    if white_is_zero:
        np.subtract(255, rgb, out=rgb)
    if isinstance(image, GifImagePlugin.GifImageFile) and image.tell() == 0 and image.dispose_extent is not None:
        left, top, right, bottom = image.dispose_extent  # of the first frame, around which Pillow leaves colour 0
        rgb[:top] = rgb[bottom:] = rgb[:, :left] = rgb[:, right:] = 255
    return rgb


def _samples(image: Image.Image) -> tuple[int, bool]:
    """Bits of what Pillow keeps as 16, and whether 0 is white. Beyond 8 bits it leaves both to its callers."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or not image.mode.startswith(("I;16", "F")):
        return 16, False
    (depth, *_), photometric = image.tag_v2[TiffImagePlugin.BITSPERSAMPLE], TiffImagePlugin.PHOTOMETRIC_INTERPRETATION
    return depth, image.tag_v2.get(photometric, 0) == 0


def _rgb(image: Image.Image, depth: int) -> Pixels:
    """Any mode of Pillow as RGB [H, W, 3], or as grey [H, W, 1] for the caller to spread over three channels. `depth`:
    bits of a sample in 16."""
    if image.mode.startswith("I;16"):
        return (np.asarray(image) >> (depth - 8)).astype(np.uint8)[:, :, None]
    if image.mode == "F":
        unit = np.nan_to_num(np.asarray(image, np.float32), nan=0.0).clip(0, 1)
        return (unit * 255).round().astype(np.uint8)[:, :, None]
    if image.mode in {"I", "LAB"}:
        raise ImageError("unsupported_format", f"pixels of mode {image.mode}")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(over, mask=over)
    rgb: Pixels = np.asarray(image.convert("RGB"))
    return rgb


def _resize(rgb: Pixels, policy: CropPolicy) -> Pixels:
    """The whole picture, or the central 4:1 of a longer one, with its shorter side as the policy wants it."""
    rgb = within_aspect(rgb)
    height, width = rgb.shape[:2]
    shorter = min(height, width)
    target = max(shorter, policy.size) if policy.resize is None else policy.resize
    return scale_pixels(rgb, target * height // shorter, target * width // shorter)


def scale_pixels(rgb: Pixels, height: int, width: int) -> Pixels:
    """Bicubic with antialiasing: the one resize. uint8 [H, W, 3] -> uint8 [height, width, 3]."""
    if rgb.shape[:2] == (height, width):
        return rgb
    x_HWC = torch.from_numpy(np.require(rgb, requirements=["C_CONTIGUOUS", "WRITEABLE"]))
    # A view of interleaved pixels takes torch's vector path, 5 times faster than planar ones on large pictures. The
    # batch axis is added before permute(), for the stride that makes the output interleaved as well.
    x_1CHW = x_HWC[None].permute(0, 3, 1, 2)
    y_1CHW = torch.nn.functional.interpolate(x_1CHW, (height, width), mode="bicubic", antialias=True)
    scaled: Pixels = y_1CHW[0].permute(1, 2, 0).numpy()
    return scaled


def within_aspect(rgb: Pixels) -> Pixels:
    """The picture, or the central 4:1 of a longer one: a view."""
    longest = MAX_ASPECT * min(rgb.shape[:2])
    return _centre(rgb, min(rgb.shape[0], longest), min(rgb.shape[1], longest))


def _left_to_turn(container: Container) -> int:
    """The EXIF orientation that decoded pixels still have: Pillow has turned a TIFF already."""
    return 1 if container.format == "TIFF" else container.orientation


def _turn(rgb: Pixels, orientation: int) -> Pixels:
    """Apply an EXIF orientation: a view."""
    if orientation >= 5:
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    return rgb


def _centre(rgb: Pixels, height: int, width: int) -> Pixels:
    top, left = (rgb.shape[0] - height) // 2, (rgb.shape[1] - width) // 2
    return rgb[top : top + height, left : left + width]


def _centre_crop(rgb: Pixels, size: int) -> Pixels:
    return np.ascontiguousarray(_centre(rgb, size, size))


def _phash(rgb: Pixels) -> str:
    return str(imagehash.phash(Image.fromarray(np.ascontiguousarray(rgb))))


def _check_pixels(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise ImageError("too_many_pixels", f"{width}x{height} pixels are more than the cap of {limits.max_pixels:,}")
    if max(size) > MAX_SIDE:
        raise ImageError("too_many_pixels", f"{width}x{height} pixels: a side has {MAX_SIDE} at most")
