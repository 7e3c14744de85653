import struct
import time
import zlib

import pytest

from radet.containers import MAX_CHUNKS, MAX_ICC_BYTES, MAX_JPEG_SEGMENTS, png_still, scan, sniff
from radet.errors import ImageError

from .bad_inputs import encoded, photo, png_chunk, rotated_exif, wide_gamut_profile

KINDS = ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"]


def code_of(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        scan(data)
    return caught.value.code


@pytest.mark.parametrize("kind", [*KINDS, "GIF", "BMP"])
def test_size_and_completeness_are_read_from_the_container(kind):
    container = scan(encoded(photo(123, 45), kind))
    assert (container.format, container.width, container.height) == (kind, 123, 45)
    assert (container.complete, container.orientation, container.icc) == (True, 1, None)


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": rotated_exif(1)}], ids=["VP8", "VP8L", "VP8X"])
def test_all_three_kinds_of_webp_tell_their_size(options):
    for size in ((123, 45), (3, 5000), (5000, 3)):
        container = scan(encoded(photo(*size), "WEBP", **options))
        assert (container.width, container.height) == size


@pytest.mark.parametrize("kind", KINDS)
def test_profiles_are_found_and_bounded(kind):
    profile = wide_gamut_profile()
    assert scan(encoded(photo(), kind, icc_profile=profile)).icc == profile
    huge = profile + bytes(MAX_ICC_BYTES)
    if kind != "AVIF":
        assert scan(encoded(photo(), kind, icc_profile=huge)).icc is None


def test_a_box_of_brands_that_claims_to_be_large_costs_nothing():
    start = time.process_time()
    assert code_of(b"\x01\0\0\0ftypabcd\0\0\0\0") == "not_an_image"
    assert time.process_time() - start < 0.2


def test_a_profile_that_inflates_without_end_is_dropped():
    data = encoded(photo(), "PNG")
    bomb = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(50 << 20), 9))
    assert scan(data[:33] + bomb + data[33:]).icc is None


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x18ftypheix\0\0\0\0mif1", "HEIF"),
        (b"\xff\x0a\0\0", "JPEG XL"),
        (b"\xef\xbb\xbf <svg/>", "SVG"),
        (b"%PDF-1.4", "PDF"),
        (b"8BPS\0\1", "PSD"),
        (b"\0\0\1\0\1\0", "ICO"),
        (b"II+\0\x08\0\0\0", "BigTIFF"),
    ],
)
def test_other_image_formats_are_named(data, name):
    with pytest.raises(ImageError) as caught:
        sniff(data)
    assert (caught.value.code, name in caught.value.message) == ("unsupported_format", True)


@pytest.mark.parametrize(
    "data", [b"\0", b"BM is text, too, mostly harmless", b"<html><svg/></html>", b"RIFF\0\0\0\0WAVE"]
)
def test_other_files_are_no_images(data):
    assert code_of(data) == "not_an_image"


def test_the_first_profile_and_orientation_of_a_png_count_and_no_other_costs_anything():
    data, profile = encoded(photo(), "PNG"), wide_gamut_profile()
    chunks = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(profile)) + png_chunk(b"eXIf", rotated_exif(6)[6:])
    again = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(1 << 20), 9)) + png_chunk(b"eXIf", rotated_exif(3)[6:])
    start = time.process_time()
    container = scan(data[:33] + chunks + again * 500 + data[33:])
    assert time.process_time() - start < 0.5
    assert (container.icc, container.orientation) == (profile, 6)


def test_the_first_orientation_of_a_jpeg_counts_and_its_profile_is_put_together_by_number():
    def segment(marker, body):
        return marker + struct.pack(">H", len(body) + 2) + body

    data, profile = encoded(photo(), "JPEG"), wide_gamut_profile()
    segments = [segment(b"\xff\xe1", rotated_exif(orientation)) for orientation in (6, 3)]
    for number, part in ((2, profile[100:]), (1, profile[:100])):
        segments.append(segment(b"\xff\xe2", b"ICC_PROFILE\0" + bytes([number, 2]) + part))
    container = scan(data[:20] + b"".join(segments) + data[20:])
    assert (container.icc, container.orientation) == (profile, 6)


