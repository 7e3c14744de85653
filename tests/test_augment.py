"""Augmentation: a function of its arguments, and every kind of it acts."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from radet.augment import AugmentConfig, augment
from radet.crop import CropPolicy
from radet.errors import ConfigError
from radet.images import Pixels, crop_pixels

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
