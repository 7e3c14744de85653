"""What an image file says about itself: format, size, orientation, colour profile, whether it is all there.

    scan(data) -> Container        no pixel is decoded and nothing of the announced size is allocated

The walkers are ours and not Pillow's because Pillow checks a process-wide pixel limit while it opens a file, allocates
a WebP's canvas at that moment, and turns odd metadata into warnings. None of that may depend on the thread or process.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from PIL import AvifImagePlugin

from radet.errors import ImageError
from radet.tiff import Tags, exif_orientation

#: Colour profiles above this size are ignored (RGB profiles have 0.5 to 500 KB); it bounds what a file can unpack.
MAX_ICC_BYTES = 1 << 20

# No encoder writes as many. Millions are an attack on our time and, where Pillow reads them too, on its memory.
MAX_JPEG_SEGMENTS = 10_000
MAX_CHUNKS = 100_000  # of a PNG or WebP

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    _PNG_SIGNATURE: "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
_BMP_HEADER_SIZES = {12, 40, 52, 56, 64, 108, 124}  # "BM" alone also starts many a text
#: Recognised, so that the error can name them; radet has no decoder for these.
_UNSUPPORTED_SIGNATURES = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"II+\0": "BigTIFF",
    b"MM\0+": "BigTIFF",
    b"8BPS": "PSD",
    b"%PDF": "PDF",
    b"%!PS": "EPS",
    b"\0\0\1\0": "ICO",
    b"FUJIFILMCCD-RAW": "RAF",
    b"gimp xcf": "XCF",
    b"qoif": "QOI",
}
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"crx "}

#: Of a segment with a length, or the end. Neither fill bytes, nor stuffing (00), nor TEM (01) and RSTn.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One file's own description. `width` and `height` are pixels as stored, before `orientation` (EXIF, 1 to 8)."""

    format: str
    width: int
    height: int
    complete: bool = True  # false: the data ends before the file does. Unknown for GIF, BMP and AVIF: the decoder tells
    orientation: int = 1
    icc: bytes | None = None
    channels: int = 3  # JPEG components: 1 grey, 3 colour, 4 CMYK
    scans: int = 1  # JPEG: passes over the picture


def scan(data: bytes) -> Container:
    """Describe the file. Raises ImageError not_an_image, unsupported_format, truncated or corrupt."""
    kind = sniff(data)
    try:
        container = _WALKERS[kind](data)
    except (struct.error, IndexError) as error:
        raise ImageError("truncated", f"the {kind} data ends inside its header") from error
    if container.width < 1 or container.height < 1:
        raise ImageError("corrupt", f"the {kind} header announces {container.width}x{container.height} pixels")
    return container


def sniff(data: bytes) -> str:
    """The format by signature, never by file name. Raises ImageError not_an_image or unsupported_format."""
    for signature, name in _SIGNATURES.items():
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    for signature, name in _UNSUPPORTED_SIGNATURES.items():
        if data.startswith(signature):
            _unsupported(name)
    if data[4:8] == b"ftyp":
        size = min(int.from_bytes(data[:4], "big"), 256)
        brands = {data[8:12], *(data[at : at + 4] for at in range(16, size, 4))}
        if brands & _AVIF_BRANDS:
            return "AVIF"
        if brands & _HEIF_BRANDS:
            _unsupported("HEIF")
    text = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<") and b"<svg" in text and b"<html" not in text:
        _unsupported("SVG")
    raise ImageError("not_an_image", "no known image signature")


def png_still(data: bytes) -> bytes:
    """The PNG reduced to the chunks that make its still picture. Raises ImageError corrupt where a checksum fails.

    Without the other chunks there is no animation, no text to inflate and no metadata to warn about.
    """
    depth = data[24]
    # A 16-bit colour key does not survive the reduction to 8 bits: it would match other colours.
    wanted = {b"IHDR", b"PLTE", b"IDAT", b"IEND"} | ({b"tRNS"} if depth < 16 else set())
    parts = [_PNG_SIGNATURE]
    for name, start, stop in _png_chunks(data):
        if name in wanted:
            if zlib.crc32(data[start - 4 : stop]) != int.from_bytes(data[stop : stop + 4], "big"):
                raise ImageError("corrupt", f"the checksum of the PNG's {name.decode()} chunk is wrong")
            parts.append(data[start - 8 : stop + 4])
    return b"".join(parts)


