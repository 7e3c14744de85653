"""The files that a real folder holds: odd, broken and hostile ones, each with the status that its row must get.

Everything is made here, in code, from one photograph; nothing is larger than a few hundred kilobytes.
"""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import skimage.data
from PIL import Image


def write_bad_inputs(folder: Path) -> dict[str, str]:
    """Write one file of each kind into `folder`. Returns {file name: "ok" or the code of the ImageError}."""
    statuses = {}
    for name, (status, data) in _files().items():
        (folder / name).write_bytes(data)
        statuses[name] = status
    return statuses


def photo(width: int = 320, height: int = 240) -> Image.Image:
    """A photograph, RGB."""
    return Image.fromarray(skimage.data.astronaut()).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The image as a file of that kind, with the options of Pillow's save()."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG from raw scanlines (each with its filter byte), for the kinds that Pillow cannot write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [png_chunk(b"IHDR", header), *extra, png_chunk(b"IDAT", zlib.compress(rows, 9)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png_chunk(name: bytes, body: bytes) -> bytes:
    """Length, name, body, checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_rgb16(pixels_HWC: np.ndarray) -> bytes:
    """A 16-bit RGB PNG of uint16 pixels."""
    height, width, _ = pixels_HWC.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels_HWC)
    return png(width, height, 16, 2, rows)


def bomb_png(side: int = 20_000) -> bytes:
    """A one-bit PNG of side x side black pixels that really decodes: about 60 KB for 400 megapixels."""
    return png(side, side, 1, 0, bytes(1 + side // 8) * side)


def cmyk_photo() -> Image.Image:
    """A photograph in CMYK, made by the simple conversion."""
    return photo().convert("CMYK")


def ycck_jpeg(image: Image.Image) -> bytes:
    """A CMYK JPEG in the YCCK encoding, inverted, as Photoshop writes it."""
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(255 - np.asarray(image)), 95, "CMYK"))


def without_adobe_marker(jpeg: bytes) -> bytes:
    """The JPEG without its APP14 segment."""
    at = jpeg.index(b"\xff\xee")
    return jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") :]


P3 = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))  # adapted to D50, as XYZ
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))


def wide_gamut_profile(
    primaries: tuple[tuple[float, float, float], ...] = P3, curve: tuple[int, ...] = (round(2.2 * 256),)
) -> bytes:
    """An ICC profile of a matrix and one curve: a gamma in 256ths, or points from 0 to 65535."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + fixed(*values)

    gamma = b"curv\0\0\0\0" + struct.pack(f">I{len(curve)}H", len(curve), *curve) + bytes(len(curve) % 2 * 2)
    red, green, blue = primaries
    tags = {
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(*red),
        b"gXYZ": xyz(*green),
        b"bXYZ": xyz(*blue),
        b"rTRC": gamma,
        b"gTRC": gamma,
        b"bTRC": gamma,
    }
    table, body = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += struct.pack(">4sII", name, 132 + 12 * len(tags) + len(body), len(value))
        body += value
    header = bytearray(128)
    header[0:4] = struct.pack(">I", 128 + len(table) + len(body))
    header[8:24] = b"\x02\x10\0\0mntrRGB XYZ "
    header[36:40] = b"acsp"
    header[68:80] = fixed(0.9642, 1.0, 0.8249)
    return bytes(header) + table + body


