"""Standardising by frozen statistics. N rows, B batch, D features"""

import torch
from torch import Tensor, nn


class Standardise(nn.Module):
    """(x - mean) / std by frozen statistics; the identity until they are set."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    @torch.no_grad()
    def fit(self, x_ND: Tensor) -> None:
        """Take mean and standard deviation of these rows."""
        self.mean.copy_(x_ND.double().mean(0))
        self.std.copy_(x_ND.double().std(0).clamp_min(1e-6))

    def forward(self, x_BD: Tensor) -> Tensor:
        return ((x_BD - self.mean) / self.std).clamp(-10, 10)
