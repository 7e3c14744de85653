"""Patches as one matrix product are what the convolution makes of them."""

import pytest
import torch
from torch import nn

from radet.patch_conv import PatchConv, replace_patch_convs


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(32, 32), (24, 39)])
def test_the_product_is_the_convolution(size: tuple[int, int], bias: bool, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 20, 8, stride=8, bias=bias).requires_grad_(False)
    x = torch.rand(2, 3, *size).contiguous(memory_format=layout).requires_grad_()
    mine, expected = PatchConv(conv).as_product(x), conv(x)
    torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)
    slopes = [torch.autograd.grad(found.square().sum(), x)[0] for found in (mine, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-5)
    assert torch.equal(PatchConv(conv)(x), expected), "on a CPU torch's own"


def test_only_convolutions_of_patches_are_replaced() -> None:
    patches = nn.Conv2d(3, 4, (2, 3), stride=(2, 3))
    others = [
        nn.Conv2d(3, 4, 3, stride=2),
        nn.Conv2d(3, 4, 2, stride=2, padding=1),
        nn.Conv2d(3, 3, 2, stride=2, groups=3),
        nn.Conv2d(3, 4, 2, stride=2, dilation=2),
        nn.Conv2d(3, 4, 1),
    ]
    tower = nn.Sequential(patches, *others)
    names = list(tower.state_dict())
    replace_patch_convs(tower)
    assert [isinstance(child, PatchConv) for child in tower] == [True] + 5 * [False]
    assert list(tower.state_dict()) == names
    torch.testing.assert_close(tower[0].as_product(torch.ones(1, 3, 5, 7)), patches(torch.ones(1, 3, 5, 7)))
