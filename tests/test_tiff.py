"""Tags that announce anything: hostile ones cost neither time nor memory, and orientation is read from odd ones."""

import struct
import time
import tracemalloc

import pytest

from radet.containers import scan
from radet.errors import ImageError
from radet.tiff import MAX_NUMBERS, Tags, exif_orientation

from .bad_inputs import encoded, photo, png_chunk, rotated_exif
from .decoding import code_of

BYTE, TEXT, LONG, RATIONAL, UNDEFINED = 1, 2, 4, 5, 7


def tiff(*tags: tuple[int, int, int, int], tail: int = 0) -> bytes:
    """A directory of (tag, type, count, value or offset)."""
    entries = b"".join(struct.pack(">HHII", *tag) for tag in tags)
    return b"MM\0*" + struct.pack(">IH", 8, len(tags)) + entries + bytes(4 + tail)


def seconds(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


@pytest.mark.parametrize(
    ("exif", "expected"),
    [
        (rotated_exif(6), 6),
        (rotated_exif(6)[6:], 6),
        (rotated_exif(0), 1),
        (rotated_exif(9), 1),
        (rotated_exif(6)[:20], 1),
        (b"Exif\0\0" + struct.pack("<4sIHHHIHHI", b"II*\0", 8, 1, 0x0112, 3, 1, 8, 0, 0), 8),
        (b"Exif\0\0" + struct.pack(">4sIHHHIHHI", b"MM\0*", 8, 1, 0x0112, 4, 2**32 - 1, 8, 0, 0), 1),
        (b"", 1),
    ],
)
def test_orientation_is_one_unless_the_exif_block_says_otherwise(exif, expected):
    assert exif_orientation(exif) == expected


def test_of_a_repeated_tag_the_first_counts():
    assert exif_orientation(tiff((0x0112, LONG, 1, 6), (0x0112, LONG, 1, 3))) == 6


def test_only_values_that_are_asked_for_are_unpacked():
    tags = Tags(tiff((1, LONG, 3, 8), (2, BYTE, 20, 0), (3, 2, 1, 0)))
    assert len(tags.numbers(1)) == 3
    assert len(tags.numbers(1, most=2)) == 2
    assert tags.number(4) == 0
    assert tags.bytes(2)[:4] == b"MM\0*"
    assert tags.numbers(3) == ()
    assert tags.bytes(1) == b""


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_exif_block_that_unpacks_itself_again_and_again_is_read_at_once(kind):
    entries = 5_400
    exif = tiff(*[(0x0112, BYTE, 8 + 12 * entries, 0)] * entries)
    data = encoded(photo(32, 32), "PNG") if kind == "PNG" else encoded(photo(32, 32), kind, exif=b"Exif\0\0" + exif)
    if kind == "PNG":
        data = data[:33] + png_chunk(b"eXIf", exif) + data[33:]
    assert len(data) > 60_000
    assert seconds(lambda: scan(data)) < 0.3


def test_a_tiff_whose_tags_all_cover_the_file_costs_no_memory():
    count = 4_000_000
    tags = (256, 257, 258, 0x0112, 273, 279, 324, 325, 34675)
    data = tiff(*[(tag, BYTE, count, 0) for tag in tags], tail=count)
    tracemalloc.start()
    try:
        container = scan(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert container.icc is None
    assert peak < 40 << 20


@pytest.mark.parametrize("tag", [273, 282, 700])
def test_more_numbers_than_any_picture_has_rows_are_corrupt(tag):
    sizes = (256, LONG, 1, 8), (257, LONG, 1, 8)
    with pytest.raises(ImageError) as caught:
        scan(tiff(*sizes, (tag, RATIONAL, MAX_NUMBERS + 1, 0)))
    assert caught.value.code == "corrupt"
    assert scan(tiff(*sizes, (tag, RATIONAL, MAX_NUMBERS, 0))).width == 8


@pytest.mark.parametrize("kind", [BYTE, TEXT, UNDEFINED])
def test_bytes_of_any_number_are_none_of_these(kind):
    """A profile or XMP of half a mebibyte; Pillow leaves them as they are."""
    data = tiff((256, LONG, 1, 8), (257, LONG, 1, 8), (700, kind, 2 * MAX_NUMBERS, 0), tail=2 * MAX_NUMBERS)
    assert scan(data).width == 8


def test_the_exif_of_a_tiff_is_not_unpacked():
    """Pillow would, into numbers of a hundred bytes each."""
    plain = encoded(photo(32, 32), "TIFF", tiffinfo={0x0112: 6, 34665: 0})
    at = len(plain) + len(plain) % 2
    count = 500_000
    sub = struct.pack("<H", 1) + struct.pack("<HHII", 37_000, RATIONAL, count, 0) + bytes(4 + 8 * count)
    entry = plain.index(struct.pack("<HHI", 34665, LONG, 1))
    data = bytearray(plain + bytes(at - len(plain)) + sub)
    data[entry + 8 : entry + 12] = struct.pack("<I", at)
    assert seconds(lambda: code_of(bytes(data))) < 0.5
    assert code_of(bytes(data)) == "ok"
