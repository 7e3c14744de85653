"""The decoder: what it refuses, the crop, and sameness."""

import io
import os
import random
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import imagehash
import numpy as np
import pytest
import skimage.data
from PIL import Image

from radet.errors import ImageError
from radet.images import (
    MAX_JPEG_SCANS,
    MAX_SIDE,
    CropPolicy,
    Header,
    Limits,
    _resize,
    crop_pixels,
    decode_picture,
    read_header,
    scale_pixels,
)

from .bad_inputs import (
    bomb_png,
    cmyk_photo,
    encoded,
    photo,
    png,
    rotated_exif,
    write_bad_inputs,
    ycck_jpeg,
)
from .decoding import NATIVE, code_of, decode, distance, hamming, pillow_crop


@pytest.fixture(scope="module")
def bad_inputs(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("bad_inputs")
    return folder, write_bad_inputs(folder)


# Statuses


def test_every_kind_of_file_gets_its_status(bad_inputs):
    folder, expected = bad_inputs
    assert len(expected) >= 28
    assert {name: code_of((folder / name).read_bytes()) for name in expected} == expected


def test_every_good_file_shows_the_photograph(bad_inputs):
    folder, expected = bad_inputs
    upright = decode(encoded(photo(), "PNG")).crop
    other_content = {"rotated.jpg", "1x1.png", "1x5000.png"}
    transparent = {"alpha.webp", "palette-alpha.png", "grey-alpha.png"}
    for name in sorted(name for name, status in expected.items() if status == "ok"):
        picture = decode((folder / name).read_bytes())
        assert picture.crop.shape == (224, 224, 3)
        assert picture.crop.dtype == np.uint8
        assert picture.crop.flags.c_contiguous
        assert len(picture.phash) == 16
        if name not in other_content | transparent:
            grey = picture.crop.mean(-1)
            tolerance = 70 if name == "one-bit.png" else 12
            assert distance(grey, upright.mean(-1)) < tolerance, name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain.jpg", Header(format="JPEG", width=320, height=240)),
        ("rotated.jpg", Header(format="JPEG", width=240, height=320)),
        ("several.mpo", Header(format="MPO", width=320, height=240)),
        ("animated.webp", Header(format="WEBP", width=320, height=240)),
        ("png-named.jpg", Header(format="PNG", width=320, height=240)),
        ("plain.avif", Header(format="AVIF", width=320, height=240)),
        ("1x5000.png", Header(format="PNG", width=1, height=5000)),
        ("bomb.png", Header(format="PNG", width=20_000, height=20_000)),
        ("cut-in-half.jpg", Header(format="JPEG", width=320, height=240)),
    ],
)
def test_the_header_has_format_and_size_even_of_pictures_that_will_be_refused(bad_inputs, name, expected):
    folder, _ = bad_inputs
    assert read_header((folder / name).read_bytes()) == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF"])