def jpeg_mended(data: bytes, channels: int) -> bytes:
    """The JPEG without what libjpeg only warns of before the first scan, and reads like this: bytes that belong to no
    segment, another revision of JFIF, an unknown colour transform of Adobe's.

    simplejpeg gives up at each of these, even where it is told not to be strict.
    """
    parts = [b"\xff\xd8"]
    for marker, start, stop in _jpeg_segments(data):
        if marker == 0xDA:
            return b"".join([*parts, data[start - 4 :]])
        segment = bytearray(data[start - 4 : stop])
        if marker == 0xE0 and segment[4:9] == b"JFIF\0":
            segment[9:10] = b"\1"
        elif marker == 0xEE and segment[4:9] == b"Adobe" and segment[15:16] != b"\0":
            segment[15:16] = b"\2" if channels == 4 else b"\1"
        parts.append(bytes(segment))
    return data


def _jpeg(data: bytes) -> Container:
    width = height = channels = scans = 0
    complete, exif = False, b""
    icc: dict[int, bytes] = {}
    kind = "JPEG"
    for marker, start, stop in _jpeg_segments(data):
        if marker == 0xD9:
            complete = scans > 0
        elif marker == 0xDA:
            scans += 1
        if scans:
            continue
        body = data[start:stop]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            precision, height, width, channels = struct.unpack_from(">BHHB", body)
            if precision != 8 or channels not in (1, 3, 4):
                _unsupported(f"JPEG with {channels} channels of {precision} bits")
        elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif = exif or body
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
            icc[body[12]] = body[14:]
        elif marker == 0xE2 and body.startswith(b"MPF\0"):
            kind = "MPO"
    if not channels:
        raise ImageError("truncated", "the JPEG data ends before the size of the picture")
    return Container(
        format=kind,
        width=width,
        height=height,
        # A progressive picture cut between two scans decodes without complaint, only coarser: the missing end marker
        # is all that tells.
        complete=complete,
        orientation=exif_orientation(exif),
        icc=bounded(b"".join(icc[number] for number in sorted(icc))),
        channels=channels,
        scans=scans,
    )


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, stop) of the contents of every segment up to the end marker, which comes last and has none.

    It goes as libjpeg goes, or a file could show the caps one picture and the decoder another.
    """
    at = 2
    for _ in range(MAX_JPEG_SEGMENTS):
        found = _JPEG_MARKER.search(data, at)
        if found is None:
            return
        start, marker = found.end(), data[found.end() - 1]
        if marker == 0xD9:
            yield marker, start, start
            return
        at = start + int.from_bytes(data[start : start + 2], "big")
        yield marker, start + 2, at
    raise ImageError("corrupt", f"the JPEG has more than {MAX_JPEG_SEGMENTS} segments")


def _png(data: bytes) -> Container:
    width, height = struct.unpack_from(">II", data, 16)
    first: dict[bytes, bytes] = {}  # a file may repeat what may be there once, and each costs time
    for name, start, stop in _png_chunks(data):
        if name in (b"eXIf", b"iCCP", b"IEND") and name not in first:
            first[name] = data[start:stop]
    return Container(
        format="PNG",
        width=width,
        height=height,
        complete=b"IEND" in first,
        orientation=exif_orientation(first.get(b"eXIf", b"")),
        icc=_inflated_profile(first.get(b"iCCP", b"")),
    )


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, stop) of the contents of every whole chunk up to IEND."""
    at = len(_PNG_SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if at + 12 > len(data):
            return
        length, name = struct.unpack_from(">I4s", data, at)
        start, stop = at + 8, at + 8 + length
        if stop + 4 > len(data):
            return
        yield name, start, stop
        if name == b"IEND":
            return
        at = stop + 4
    raise ImageError("corrupt", f"the PNG has more than {MAX_CHUNKS} chunks")


def _inflated_profile(chunk: bytes) -> bytes | None:
    name_end = chunk.find(b"\0")
    try:
        return bounded(zlib.decompressobj().decompress(chunk[name_end + 2 :], MAX_ICC_BYTES + 1))
    except zlib.error:
        return None


def _webp(data: bytes) -> Container:
    (riff_size,) = struct.unpack_from("<I", data, 4)
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = _u24(data, 24) + 1, _u24(data, 27) + 1
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise ImageError("corrupt", "the WebP starts with no picture chunk")
    first: dict[bytes, bytes] = {}
    if kind == b"VP8X":
        for name, start, stop in _webp_chunks(data, min(len(data), riff_size + 8)):
            if name in (b"EXIF", b"ICCP") and name not in first:
                first[name] = data[start:stop]
    return Container(
        format="WEBP",
        width=width,
        height=height,
        complete=riff_size + 8 <= len(data),
        orientation=exif_orientation(first.get(b"EXIF", b"")),
        icc=bounded(first.get(b"ICCP", b"")),
    )


def _webp_chunks(data: bytes, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, stop) of the contents of every chunk that starts before `end`."""
    at = 12
    for _ in range(MAX_CHUNKS):
        if at + 8 > end:
            return
        name, length = struct.unpack_from("<4sI", data, at)
        start, stop = at + 8, at + 8 + length
        yield name, start, stop
        at = stop + (length & 1)
    raise ImageError("corrupt", f"the WebP has more than {MAX_CHUNKS} chunks")


def _gif(data: bytes) -> Container:
    width, height = struct.unpack_from("<HH", data, 6)
    return Container(format="GIF", width=width, height=height)


def _bmp(data: bytes) -> Container:
    (header_size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header_size == 12 else "<ii", data, 18)
    return Container(format="BMP", width=width, height=abs(height))  # a negative height means top row first


def _tiff(data: bytes) -> Container:
    tags = Tags(data)
    tags.require_few_numbers()
    if 256 not in tags or 257 not in tags:
        raise ImageError("corrupt", "the TIFF has no size")
    starts, lengths = tags.numbers(273) or tags.numbers(324), tags.numbers(279) or tags.numbers(325)
    return Container(
        format="TIFF",
        width=tags.number(256),
        height=tags.number(257),
        complete=all(start + length <= len(data) for start, length in zip(starts, lengths, strict=False)),
        orientation=tags.orientation,
        icc=bounded(tags.bytes(34675)),
    )


def _avif(data: bytes) -> Container:
    # Boxes nest too deep for a walker of ours; Pillow's plugin parses them and allocates no pixels before load().
    try:
        image = AvifImagePlugin.AvifImageFile(io.BytesIO(data))
    except MemoryError:
        raise
    except Exception as error:  # RuntimeError, SyntaxError ...: whatever libavif's code is mapped to
        # The boxes come first, so a file that lacks only pixels still opens, and the decoder finds the end missing.
        raise ImageError("truncated" if _lacks_boxes(data) else "corrupt", f"AVIF: {error}") from error
    width, height = image.size
    return Container(
        format="AVIF",
        width=width,
        height=height,
        orientation=exif_orientation(image.info.get("exif", b"")),
        icc=bounded(image.info.get("icc_profile")),
    )


def _lacks_boxes(data: bytes) -> bool:
    at = 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if length < 8:  # 0: up to the end of the file; 1: a 64-bit length, which no picture needs
            return False
        at += length
    return at != len(data)


def _u24(data: bytes, at: int) -> int:
    low, high = struct.unpack_from("<HB", data, at)
    return int(low | high << 16)


def bounded(profile: bytes | None) -> bytes | None:
    """The profile, or None where there is none or it is too large to be one."""
    return profile if profile and len(profile) <= MAX_ICC_BYTES else None


def _unsupported(name: str) -> NoReturn:
    raise ImageError("unsupported_format", f"radet does not read {name}")


_WALKERS = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
    "GIF": _gif,
    "BMP": _bmp,
    "TIFF": _tiff,
    "AVIF": _avif,
}
