"""What the pixels of every kind of picture mean."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from radet.images import (
    CropPolicy,
    decode_opened,
    decode_pixels,
)

from .bad_inputs import (
    cmyk_photo,
    encoded,
    photo,
    png,
    png_chunk,
    png_rgb16,
    rotated_exif,
    wide_gamut_profile,
    without_adobe_marker,
    ycck_jpeg,
)
from .decoding import NATIVE, decode, distance, hamming, pillow_crop

# What the pixels mean


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("policy", [CropPolicy(), NATIVE], ids=["resized", "native"])
def test_all_orientations_show_the_same_picture(kind, orientation, policy):
    to_stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    upright = photo(401, 300)
    stored = upright.transpose(to_stored) if to_stored is not None else upright
    options = {"TIFF": {"tiffinfo": {0x0112: orientation}}, "JPEG": {"quality": 97, "subsampling": 0}}.get(kind, {})
    if kind != "TIFF":
        options["exif"] = rotated_exif(orientation)[6 if kind in {"PNG", "WEBP", "AVIF"} else 0 :]
    if kind == "WEBP":
        options["lossless"] = True
    picture = decode(encoded(stored, kind, **options), policy)
    reference = decode(encoded(upright, "PNG"), policy)
    assert (picture.header.width, picture.header.height) == (401, 300)
    assert distance(picture.crop, reference.crop) < (3 if kind == "AVIF" else 1.5)
    assert distance(decode_pixels(encoded(stored, kind, **options)), upright) < 3
    assert hamming(picture.phash, reference.phash) <= 4


def test_sixteen_bits_keep_the_high_byte():
    levels = np.arange(256, dtype=np.uint16) * 257
    ramp = np.broadcast_to(levels, (256, 256))
    grey = decode(encoded(Image.fromarray(ramp.copy()), "PNG"), NATIVE).crop
    assert np.array_equal(grey[0, :, 0], np.arange(16, 240))
    rgb = np.stack([ramp, ramp // 2, ramp.T], axis=-1)
    assert np.array_equal(decode(png_rgb16(rgb), NATIVE).crop, (rgb >> 8)[16:240, 16:240])
    key = png_chunk(b"tRNS", struct.pack(">HHH", 9, 9, 9))  # another colour, which in 8 bits is this one
    near = png(240, 240, 16, 2, (b"\0" + b"\x09\x77" * 3 * 240) * 240, key)
    assert (decode(near, NATIVE).crop == 9).all()


def test_float_pixels_run_from_zero_to_one():
    values = np.full((224, 224), 0.5, np.float32)
    values[0, :3] = [np.nan, -1, 7]
    crop = decode(encoded(Image.fromarray(values), "TIFF"), NATIVE).crop
    assert crop[0, :3, 0].tolist() == [0, 0, 255]
    assert (crop[1:] == 128).all()


@pytest.mark.parametrize(
    ("bits", "white_is_zero"),
    [(8, False), (8, True), (12, False), (16, False), (16, True), (32, False), (32, True)],
)
def test_grey_tiffs_of_any_depth_show_black_as_black(bits, white_is_zero):
    """32: floats."""
    levels = np.arange(256).repeat(224)[: 224 * 224].reshape(224, 224)
    if bits == 12:
        pairs = (levels << 4).reshape(-1, 2)
        high, low = pairs[:, 0], pairs[:, 1]
        samples = np.stack([high >> 4, (high & 15) << 4 | low >> 8, low & 255], axis=-1).astype(np.uint8)
    else:
        stored = 255 - levels if white_is_zero else levels
        samples = {8: np.uint8(stored), 16: np.uint16(stored * 257), 32: np.float32(stored / 255)}[bits]
    data = grey_tiff(samples.tobytes(), 224, 224, bits, photometric=0 if white_is_zero else 1)
    assert np.array_equal(decode(data, NATIVE).crop[:, :, 0], levels)
    with Image.open(io.BytesIO(data)) as opened:
        assert np.array_equal(decode_opened(opened, NATIVE).crop[:, :, 0], levels)


@pytest.mark.parametrize(
    ("header_size", "top_first"),
    [(12, False), (40, False), (40, True), (52, False), (56, False), (64, False), (108, False), (124, True)],
)
def test_bmps_with_any_header_show_the_same_picture(header_size, top_first):
    pixels = np.asarray(photo(240, 230))
    rows = pixels[:, :, ::-1] if top_first else pixels[::-1, :, ::-1]
    height = -230 if top_first else 230
    if header_size == 12:
        header = struct.pack("<IHHHH", 12, 240, height, 1, 24)
    else:
        header = struct.pack("<IiiHHIIiiII", header_size, 240, height, 1, 24, 0, rows.size, 0, 0, 0, 0)
    header = header.ljust(header_size, b"\0")
    start = 14 + len(header)
    data = b"BM" + struct.pack("<IHHI", start + rows.size, 0, 0, start) + header + rows.tobytes()
    picture = decode(data, NATIVE)
    assert (picture.header.width, picture.header.height) == (240, 230)
    assert np.array_equal(picture.crop, pixels[3:227, 8:232])


def grey_tiff(samples: bytes, width: int, height: int, bits: int, *, photometric: int) -> bytes:
    """An uncompressed little-endian TIFF of one strip, for the kinds that Pillow cannot write."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: height}
    tags |= {279: len(samples), 339: 3 if bits == 32 else 1}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return struct.pack("<4sIH", b"II*\0", 8, len(tags)) + entries + bytes(4) + samples


