import numpy as np
import pytest
from PIL import ImageCms

from radet.icc import _transform, to_srgb

from .bad_inputs import SRGB, photo, wide_gamut_profile

CROP = np.asarray(photo(64, 48))


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize(
    "profile",
    [
        None,
        b"",
        b"no profile",
        bytes(200),
        wide_gamut_profile()[:200],
        wide_gamut_profile().replace(b"RGB ", b"GRAY"),
        wide_gamut_profile().replace(b"RGB ", b"CMYK"),
        srgb_profile(),
    ],
    ids=["none", "empty", "text", "zeros", "cut", "grey", "cmyk", "srgb"],
)
def test_pixels_stay_untouched_where_there_is_nothing_to_convert(profile):
    assert to_srgb(CROP, profile) is CROP


def test_srgb_by_another_name_is_srgb_and_a_plain_gamma_is_not():
    """A curve that is a hundredth darker is off by a level, either way; gamma 2.2 by six, in the dark."""
    share = np.linspace(0, 1, 256)
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4) ** 1.01
    assert to_srgb(CROP, wide_gamut_profile(SRGB, tuple((65535 * linear).round().astype(int)))) is CROP
    assert to_srgb(CROP, wide_gamut_profile(SRGB)) is not CROP


def test_a_wider_gamut_gets_more_saturated_and_grey_stays_grey():
    red = np.full((4, 4, 3), (200, 80, 60), np.uint8)
    converted = to_srgb(red, wide_gamut_profile())[0, 0].astype(int)
    assert converted[0] > 205
    assert converted[1] < 75
    grey = np.full((4, 4, 3), 128, np.uint8)
    assert np.ptp(to_srgb(grey, wide_gamut_profile())) <= 2


def test_the_input_is_not_changed_and_the_result_is_contiguous():
    before = CROP.copy()
    converted = to_srgb(CROP, wide_gamut_profile())
    assert converted.flags.c_contiguous
    assert converted.flags.writeable
    assert np.array_equal(CROP, before)
    assert not np.array_equal(converted, before)


def test_transforms_are_cached_but_not_without_bound():
    to_srgb(CROP, wide_gamut_profile())
    hits = _transform.cache_info().hits
    to_srgb(CROP, wide_gamut_profile())
    assert _transform.cache_info().hits == hits + 1
    assert _transform.cache_info().maxsize is not None
