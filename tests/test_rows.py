"""Opened pictures mean what their files mean and never raise; what is no picture is refused; no memory is no damage."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from radet.containers import scan
from radet.crop import CropPolicy
from radet.errors import ConfigError
from radet.images import Limits, _decoding
from radet.rows import read_row

from .bad_inputs import encoded, photo, rotated_exif, wide_gamut_profile

POLICY = CropPolicy()


def seen(image):
    row = read_row(image, 0, POLICY)
    facts = {key: row.facts.get(key) for key in ("status", "width", "height", "phash", "format")}
    return facts, None if row.crop is None else row.crop.tobytes()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_opened_picture_is_turned_once(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(), kind, exif=exif, icc_profile=wide_gamut_profile())
    lazy, loaded = opened(data), opened(data)
    loaded.load()
    assert seen(lazy) == seen(loaded) == seen(data)


@pytest.mark.parametrize("mode", ["float", "int32", "uint16", "int16"])
def test_numbers_that_are_no_bytes_mean_the_same_in_an_opened_picture(mode):
    grey = np.asarray(photo().convert("L"))
    pixels = {
        "float": np.float32(grey / 255),
        "int32": np.int32(grey) << 8,
        "uint16": np.uint16(grey) << 8,
        "int16": np.int32(grey) << 7,
    }[mode]
    data = encoded(Image.fromarray(pixels), "TIFF")
    file, picture = read_row(data, 0, POLICY), read_row(opened(data), 0, POLICY)
    assert file.facts.get("status") == picture.facts.get("status")
    assert (file.crop is None) == (picture.crop is None) == (mode in {"int32", "int16"})
    assert file.crop is None or np.array_equal(file.crop, picture.crop)
    if mode == "float":
        assert np.array_equal(file.crop, read_row(Image.fromarray(pixels), 0, POLICY).crop)


def test_an_opened_picture_is_held_to_the_cap_of_pixels_and_to_none_of_bytes():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8))
    limits = Limits(max_bytes=1000, max_pixels=90_000)
    assert read_row(noise, 0, POLICY, limits).crop is not None
    row = read_row(opened(encoded(photo(301, 300), "PNG")), 0, POLICY, limits)
    assert row.facts["status"] == "too_many_pixels"


def test_bytes_and_files_are_held_to_both_caps(tmp_path):
    data, file = encoded(photo(), "PNG"), tmp_path / "a.png"
    file.write_bytes(data)
    pixels = photo().width * photo().height
    for image in (data, file):
        assert read_row(image, 0, POLICY, Limits(max_bytes=len(data), max_pixels=pixels)).crop is not None
        few = read_row(image, 0, POLICY, Limits(max_pixels=pixels - 1))
        short = read_row(image, 0, POLICY, Limits(max_bytes=len(data) - 1))
        assert (few.facts["status"], few.crop) == ("too_many_pixels", None)
        assert (short.facts["status"], short.crop) == ("too_large_bytes", None)
        assert short.facts.get("sha256") is None or image is data, "a file that is too large is not read"


@pytest.mark.parametrize("value", [None, "6", (6, 1), 3.0, 0, 9, -1, 70_000, b"\x06", True])
def test_an_odd_orientation_is_none(value):
    picture = photo()
    picture.getexif()[0x0112] = value
    assert seen(picture) == seen(photo())


@pytest.mark.parametrize("kind", ["ASCII", "BYTE", "LONG", "SSHORT"])
def test_an_orientation_of_odd_type_in_a_file_does_not_raise(kind):
    number = {"BYTE": 1, "ASCII": 2, "LONG": 4, "SSHORT": 8}[kind]
    value = {"BYTE": b"\6\0\0\0", "ASCII": b"6\0\0\0", "LONG": b"\0\1\x11\x70", "SSHORT": b"\xff\xff\0\0"}[kind]
    exif = rotated_exif(6)
    at = exif.index(b"\x01\x12") + 2
    exif = exif[:at] + bytes([0, number, 0, 0, 0, 1]) + value + exif[at + 10 :]
    assert read_row(opened(encoded(photo(), "JPEG", exif=exif)), 0, POLICY).crop is not None


def test_pictures_that_prove_bad_only_when_they_are_loaded_are_rows():
    closed, avif = opened(encoded(photo(), "PNG")), bytearray(encoded(photo(), "AVIF"))
    closed.close()
    with opened(encoded(photo(), "PNG")) as left:
        pass
    pixels = avif.index(b"mdat") + 4
    avif[pixels : pixels + 60] = b"\xff" * 60
    for picture in (closed, left, opened(bytes(avif)), Image.new("RGB", (0, 5))):
        row = read_row(picture, 3, POLICY)
        assert (row.facts["status"], row.facts["uri"], row.crop) == ("corrupt", "#3", None)
        assert not row.facts["error"].endswith(": ")
    assert "0x5" in row.facts["error"]
    assert read_row(opened(encoded(photo(), "PNG")[:5000]), 0, POLICY).facts["status"] == "truncated"


def test_any_bytes_are_bytes():
    data = encoded(photo(), "PNG")
    rows = [read_row(kind(data), 0, POLICY) for kind in (bytes, bytearray, memoryview)]
    assert len({row.facts["sha256"] for row in rows}) == 1
    assert len({row.crop.tobytes() for row in rows}) == 1


@pytest.mark.parametrize("image", [None, 5, np.zeros((8, 8, 3), np.uint8), io.BytesIO()])
def test_what_is_no_picture_is_refused_with_its_position(image):
    with pytest.raises(ConfigError, match=r"#7 is a \w+: give bytes, a path"):
        read_row(image, 7, POLICY)


def test_a_lack_of_memory_stays_one_where_there_is_room_again():
    with pytest.raises(MemoryError), _decoding(scan(encoded(photo(), "PNG")), Limits()):
        raise MemoryError


@pytest.mark.parametrize(
    ("kind", "options", "room"),
    [("JPEG", {"progressive": True}, 110), ("PNG", {}, 40), ("WEBP", {}, 40), ("AVIF", {"speed": 10}, 40)],
)
def test_a_lack_of_memory_is_not_the_pictures_fault(kind, options, room):
    """`room` in MB: the decoders say so in words of their own, or call it damage."""
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from radet.crop import CropPolicy; from radet.rows import see\n"
        "data = sys.stdin.buffer.read(); print('status' in see(data, CropPolicy()).facts)\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]) * 10**6,) * 2)\n"
        "try: print(see(data, CropPolicy()).facts)\n"
        "except MemoryError: print('no room')\n"
        "print(see(b'GIF89a' + bytes([9, 0, 9, 0]), CropPolicy()).facts['status'])\n"
    )
    data = encoded(Image.new("RGB", (6000, 6000), "teal"), kind, **options)
    done = subprocess.run([sys.executable, "-c", script, str(room)], input=data, capture_output=True, check=False)
    assert done.stdout.decode().splitlines() == ["False", "no room", "corrupt"], done.stderr.decode()[-2000:]


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_an_orientation_that_only_xmp_tells_turns_neither(kind):
    xmp = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    data = encoded(photo(), kind, xmp=xmp)
    assert opened(data).getexif()[0x0112] == 6
    assert seen(opened(data))[0]["width"] == seen(data)[0]["width"] == photo().width


def test_a_url_is_told_to_be_no_file():
    facts = read_row("https://example.org/a.jpg", 0, POLICY).facts
    assert (facts["status"], facts["uri"]) == ("not_found", "https://example.org/a.jpg")
    assert "give the bytes that it leads to" in facts["error"]
    assert "No such file" in read_row("absent.jpg", 0, POLICY).facts["error"]