@pytest.mark.parametrize("transparent", [False, True])
def test_what_the_first_frame_of_a_gif_leaves_of_its_canvas_is_white(transparent):
    frame = Image.new("P", (60, 40), 1)
    frame.putpalette([0, 0, 0, 200, 50, 50])
    data = bytearray(encoded(frame, "GIF", optimize=False, **({"transparency": 0} if transparent else {})))
    at = data.index(b",\0\0\0\0")
    data[6:10] = struct.pack("<HH", 240, 240)
    data[at + 1 : at + 5] = struct.pack("<HH", 100, 110)
    expected = np.full((240, 240, 3), 255, np.uint8)
    expected[110:150, 100:160] = (200, 50, 50)
    assert np.array_equal(decode(bytes(data), NATIVE).crop, expected[8:232, 8:232])
    with Image.open(io.BytesIO(data)) as opened:
        assert np.array_equal(decode_opened(opened, NATIVE).crop, expected[8:232, 8:232])


def test_a_later_frame_of_an_opened_gif_lies_on_what_is_under_it():
    frames = [Image.new("RGB", (240, 240), "red") for _ in range(2)]
    frames[1].paste("blue", (100, 110, 160, 150))
    with Image.open(io.BytesIO(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))) as opened:
        opened.seek(1)
        assert opened.dispose_extent != (0, 0, 240, 240)
        assert distance(decode_opened(opened, NATIVE).crop, np.asarray(frames[1])[8:232, 8:232]) < 1


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 160, 0), (20, 30, 200), (255, 255, 255), (0, 0, 0)])
def test_cmyk_jpegs_have_the_right_colours(colour):
    image = Image.new("RGB", (64, 64), colour).convert("CMYK")
    adobe = encoded(image, "JPEG", quality=98)
    for data in (adobe, without_adobe_marker(adobe), ycck_jpeg(image)):
        assert np.abs(decode(data).crop.astype(int) - colour).max() <= 4


def test_cmyk_pixels_are_pillows():
    data = encoded(cmyk_photo(), "JPEG", quality=90)
    assert distance(decode(data).crop, pillow_crop(Image.open(io.BytesIO(data)).convert("RGB"))) < 0.1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB key", "L key", "1 key"])
def test_transparency_is_over_white(mode):
    image = Image.new("RGBA", (240, 240), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 120, 240))
    match mode:
        case "P":
            data = encoded(image.quantize(4), "PNG")
        case "RGB key":
            rgb = Image.new("RGB", image.size, (0, 0, 0))
            rgb.paste((9, 9, 9), (0, 0, 120, 240))
            data = encoded(rgb, "PNG", transparency=(9, 9, 9))
        case "L key":
            grey = Image.new("L", image.size, 0)
            grey.paste(9, (0, 0, 120, 240))
            data = encoded(grey, "PNG", transparency=9)
        case "1 key":
            row = b"\0" + b"\xff" * 15 + b"\0" * 15
            data = png(240, 240, 1, 0, row * 240, png_chunk(b"tRNS", b"\0\1"))
        case _:
            data = encoded(image.convert(mode), "PNG")
    crop = decode(data, NATIVE).crop
    assert (crop[:, :112] == 255).all()
    assert (crop[:, 112:] == 0).all()


def test_half_transparent_black_is_grey():
    crop = decode(encoded(Image.new("RGBA", (64, 64), (0, 0, 0, 127)), "WEBP", lossless=True)).crop
    assert set(np.unique(crop)) <= {127, 128}


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "MPO", "AVIF"])
def test_the_first_frame_of_an_animation_is_seen(kind):
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue", "green")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(decode(data).crop.astype(int) - (255, 0, 0)).max() <= 12


def test_png_metadata_reaches_neither_pixels_nor_warnings():
    plain = encoded(photo(), "PNG")
    too_long = zlib.compress(b"x" * (80 << 20), 9)
    extras = [
        png_chunk(b"acTL", bytes(8)),  # an animation of no frames
        png_chunk(b"zTXt", b"prompt\0\0" + too_long),
        png_chunk(b"iCCP", b"bad\0\0" + b"not zlib"),
        png_chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"),
    ]
    dressed = plain[:33] + b"".join(extras) + plain[33:]
    assert np.array_equal(decode(dressed).crop, decode(plain).crop)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_profiles_are_converted_to_srgb(kind):
    colour = (200, 80, 60)
    image = Image.new("RGB", (64, 64), colour)
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}, "AVIF": {"quality": 100}}
    plain = decode(encoded(image, kind, **options.get(kind, {}))).crop
    tagged = decode(encoded(image, kind, icc_profile=wide_gamut_profile(), **options.get(kind, {}))).crop
    assert np.abs(plain.astype(int) - colour).max() <= 3
    assert tagged[0, 0, 0] > colour[0] + 5  # the same numbers are a stronger red in a wider gamut
    assert tagged[0, 0, 1] < colour[1] - 5
    whole = decode_pixels(encoded(image, kind, icc_profile=wide_gamut_profile(), **options.get(kind, {})))
    assert distance(whole[0, 0], tagged[0, 0]) <= 1
