import subprocess
import sys

import pytest

from radet.crop import DECODER, CropPolicy
from radet.errors import ModelError


def test_the_default_is_256_then_224():
    assert CropPolicy() == CropPolicy(resize=256, size=224, decoder=DECODER)


@pytest.mark.parametrize(
    "fields",
    [
        {"size": 0},
        {"size": -224},
        {"size": 224.0},
        {"size": True, "resize": None},
        {"size": 5000, "resize": None},
        {"resize": 223},
        {"resize": 10**9},
        {"resize": "256"},
        {"decoder": "pillow"},
        {"decoder": ""},
    ],
)
def test_nonsense_is_an_invalid_config(fields):
    with pytest.raises(ModelError) as caught:
        CropPolicy(**fields)
    assert caught.value.code == "config_invalid"


@pytest.mark.parametrize(
    "fields",
    [{"resize": None}, {"resize": 224}, {"resize": 384, "size": 384}, {"size": 1}, {"resize": 4096, "size": 4096}],
)
def test_sensible_policies_are_accepted(fields):
    CropPolicy(**fields)


def test_a_driver_can_read_a_policy_without_an_image_library():
    script = "import sys, radet.crop; print([m for m in ('torch', 'PIL', 'numpy', 'torchvision') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout == "[]\n"
