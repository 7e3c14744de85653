"""Low-level residuals: what a pixel is not, given its neighbours. B batch, C=3 channels, H W pixels."""

import torch
from torch import Tensor

#: Batcher's odd-even merge sort of 8 values, less its last layer (1, 2), (3, 4), (5, 6).
_EXCHANGES = (
    *((0, 1), (2, 3), (4, 5), (6, 7)),
    *((0, 2), (1, 3), (4, 6), (5, 7)),
    *((1, 2), (5, 6)),
    *((0, 4), (1, 5), (2, 6), (3, 7)),
    *((2, 4), (3, 5)),
)


def neighbour_median(x_BCHW: Tensor) -> Tensor:
    """The lower median (4th smallest) of each pixel's 8 neighbours, borders mirrored. [B, C, H, W].

    By a sorting network on shifted copies: exact, and far faster than unfolding and sorting. The network's last layer
    is only partly needed for one order statistic.
    """
    height, width = x_BCHW.shape[-2:]
    padded = torch.nn.functional.pad(x_BCHW, (1, 1, 1, 1), mode="reflect")
    value = [padded[..., i : i + height, j : j + width] for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    for low, high in _EXCHANGES:
        value[low], value[high] = torch.minimum(value[low], value[high]), torch.maximum(value[low], value[high])
    return torch.minimum(value[3], value[4])


def local_dependency(x_BCHW: Tensor) -> Tensor:
    """R(x) = x - median of the 8 neighbours, in [-1, 1] for x in [0, 1]. FerretNet's local pixel dependency
    (Liang et al., arXiv 2509.20890)."""
    return x_BCHW - neighbour_median(x_BCHW)
