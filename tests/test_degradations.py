"""Degradations do what their names say, and nothing is random about them."""

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from skimage.filters import gaussian

from pipelines.degraded import degraded, split
from pipelines.fetch import Fetcher
from radet.degradations import NEUTRAL, SUITES, Condition, conditions, degrade
from radet.errors import ConfigError, ImageError
from radet.images import Limits, Pixels, decode_pixels, scale_pixels


@pytest.fixture(scope="module")
def picture(photographs: list[Image.Image]) -> Pixels:
    return np.asarray(photographs[0].resize((200, 150)))


def apply(text: str, picture: Pixels, seed: int = 0) -> Pixels:
    return Condition.parse(text).apply(picture, seed)


@pytest.mark.parametrize("text", sorted({c for suite in SUITES.values() for c in suite} | {NEUTRAL}))
def test_every_suite_gives_pictures_and_the_same_again(text: str, picture: Pixels) -> None:
    once = apply(text, picture)
    assert once.dtype == np.uint8
    assert once.ndim == 3
    assert np.array_equal(once, apply(text, picture))
    assert np.array_equal(once, picture) == (text == "clean")


def test_lower_quality_is_further_from_the_original(picture: Pixels) -> None:
    def distance(text: str) -> float:
        return float(np.abs(apply(text, picture).astype(float) - picture).mean())

    for kind, levels in (("jpeg", (95, 75, 30)), ("webp", (95, 50, 5)), ("blur", (0.5, 1.5, 4)), ("noise", (1, 4, 16))):
        found = [distance(f"{kind}:{level}") for level in levels]
        assert found == sorted(set(found)), kind
        assert found[0] > 0


def test_jpeg_is_the_jpeg_of_that_quality(picture: Pixels) -> None:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=60, subsampling=2)
    assert np.abs(apply("jpeg:60", picture).astype(int) - decode_pixels(out.getvalue())).mean() < 1.0
    assert np.array_equal(apply("jpeg:59.6", picture), apply("jpeg:60", picture))


def test_blur_and_noise_have_the_stated_deviation(picture: Pixels) -> None:
    expected = gaussian(picture, 2, channel_axis=2, preserve_range=True)
    assert np.abs(apply("blur:2", picture)[20:-20, 20:-20] - expected[20:-20, 20:-20]).mean() < 1.5
    grey = np.full((100, 100, 3), 128, np.uint8)
    assert apply("noise:8", grey).std() == pytest.approx(8, rel=0.03)
    assert apply("noise:8", grey).mean() == pytest.approx(128, abs=0.2)
    for level, expected in ((0, 3.2), (255, 251.8)):  # half of it is cut off: 8 / sqrt(2 pi) are left
        assert apply("noise:8", np.full_like(grey, level)).mean() == pytest.approx(expected, abs=0.2)
    assert not np.array_equal(apply("noise:8", grey, 1), apply("noise:8", grey, 2))


def test_sizes(picture: Pixels) -> None:
    assert apply("resize:0.5", picture).shape == (75, 100, 3)
    assert apply("resize:2", picture).shape == (300, 400, 3)
    assert apply("resize:0.5", picture[:1]).shape == (1, 100, 3)
    assert apply("resize:2", picture[:2].repeat(16, axis=1)).shape == (3, 4096, 3), "as large as is allowed"
    assert apply("resize:0.5", picture[:2].repeat(50, axis=1)).shape == (1, 5000, 3), "which is about enlarging"
    assert np.array_equal(apply("thumbnail:50", picture), scale_pixels(scale_pixels(picture, 50, 67), 150, 200))
    assert np.array_equal(apply("thumbnail:4096", picture), picture)
    assert np.array_equal(apply("square:64", picture), scale_pixels(picture[:, 25:175], 64, 64))
    assert apply(f"{NEUTRAL}+resize:0.5", picture).shape == (128, 128, 3)


def test_conditions_of_suites() -> None:
    assert conditions("clean") == ["clean"]
    assert conditions("jpeg:1,jpeg:100") == ["clean", "jpeg:1", "jpeg:100"]
    assert conditions("jpeg, blur:2") == ["clean", *SUITES["jpeg"], "blur:2"]
    assert conditions("noise:3", neutral=True) == ["clean", "noise:3", NEUTRAL, f"{NEUTRAL}+noise:3"]


def test_noise_of_a_large_picture_is_drawn_in_strips_and_is_the_same() -> None:
    shape = (5000, 400, 3)
    grey = np.full(shape, 128, np.uint8)
    whole = (grey + np.random.default_rng(7).normal(0, 8, shape)).round().clip(0, 255).astype(np.uint8)
    tracemalloc.start()
    noisy = apply("noise:8", grey, 7)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.array_equal(noisy, whole)
    assert peak < 8 * grey.size, "less than the noise of the whole picture, a double each"


@pytest.mark.parametrize(
    "text",
    [
        "jpg",
        "blur:1+jpeg",
        "jpeg:",
        "jpeg:0",
        "jpeg:101",
        "blur:-1",
        "noise:nan",
        "jpeg:5+fog:1",
        "blur:51",
        "resize:9",
    ],
)
def test_what_is_no_condition_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(ConfigError, match=r"quality|suite|pixels|levels|factor"):
        conditions(text)


@pytest.mark.parametrize(("text", "side"), [("webp:80", 16_383), ("blur:1+jpeg:75", 65_500)])
def test_a_picture_longer_than_its_format_can_be_is_at_fault_itself(text: str, side: int) -> None:
    assert apply(text, np.zeros((2, side, 3), np.uint8)).shape == (2, side, 3)
    for shape in ((2, side + 1, 3), (side + 1, 2, 3)):
        with pytest.raises(ImageError) as caught:
            apply(text, np.zeros(shape, np.uint8))
        assert caught.value.code == "too_many_pixels"


def test_a_degraded_location_is_read_as_the_degraded_picture(picture: Pixels, tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "a !b.png"
    Image.fromarray(picture).save(path)
    location = degraded(str(path), "resize:0.8+jpeg:60")
    assert split(location) == ("resize:0.8+jpeg:60", str(path))
    assert split(str(path)) is None
    fetcher = Fetcher(allow_http=False)
    data = fetcher.read(location)
    assert np.array_equal(decode_pixels(data), apply("resize:0.8+jpeg:60", picture))
    plain, worse = fetcher.look(str(path)), fetcher.look(location)
    assert plain.version != worse.version
    with pytest.raises(ImageError):
        degrade(b"<html>", "jpeg:60")
    with pytest.raises(ImageError, match="pixels"):
        degrade(path.read_bytes(), "jpeg:60", Limits(max_pixels=picture[..., 0].size - 1))