def test_losing_any_tail_of_the_data_is_truncated(kind):
    data = encoded(photo(96, 64), kind)
    for length in [*range(len(data) // 2, len(data), len(data) // 40), len(data) - 9]:
        assert code_of(data[:length]) == "truncated", (kind, length, len(data))


def test_a_progressive_jpeg_cut_between_two_scans_is_truncated():
    data = encoded(photo(), "JPEG", progressive=True)
    last_scan = data.rindex(b"\xff\xda")
    table = data.rindex(b"\xff\xc4", 0, last_scan)
    assert code_of(data[:table]) == "truncated"


@pytest.mark.parametrize("kind", ["JFIF", "progressive", "Adobe", "CMYK", "YCCK"])
def test_what_libjpeg_complains_of_and_yet_decodes_is_harmless(kind):
    image = cmyk_photo() if kind in {"CMYK", "YCCK"} else photo()
    data = ycck_jpeg(image) if kind == "YCCK" else encoded(image, "JPEG", progressive=kind == "progressive")
    if kind == "Adobe":
        data = data[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\1" + data[20:]
    mark = max(data.find(name) for name in (b"JFIF\0", b"Adobe"))
    table, scan = data.index(b"\xff\xdb"), data.index(b"\xff\xda")
    odd = {
        "stray bytes": data[:table] + b"\0\0\0" + data[table:-2] + b"\0\0\0" + data[-2:],
        "JFIF 2.01": data[: mark + 5] + b"\2" + data[mark + 6 :],
    }
    if kind != "CMYK":  # as CMYK it has no transform, which is known
        odd["transform 9"] = data[: mark + 11] + b"\x09" + data[mark + 12 :]
    if kind == "JFIF":
        odd["first coefficient 5"] = data[: scan + 11] + b"\5" + data[scan + 12 :]
    for oddity, changed in odd.items():
        assert np.array_equal(decode(changed).crop, decode(data).crop), oddity


def test_a_jpeg_with_a_hole_behind_stray_bytes_is_still_refused():
    data = encoded(photo(), "JPEG", progressive=True)
    second_scan_table = data.index(b"\xff\xc4", data.index(b"\xff\xda"))
    last_scan = data.rindex(b"\xff\xda")
    holed = data[:second_scan_table] + b"\0\0\0" + data[second_scan_table : last_scan + 40] + b"\xff\xd9"
    assert code_of(holed) == "truncated"


def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded():
    data = encoded(photo(), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match="scans"):
        decode(data[:-2] + scan * MAX_JPEG_SCANS + data[-2:])


def test_scans_are_counted_behind_a_comment_that_looks_like_the_end():
    data = encoded(photo(), "JPEG", progressive=True)
    between = data.index(b"\xff\xc4", data.index(b"\xff\xda"))
    scan = data[data.rindex(b"\xff\xda") : -2]
    hidden = data[:between] + b"\xff\xfe\0\4\xff\xd9" + data[between:-2] + scan * MAX_JPEG_SCANS + data[-2:]
    with pytest.raises(ImageError, match="scans"):
        decode(hidden)
    assert np.array_equal(decode(data + scan * MAX_JPEG_SCANS).crop, decode(data).crop)


def test_a_jpeg_that_shows_the_caps_another_size_than_the_decoder_is_refused():
    data = encoded(photo(64, 48), "JPEG")
    frame = data.index(b"\xff\xc0")
    small = data[frame:].replace(struct.pack(">HH", 48, 64), struct.pack(">HH", 8, 8), 1)
    header = read_header(data[:frame] + small)
    assert (header.width, header.height) == (8, 8)
    with pytest.raises(ImageError, match="two sizes"):
        decode_picture(data, header, CropPolicy())


@pytest.mark.parametrize("chunk", [b"IHDR", b"PLTE", b"tRNS", b"IDAT"])
def test_a_wrong_checksum_of_any_chunk_that_makes_the_picture_is_corrupt(chunk):
    alpha = photo()
    alpha.putalpha(128)
    data = bytearray(encoded(alpha.quantize(16), "PNG"))
    start = data.index(chunk)
    length = int.from_bytes(data[start - 4 : start], "big")
    data[start + 4 + length] ^= 1
    assert code_of(bytes(data)) == "corrupt"


def test_too_many_bytes_are_refused():
    data = encoded(photo(), "JPEG")
    with pytest.raises(ImageError) as caught:
        read_header(data, Limits(max_bytes=len(data) - 1))
    assert caught.value.code == "too_large_bytes"
    assert read_header(data, Limits(max_bytes=len(data))).format == "JPEG"


def test_the_pixel_cap_is_inclusive_and_counts_stored_pixels():
    data = encoded(photo(), "JPEG", exif=rotated_exif(6))
    assert code_of(data, Limits(max_pixels=320 * 240)) == "ok"
    assert code_of(data, Limits(max_pixels=320 * 240 - 1)) == "too_many_pixels"


@pytest.mark.parametrize("size", [(1, MAX_SIDE + 1), (MAX_SIDE + 1, 1)])
def test_a_side_has_a_cap_of_its_own(size):
    width, height = size
    assert code_of(png(width, height, 1, 0, bytes(8))) == "too_many_pixels"


@pytest.mark.parametrize("size", [(1, 5_000_000), (5_000_000, 1)])
def test_a_very_long_picture_is_scored_in_little_memory(size):
    """Antialiasing weighs every pixel of the longer side for each one that it makes."""
    width, height = size
    data = png(width, height, 8, 0, b"\0" * (width + 1) if height == 1 else b"\0\0" * height)
    script = (
        "import re, sys; from radet.images import *\n"
        "data = sys.stdin.buffer.read(); header = read_header(data)\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read()).group(1))\n"
        "start = peak(); [decode_picture(data, header, CropPolicy(resize=resize)) for resize in (256, None)]\n"
        "print((peak() - start) // 1024)\n"
    )
    command = [sys.executable, "-c", script]
    assert int(subprocess.run(command, input=data, capture_output=True, check=True).stdout) < 250


def test_the_phash_is_that_of_the_resized_picture():
    noise = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    for policy, seen in ((CropPolicy(), _resize(noise, CropPolicy())), (NATIVE, scale_pixels(noise, 64, 64))):
        found = decode(encoded(Image.fromarray(noise), "PNG"), policy).phash
        assert found == str(imagehash.phash(Image.fromarray(seen)))


def test_the_phash_of_a_long_picture_is_that_of_its_centre():
    pixels = np.asarray(photo(1000, 100))
    centre = encoded(Image.fromarray(pixels[:, 300:700]), "PNG")
    for policy in (CropPolicy(), NATIVE):
        assert decode(encoded(Image.fromarray(pixels), "PNG"), policy).phash == decode(centre, policy).phash


@pytest.mark.parametrize("side", [1200, 9600, 65_535])  # within Pillow's own cap, where it warns, where it refuses
def test_a_gif_whose_frame_exceeds_its_canvas_is_held_to_the_cap(side):
    data = bytearray(encoded(photo(64, 48), "GIF"))
    frame = data.index(b",", 13 + 768)
    data[frame + 5 : frame + 9] = struct.pack("<HH", side, side)
    assert read_header(bytes(data)) == Header(format="GIF", width=64, height=48)
    assert code_of(bytes(data), Limits(max_pixels=1_000_000)) == "too_many_pixels"


def test_pictures_beyond_pillows_own_limit_are_decoded_without_a_warning():
    side = 9_600  # 92 megapixels: above Image.MAX_IMAGE_PIXELS, below ours
    assert side * side > Image.MAX_IMAGE_PIXELS
    assert not decode(bomb_png(side)).crop.any()


def test_bombs_are_refused_without_memory_and_pillows_limit_stays_as_it_was(tmp_path):
    # VmHWM of /proc and not ru_maxrss, which a child inherits from the process that forked it.
    script = (
        "import re, sys; from PIL import Image; before = Image.MAX_IMAGE_PIXELS\n"
        "from radet.images import *; from radet.errors import ImageError\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read()).group(1))\n"
        "start = peak()\n"
        "for path in sys.argv[1:]:\n"
        "    data = open(path, 'rb').read()\n"
        "    try: decode_picture(data, read_header(data), CropPolicy())\n"
        "    except ImageError as error: print(error.code)\n"
        "print(Image.MAX_IMAGE_PIXELS == before, (peak() - start) // 1024)\n"
    )
    (tmp_path / "bomb.png").write_bytes(bomb_png())
    (tmp_path / "bomb.webp").write_bytes(webp_of_size(16_383, 16_383))
    command = [sys.executable, "-W", "error", "-c", script, *sorted(tmp_path.iterdir())]
    *codes, unchanged, megabytes = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    assert codes == ["too_many_pixels"] * 2
    assert unchanged == "True"
    assert int(megabytes) < 100


def webp_of_size(width: int, height: int) -> bytes:
    """An extended WebP whose canvas is announced larger than its picture."""
    data = bytearray(encoded(photo(), "WEBP", exif=rotated_exif(1)))
    assert data[12:16] == b"VP8X"
    data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF"])
def test_random_damage_gives_a_picture_or_an_image_error(kind):
    image = photo(48, 36)
    options = {"exif": rotated_exif(6)} if kind != "GIF" else {}
    intact = encoded(image, kind, **options)
    rng = random.Random(20261121)
    codes = set()
    for _ in range(500):
        data = bytearray(intact)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            match rng.randrange(3):
                case 0:
                    data[at] ^= 1 << rng.randrange(8)
                case 1:
                    del data[at + 1 :]
                case 2:
                    source = rng.randrange(len(data))
                    data[at : at + 8] = data[source : source + rng.randrange(24)]
        codes.add(code_of(bytes(data), Limits(max_pixels=1_000_000)))
    assert "truncated" in codes
    assert len(codes) >= 3


# The crop


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
def test_pixels_agree_with_pillow(name):
    image = Image.fromarray(getattr(skimage.data, name)())
    for data in (encoded(image, "JPEG", quality=88), encoded(image, "PNG"), encoded(image, "JPEG", progressive=True)):
        ours = decode(data).crop
        pillows = pillow_crop(Image.open(io.BytesIO(data)))
        assert distance(ours, pillows) < 0.05
        assert np.abs(ours.astype(int) - pillows).max() <= 2


def test_native_resolution_cuts_the_stored_pixels():
    pixels = skimage.data.astronaut()
    assert np.array_equal(decode(encoded(Image.fromarray(pixels), "PNG"), NATIVE).crop, pixels[144:368, 144:368])


def test_native_resolution_enlarges_what_is_smaller_than_the_crop():
    crop = decode(encoded(photo(300, 100), "PNG"), NATIVE).crop
    assert crop.shape == (224, 224, 3)
    assert distance(crop, np.asarray(photo(300, 100).resize((672, 224), Image.Resampling.BICUBIC))[:, 224:448]) < 1


def test_crop_pixels_is_the_decoders_crop_and_leaves_its_input_alone():
    pixels = skimage.data.coffee().copy()
    before = pixels.copy()
    pixels.flags.writeable = False
    for policy in (CropPolicy(), NATIVE, CropPolicy(resize=384, size=384)):
        crop = crop_pixels(pixels, policy)
        assert crop.flags.c_contiguous
        assert crop.shape == (policy.size, policy.size, 3)
        assert np.array_equal(crop, decode(encoded(Image.fromarray(pixels), "PNG"), policy).crop)
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("size", [(1, 50_000), (50_000, 1), (3, 30_000), (5000, 200)])
def test_extreme_shapes_show_their_centre_in_little_memory(size):
    width, height = size
    picture = np.zeros((height, width, 3), np.uint8)
    along = 1 if width > height else 0
    middle, half = max(size) // 2, min(size)
    centre = [slice(None), slice(None)]
    centre[along] = slice(middle - 2 * half, middle + 2 * half)
    picture[tuple(centre)] = (10, 200, 90)
    assert max(_resize(picture, CropPolicy()).shape[:2]) <= 4 * 256
    assert (crop_pixels(picture, CropPolicy()) == (10, 200, 90)).all()
    assert (crop_pixels(picture, NATIVE)[100:124, 100:124] == (10, 200, 90)).all()


# Sameness


def test_the_same_bytes_give_the_same_bits_twice_and_from_many_threads(bad_inputs):
    folder, expected = bad_inputs
    files = [(folder / name).read_bytes() for name, status in expected.items() if status == "ok"]

    def digest(data: bytes) -> str:
        picture = decode(data)
        return sha256(picture.crop.tobytes()).hexdigest() + picture.phash

    alone = [digest(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(digest, files * 4))
    assert together == alone * 4


def test_every_kind_of_cpu_gives_the_same_bits():
    script = (
        "import sys; from hashlib import sha256; from radet.images import *\n"
        "data = sys.stdin.buffer.read(); picture = decode_picture(data, read_header(data), CropPolicy())\n"
        "print(sha256(picture.crop.tobytes()).hexdigest(), picture.phash)\n"
    )
    data = encoded(Image.fromarray(skimage.data.coffee()), "JPEG", quality=85)
    plain_cpu = os.environ | {"ATEN_CPU_CAPABILITY": "default", "JSIMD_FORCENONE": "1"}
    done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=True, env=plain_cpu)
    here = decode(data)
    assert done.stdout.decode().split() == [sha256(here.crop.tobytes()).hexdigest(), here.phash]


def test_phash_is_close_for_a_copy_and_far_for_another_picture():
    photographs = [Image.fromarray(getattr(skimage.data, name)()) for name in ("astronaut", "chelsea", "coffee")]
    hashes = [decode(encoded(image, "PNG")).phash for image in photographs]
    for image, original in zip(photographs, hashes, strict=True):
        smaller = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
        for copy in (encoded(image, "JPEG", quality=40), encoded(smaller, "WEBP", quality=70)):
            assert hamming(decode(copy).phash, original) <= 6
        assert hamming(decode(encoded(image, "PNG"), NATIVE).phash, original) <= 4
        assert hamming(str(imagehash.phash(image)), original) <= 4
    assert min(hamming(a, b) for a in hashes for b in hashes if a != b) >= 16
