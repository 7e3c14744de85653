"""The Jacobian's energy against an explicit Jacobian, and the bound's arithmetic."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from radet.shift_bound import RANGE, bound_shift, jacobian_energy, shifts


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 7), nn.Tanh())
    return layers.requires_grad_(False)


def test_hutchinson_agrees_with_the_explicit_jacobian(network: nn.Module) -> None:
    x_BCHW = torch.rand(3, 3, 8, 8)
    probes = 400
    found = jacobian_energy(network, x_BCHW, probes=probes, seed=0)
    for picture, energy in zip(x_BCHW, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(network, picture[None]).reshape(7, -1).double()
        gram = jacobian @ jacobian.T
        off = gram - gram.diag().diag()
        error = math.sqrt(2 / probes * float(off.square().sum()))
        assert error < 0.1 * float(gram.trace()), "the comparison can tell"
        assert abs(float(energy) - float(gram.trace())) < 4 * error


def test_a_picture_s_energy_is_its_own(network: nn.Module) -> None:
    """Scaling one picture's pixels changes no other's energy: no probe mixes the batch."""
    x_BCHW = torch.rand(4, 3, 8, 8)
    before = jacobian_energy(network, x_BCHW, probes=8, seed=1)
    x_BCHW[0] *= 0.1
    after = jacobian_energy(network, x_BCHW, probes=8, seed=1)
    assert torch.allclose(before[1:], after[1:])
    assert not torch.allclose(before[:1], after[:1])


def test_the_shift_of_a_linear_map_is_its_first_order() -> None:
    torch.manual_seed(1)
    matrix = torch.randn(5, 3 * 6 * 6)

    def linear(x_BCHW: Tensor) -> Tensor:
        return x_BCHW.flatten(1) @ matrix.T

    x_BCHW = torch.rand(2, 3, 6, 6)
    energy = float(matrix.square().sum())
    assert jacobian_energy(linear, x_BCHW, probes=400, seed=0).tolist() == pytest.approx([energy] * 2, rel=0.1)
    found = shifts(linear, x_BCHW, (0.01, 0.03), draws=1000, seed=0)
    assert found[0].tolist() == pytest.approx([0.01**2 * energy, 0.03**2 * energy], rel=0.1)
    assert torch.allclose(found[0], found[1], rtol=1e-3), "the same directions for every picture"


def test_the_bound_is_the_formula() -> None:
    generated = np.array([True, True, False, False])
    found = bound_shift(0.1, [8.0, 10.0, 2.0, 4.0], [0.3, 0.5, 0.1, 0.1], generated, 0.5, seed=0)
    assert found.energy_gap == pytest.approx((6.0, 4.0, 8.0)), "from 8 - 4 to 10 - 2, each drawn one time in 16"
    assert found.first_order == pytest.approx(0.06)
    assert found.measured.value == pytest.approx(0.3)
    assert found.divergence == pytest.approx(0.25), "half of the symmetric one"
    assert found.penalty == pytest.approx(RANGE * math.sqrt(0.125))
    assert found.penalty_seen == pytest.approx(0.5 * math.sqrt(0.125))
    assert found.bound == pytest.approx(0.06 - found.penalty)
    assert not found.informative
    assert found.largest_range * math.sqrt(found.divergence / 2) == pytest.approx(found.first_order)


def test_equal_distributions_leave_the_first_order_alone() -> None:
    generated = np.array([True, True, False, False])
    found = bound_shift(0.1, [8.0, 10.0, 2.0, 4.0], [0.3, 0.5, 0.1, 0.1], generated, -0.02, seed=0)
    assert found.bound == pytest.approx(found.first_order)
    assert found.informative
    assert found.largest_range == math.inf
    turned = bound_shift(0.1, [8.0, 10.0, 2.0, 4.0], [0.3, 0.5, 0.1, 0.1], ~generated, 0.5, seed=0)
    assert turned.first_order < 0 == turned.largest_range
