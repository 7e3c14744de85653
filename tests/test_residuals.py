"""The sorting network against sorting."""

import torch

from radet.residuals import local_dependency, neighbour_median


def test_the_network_finds_the_fourth_smallest_neighbour() -> None:
    x = torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
    windows = torch.nn.functional.unfold(padded.reshape(6, 1, 11, 13), 3).reshape(6, 9, 99)
    neighbours = torch.cat([windows[:, :4], windows[:, 5:]], dim=1)
    expected = neighbours.sort(dim=1).values[:, 3].reshape(2, 3, 9, 11)
    assert torch.equal(neighbour_median(x), expected)


def test_every_order_of_eight_values() -> None:
    """Zeros and ones suffice: a network that selects right on all of them selects right on anything."""
    bits = torch.tensor([[(number >> bit) & 1 for bit in range(8)] for number in range(256)], dtype=torch.float32)
    windows = torch.cat([bits[:, :4], torch.full((256, 1), 9.0), bits[:, 4:]], dim=1).reshape(256, 1, 3, 3)
    centre = neighbour_median(windows)[:, 0, 1, 1]
    assert torch.equal(centre, bits.sort(dim=1).values[:, 3])


def test_flat_pixels_leave_nothing_and_a_lone_one_stays() -> None:
    x = torch.full((1, 3, 8, 8), 0.5)
    assert local_dependency(x).abs().max() == 0
    x[0, 0, 4, 4] = 1.0
    residual = local_dependency(x)
    assert residual[0, 0, 4, 4] == 0.5
    assert residual.abs().sum() == 0.5