def rotated_exif(orientation: int) -> bytes:
    """An EXIF block that holds the orientation only."""
    return b"Exif\0\0" + struct.pack(">4sIHHHIHHI", b"MM\0*", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def _files() -> dict[str, tuple[str, bytes]]:
    image = photo()
    second = photo().rotate(180)
    alpha = image.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(image.size))
    grey16 = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) << 8)
    jpeg = encoded(image, "JPEG", quality=90)
    progressive = encoded(image, "JPEG", quality=90, progressive=True)
    png_file = encoded(image, "PNG")
    bad_crc = bytearray(png_file)
    bad_crc[29] ^= 0xFF
    webp = encoded(image, "WEBP", quality=80)
    gif = encoded(image, "GIF")
    tiff = encoded(image, "TIFF")
    frames: dict[str, Any] = {"save_all": True, "append_images": [second], "duration": 100}
    noise = np.random.default_rng(7).bytes(4096)
    return {
        "plain.jpg": ("ok", jpeg),
        "progressive.jpg": ("ok", progressive),
        "grey.jpg": ("ok", encoded(image.convert("L"), "JPEG")),
        "trailing-garbage.jpg": ("ok", jpeg + b"\0garbage\xff\xd8\xff" * 50),
        "cmyk.jpg": ("ok", without_adobe_marker(encoded(cmyk_photo(), "JPEG", quality=95))),
        "cmyk-adobe.jpg": ("ok", encoded(cmyk_photo(), "JPEG", quality=95)),
        "cmyk-ycck.jpg": ("ok", ycck_jpeg(cmyk_photo())),
        "rotated.jpg": ("ok", encoded(image, "JPEG", exif=rotated_exif(6))),
        "exif-broken.jpg": ("ok", encoded(image, "JPEG", exif=rotated_exif(6)[:14])),
        "icc-p3.jpg": ("ok", encoded(image, "JPEG", icc_profile=wide_gamut_profile())),
        "icc-broken.jpg": ("ok", encoded(image, "JPEG", icc_profile=wide_gamut_profile()[:90])),
        "several.mpo": ("ok", encoded(image, "MPO", save_all=True, append_images=[second])),
        "caf\u00e9 \u6f22\u5b57.jpg": ("ok", jpeg),
        "line\nbreak.jpg": ("ok", jpeg),
        "with space #1 100%.jpg": ("ok", jpeg),
        "png-named.jpg": ("ok", png_file),
        "animated.gif": ("ok", encoded(image, "GIF", **frames)),
        "animated.webp": ("ok", encoded(image, "WEBP", **frames)),
        "animated.png": ("ok", encoded(image, "PNG", **frames)),
        "alpha.webp": ("ok", encoded(alpha, "WEBP")),
        "grey16.png": ("ok", encoded(grey16, "PNG")),
        "rgb16.png": ("ok", png_rgb16(np.asarray(image).astype(np.uint16) * 257)),
        "palette-alpha.png": ("ok", encoded(alpha.quantize(64), "PNG")),
        "one-bit.png": ("ok", encoded(image.convert("1"), "PNG")),
        "grey-alpha.png": ("ok", encoded(alpha.convert("LA"), "PNG")),
        "1x1.png": ("ok", encoded(image.resize((1, 1)), "PNG")),
        "1x5000.png": ("ok", encoded(image.resize((1, 5000)), "PNG")),
        "plain.bmp": ("ok", encoded(image, "BMP")),
        "plain.tif": ("ok", tiff),
        "float.tif": ("ok", encoded(Image.fromarray(np.asarray(image.convert("L"), np.float32) / 255), "TIFF")),
        "plain.avif": ("ok", encoded(image, "AVIF", quality=80)),
        "empty.jpg": ("empty", b""),
        "page.jpg": ("not_an_image", b"<!DOCTYPE html><html><body>404 <svg></svg></body></html>"),
        "text.png": ("not_an_image", b"this is no picture\n"),
        "noise.jpg": ("not_an_image", b"\x01" + noise),
        "phone.heic": ("unsupported_format", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)),
        "drawing.svg": ("unsupported_format", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>'),
        "paper.pdf": ("unsupported_format", b"%PDF-1.7\n"),
        "picture.jxl": ("unsupported_format", b"\xff\x0a" + noise),
        "int32.tif": ("unsupported_format", encoded(Image.new("I", (64, 48), 9), "TIFF")),
        "lab.tif": ("unsupported_format", encoded(Image.new("LAB", (64, 48)), "TIFF")),
        "arithmetic-lossless.jpg": ("unsupported_format", jpeg.replace(b"\xff\xc0", b"\xff\xcb", 1)),
        "cut-in-header.jpg": ("truncated", jpeg[:100]),
        "cut-in-half.jpg": ("truncated", jpeg[: len(jpeg) // 2]),
        "cut-end-marker.jpg": ("truncated", jpeg[:-2]),
        "cut-hole.jpg": ("truncated", jpeg[: len(jpeg) // 2] + b"\xff\xd9"),
        "cut-zeros.jpg": ("truncated", jpeg[: len(jpeg) // 2] + bytes(len(jpeg) // 2)),
        "cut-progressive.jpg": ("truncated", progressive[: len(progressive) * 3 // 4]),
        "cut.png": ("truncated", png_file[: len(png_file) // 2]),
        "cut.webp": ("truncated", webp[: len(webp) // 2]),
        "cut.gif": ("truncated", gif[: len(gif) // 2]),
        "cut.tif": ("truncated", tiff[: len(tiff) // 2]),
        "cut.bmp": ("truncated", encoded(image, "BMP")[:-1000]),
        "bad-crc.png": ("corrupt", bytes(bad_crc)),
        "no-size.png": ("corrupt", png(0, 0, 8, 2, b"\0")),
        "bomb.png": ("too_many_pixels", bomb_png()),
    }
