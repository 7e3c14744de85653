"""Augmentation: a function of its arguments, and every kind of it acts."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from radet.augment import AugmentConfig, augment
from radet.crop import CropPolicy
from radet.degradations import blurred, through_jpeg, through_webp, with_noise
from radet.errors import ConfigError
from radet.images import Pixels, crop_pixels, scale_pixels, within_aspect

POLICY = CropPolicy(resize=64, size=64)
NOTHING = AugmentConfig(plain=0, rescale=0, blur=0, noise=0, codec=0, flip=0, zoom=(1, 1))


@pytest.fixture(scope="module")
def picture(photographs: list[Image.Image]) -> Pixels:
    return np.asarray(photographs[1].resize((120, 90)))


def run(picture: Pixels, config: AugmentConfig, seed: int = 0) -> Pixels:
    return augment(picture, POLICY, config, np.random.default_rng(seed))


def test_it_is_a_function_of_picture_and_generator(picture: Pixels) -> None:
    config = AugmentConfig(plain=0)
    for seed in range(20):
        once = run(picture, config, seed)
        assert once.shape == (64, 64, 3)
        assert once.dtype == np.uint8
        assert once.flags.c_contiguous
        assert np.array_equal(once, run(picture, config, seed))
    assert len({run(picture, config, seed).tobytes() for seed in range(20)}) == 20


@pytest.mark.parametrize(
    "change",
    [
        {"rescale": 1.0},
        {"blur": 1.0},
        {"noise": 1.0},
        {"codec": 1.0},
        {"flip": 1.0},
        {"zoom": (1.3, 1.3)},
    ],
)
def test_every_kind_acts_and_shifts_no_other(picture: Pixels, change: dict[str, object]) -> None:
    plain, changed = run(picture, NOTHING), run(picture, replace(NOTHING, **change))  # type: ignore[arg-type]
    assert not np.array_equal(plain, changed)
    if change != {"zoom": (1.3, 1.3)}:
        back = changed[:, ::-1] if "flip" in change else changed
        assert np.abs(back.astype(int) - plain).mean() < 25, "the same part of the picture"


def test_every_draw_decides_one_thing(picture: Pixels) -> None:
    height, width = picture.shape[:2]
    for seed in range(16):
        rng = np.random.default_rng(seed)
        gates, draws, _ = rng.random(6), rng.random(8), rng.random()
        quality = round(40 + 58 * draws[3])
        coded = (
            through_jpeg(picture, quality, fine=bool(draws[4] < 0.5))
            if gates[4] < 2 / 3
            else through_webp(picture, quality)
        )
        small = round(height * (0.35 + 0.55 * draws[0]))
        expected = {
            "rescale": scale_pixels(picture, small, small * width // height),
            "blur": blurred(picture, float(0.3 + 1.2 * draws[1])),
            "noise": with_noise(picture, 1 + 5 * draws[2], rng),
            "codec": coded,
        }
        for gate, (kind, changed) in zip(gates, expected.items(), strict=False):
            found = run(picture, replace(NOTHING, **{kind: 1.0}), seed)  # type: ignore[arg-type]
            assert np.array_equal(found, run(changed, NOTHING, seed)), kind
            perhaps = run(picture, replace(NOTHING, **{kind: 0.5}), seed)  # type: ignore[arg-type]
            assert np.array_equal(perhaps, found if gate < 0.5 else run(picture, NOTHING, seed)), kind
        zoomed = scale_pixels(picture, 83, 83 * width // height)
        top, left = int(draws[6] * (83 - 63)), int(draws[7] * (zoomed.shape[1] - 63))
        expected_crop = zoomed[top : top + 64, left : left + 64]
        assert np.array_equal(run(picture, replace(NOTHING, zoom=(1.3, 1.3)), seed), expected_crop)


def test_pictures_are_never_scaled_to_next_to_nothing_and_large_or_long_ones_first_of_all(picture: Pixels) -> None:
    tiny = replace(NOTHING, rescale=1.0, scale=(0.01, 0.01))
    assert np.array_equal(run(picture, tiny), run(scale_pixels(picture, 16, 16 * 120 // 90), NOTHING))
    large, noisy = scale_pixels(picture, 1500, 2000), replace(NOTHING, noise=1.0)
    assert np.array_equal(run(large, noisy), run(scale_pixels(large, 1024, 1024 * 2000 // 1500), noisy))
    long = np.tile(picture[:4], (1, 200, 1))
    assert np.array_equal(run(long, noisy), run(within_aspect(long), noisy))
    assert within_aspect(long).shape[1] < long.shape[1]


@pytest.mark.parametrize("plain", [0.0, 1.0])
def test_any_shape_gives_a_crop(plain: float) -> None:
    for shape in [(1, 1), (3, 500), (500, 3), (64, 64), (65, 64), (3000, 40)]:
        assert run(np.zeros((*shape, 3), np.uint8), AugmentConfig(plain=plain)).shape == (64, 64, 3)


def test_plain_is_what_scoring_sees_and_comes_as_often_as_it_says(picture: Pixels) -> None:
    scored = crop_pixels(picture, POLICY)
    assert np.array_equal(run(picture, AugmentConfig(plain=1)), scored)
    share = np.mean([np.array_equal(run(picture, AugmentConfig(), seed), scored) for seed in range(200)])
    assert 0.4 < share < 0.6
    mixed, never = AugmentConfig(plain=0.5), AugmentConfig(plain=0)
    for seed in range(20):  # what is not plain is as it would have been
        assert any(np.array_equal(run(picture, mixed, seed), other) for other in (scored, run(picture, never, seed)))


def test_settings_that_cannot_be_are_named() -> None:
    with pytest.raises(ConfigError, match="probabilities"):
        AugmentConfig(blur=1.5)
    with pytest.raises(ConfigError, match=r"augment\.scale"):
        AugmentConfig(scale=(0.9, 0.5))
    with pytest.raises(ConfigError, match="zoom"):
        AugmentConfig(zoom=(0.5, 1.0))