def test_the_first_profile_and_orientation_of_a_webp_count():
    profile = wide_gamut_profile()
    profile += bytes(1 - len(profile) % 2)  # an odd length, behind which one byte is no one's
    data = encoded(photo(), "WEBP", icc_profile=profile, exif=rotated_exif(6))
    more = struct.pack("<4sI", b"EXIF", 32) + rotated_exif(3) + struct.pack("<4sI", b"ICCP", 4) + bytes(4)
    data = data + more
    container = scan(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
    assert (container.icc, container.orientation) == (profile, 6)
    behind = encoded(photo(), "WEBP", icc_profile=profile) + more
    assert scan(behind).orientation == 1, "it is no part of the file"


def test_a_tiff_of_tiles_that_lie_beyond_its_end_is_incomplete():
    data = encoded(photo(), "TIFF")
    for strips, tiles in ((273, 324), (279, 325)):
        at = data.index(struct.pack("<HH", strips, 4))
        data = data[:at] + struct.pack("<H", tiles) + data[at + 2 :]
    assert scan(data).complete
    assert not scan(data[:-10]).complete


def test_a_png_or_webp_of_endless_chunks_is_corrupt():
    data = encoded(photo(), "PNG")
    few, many = (data[:33] + png_chunk(b"abCd", b"") * number + data[33:] for number in (MAX_CHUNKS - 9, MAX_CHUNKS))
    assert scan(few).complete
    assert code_of(many) == "corrupt"
    webp = encoded(photo(), "WEBP", exif=rotated_exif(1)) + struct.pack("<4sI", b"abcd", 0) * MAX_CHUNKS
    assert code_of(webp[:4] + struct.pack("<I", len(webp) - 8) + webp[8:]) == "corrupt"


def test_markers_without_a_length_are_passed_as_libjpeg_passes_them():
    """Behind TEM and RSTn comes a marker, not a length: what it says would hide the real size."""
    data = encoded(photo(123, 45), "JPEG")
    for marker in (b"\xff\x01", b"\xff\xd0", b"\xff\xd7", b"\xff\0", b"\xff"):
        container = scan(data[:2] + marker + data[2:])
        assert (container.width, container.height, container.complete) == (123, 45, True)
    assert scan(data[:2] + b"\xff\xfe\0\0" + data[2:]).width == 123  # a length below 2 is 2


def test_what_a_comment_or_a_second_picture_holds_is_neither_end_nor_scan():
    data = encoded(photo(), "JPEG", progressive=True)
    first = scan(data)
    between = data.index(b"\xff\xc4", data.index(b"\xff\xda"))
    comment = b"\xff\xfe\0\x0a" + b"\xff\xda\0\2" + b"\xff\xd9" * 2
    assert scan(data[:between] + comment + data[between:]).scans == first.scans > 1
    assert scan(data + data).scans == first.scans
    assert not scan(data[:between] + comment + data[between:-2]).complete


@pytest.mark.parametrize(("place", "value"), [(4, 12), (9, 2)], ids=["bits", "channels"])
def test_a_jpeg_of_twelve_bits_or_two_channels_is_unsupported(place, value):
    data = bytearray(encoded(photo(), "JPEG"))
    data[data.index(b"\xff\xc0") + place] = value
    assert code_of(bytes(data)) == "unsupported_format"


def test_a_jpeg_that_ends_before_its_first_scan_is_incomplete():
    data = encoded(photo(), "JPEG")
    assert not scan(data[: data.index(b"\xff\xda")] + b"\xff\xd9").complete


def test_a_jpeg_of_endless_segments_is_corrupt():
    assert code_of(b"\xff\xd8" + b"\xff\xfe\0\2" * (MAX_JPEG_SEGMENTS + 1)) == "corrupt"


@pytest.mark.parametrize(
    "head", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8 ", b"II*\0\x08\0"]
)
def test_a_file_that_ends_inside_its_header_is_truncated(head):
    assert code_of(head) == "truncated"


def test_the_still_png_has_the_chunks_of_the_picture_only():
    data = encoded(photo(), "PNG", icc_profile=wide_gamut_profile(), exif=rotated_exif(6)[6:], dpi=(72, 72))
    still = png_still(data)
    assert [name for name in (b"iCCP", b"eXIf", b"pHYs") if name in data] == [b"iCCP", b"eXIf", b"pHYs"]
    assert not [name for name in (b"iCCP", b"eXIf", b"pHYs") if name in still]
    assert still == encoded(photo(), "PNG")
