"""Normalising what is nearly uniform."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from radet import Detector
from radet.branches import Seen
from radet.detector import to_pixels
from radet.group_norm import GroupNorm
from radet.selftest import pictures


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.0, 1e-2), (0.1, 1e-3)])
def test_it_is_exact_in_every_layout(layout: torch.memory_format, mean: float, std: float) -> None:
    torch.manual_seed(0)
    h_BFHW = (mean + std * torch.randn(2, 16, 112, 112)).contiguous(memory_format=layout)
    exact_BFHW = nn.functional.group_norm(h_BFHW.double(), 8)
    with torch.no_grad():
        assert (GroupNorm(8, 16)(h_BFHW) - exact_BFHW).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["flat", "ramps"])
def test_flat_pictures_have_the_logit_that_doubles_give(name: str) -> None:
    detector = Detector.from_pretrained("radet-lite")
    size = detector.config.crop.size
    crop = np.full((size, size, 3), 128, np.uint8) if name == "flat" else pictures(size)[0]
    assert detector.heads is not None
    branch = detector.heads.branches["lowlevel"]
    (x_BCHW,) = detector.pixels(crop[None])
    nothing = torch.empty(1, 0)
    with torch.inference_mode():
        found = branch(Seen(x_BCHW, nothing, nothing, nothing))
        exact = copy.deepcopy(branch).double()(
            Seen(to_pixels(torch.from_numpy(crop[None])).double(), nothing, nothing, nothing)
        )
    assert abs(float(found) - float(exact)) < 1e-6
