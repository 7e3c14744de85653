"""The trained evidence: three branches and their fusion (METHOD section 2).

    semantic      what the clean pass saw: the embedding and the tokens of several encoder layers
    discrepancy   how the passes differ: scalar drifts and the direction of the shift
    lowlevel      a small CNN on the residual map R(x)
    fused         bias + sum_b weight_b * logit_b, weights >= 0, trained jointly: each branch's contribution is one term
    families      which generator, asked beside all that (radet.attribution)

Every scalar and feature is standardised by statistics of REAL training pictures, frozen in the checkpoint.

B batch, D width of the embedding, D_l of a layer's token, S scalars, H W pixels, F features
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from radet.attribution import Attribution
from radet.config import HeadsConfig
from radet.group_norm import GroupNorm
from radet.residuals import local_dependency
from radet.standardise import Standardise
from radet.tensors import steady_arithmetic

_GROUPS = 8


class Seen(NamedTuple):
    """Everything that the branches may read of B pictures."""

    pixels: Tensor  # x_BCHW in [0, 1]
    features: Tensor  # of the clean pass: embedding and tokens side by side, [B, D + sum D_l]
    scalars: Tensor  # logarithms of drifts, [B, S]
    delta: Tensor  # z - z', [B, D]


class Statistics(NamedTuple):
    """What the branches standardise by: of N real pictures."""

    features: Tensor  # [N, D + sum D_l]
    scalars: Tensor  # [N, S]
    residual_std: Tensor  # standard deviation of R(x) over each picture, [N]


def _reading(width: int) -> nn.Linear:
    """A read-out that says nothing yet: every branch starts at logit 0, and learns no direction by its random start."""
    layer = nn.Linear(width, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class SemanticBranch(nn.Module):
    """What the clean pass saw, read twice: by a linear probe and by a small MLP, whose logits are added.

    The linear probe is fitted before the first step (radet.linear_probe) and stays as it is: it is what generalises
    (METHOD section 4, the table), and steps on pictures that it has seen would only make it remember them. The MLP
    starts at nothing and learns what a line cannot say.
    """

    def __init__(self, features: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.standard = Standardise(features)
        self.linear = _reading(features).requires_grad_(False)
        self.mlp = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(features, hidden),
            nn.LayerNorm(hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            _reading(hidden),
        )

    def freeze(self, real: Statistics) -> None:
        self.standard.fit(real.features)

    def forward(self, seen: Seen) -> Tensor:
        x_BD = self.standard(seen.features)
        logit_B1: Tensor = self.linear(x_BD) + self.mlp(x_BD)
        return logit_B1[:, 0]


class DiscrepancyBranch(nn.Module):
    """An MLP of the standardised log drifts and of the shift's direction."""

    def __init__(self, scalars: int, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.standard = Standardise(scalars)
        self.direction = nn.Sequential(nn.LayerNorm(dim, elementwise_affine=False), nn.Linear(dim, hidden))
        self.scalar = nn.Linear(scalars, hidden)
        self.mlp = nn.Sequential(nn.GELU(), nn.Dropout(dropout), _reading(hidden))

    def freeze(self, real: Statistics) -> None:
        self.standard.fit(real.scalars)

    def forward(self, seen: Seen) -> Tensor:
        h_BF = self.scalar(self.standard(seen.scalars)) + self.direction(seen.delta)
        logit_B1: Tensor = self.mlp(h_BF)
        return logit_B1[:, 0]


class LowLevelBranch(nn.Module):
    """A small CNN (0.4 GMAC at 224x224 and width 32) on R(x), whose scale is a frozen statistic of real pictures."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))
        stages: list[nn.Module] = []
        before = 3
        for features in (width, 2 * width, 3 * width):
            stages += [
                nn.Conv2d(before, features, 3, stride=2, padding=1),
                GroupNorm(_GROUPS, features),
                nn.SiLU(),
                nn.Conv2d(features, features, 3, padding=1),
                GroupNorm(_GROUPS, features),
                nn.SiLU(),
            ]
            before = features
        self.stages = nn.Sequential(*stages)
        self.read = nn.Sequential(nn.Dropout(dropout), _reading(2 * before))

    @torch.no_grad()
    def freeze(self, real: Statistics) -> None:
        self.scale.copy_(real.residual_std.median())

    def forward(self, seen: Seen) -> Tensor:
        h_BFHW = self.stages(local_dependency(seen.pixels) / self.scale)
        logit_B1: Tensor = self.read(torch.cat([h_BFHW.mean((2, 3)), h_BFHW.amax((2, 3))], dim=1))
        return logit_B1[:, 0]


class Answer(NamedTuple):
    """What the heads say of B pictures."""

    fused: Tensor  # logit [B]
    branches: dict[str, Tensor]  # logit [B] by branch
    families: Tensor | None  # logits of K generator families, [B, K]; None without attribution


class Heads(nn.Module):
    """The branches that a checkpoint has, their fusion, and the attribution where it has one."""

    def __init__(self, config: HeadsConfig, dim: int) -> None:
        """`dim` is the width of the encoder's embedding."""
        super().__init__()
        branches: dict[str, nn.Module] = {}
        for name in config.branches:
            match name:
                case "semantic":
                    branches[name] = SemanticBranch(dim + sum(config.token_dims), config.hidden, config.dropout)
                case "discrepancy":
                    branches[name] = DiscrepancyBranch(config.scalars, dim, config.hidden, config.dropout)
                case "lowlevel":
                    branches[name] = LowLevelBranch(config.lowlevel_width, config.dropout)
        self.branches = nn.ModuleDict(branches)
        self.attribution: Attribution | None = None
        if config.attribution is not None:
            self.attribution = Attribution(dim + sum(config.token_dims), len(config.attribution.families))
        # softplus(0.5413) = 1: the fusion starts as the plain sum.
        self.weight = nn.Parameter(torch.full((len(branches),), 0.5413))
        self.bias = nn.Parameter(torch.zeros(()))

    def freeze(self, real: Statistics) -> None:
        """Standardise by these pictures from now on."""
        for branch in self.branches.values():
            assert isinstance(branch, SemanticBranch | DiscrepancyBranch | LowLevelBranch)
            branch.freeze(real)
        if self.attribution is not None:
            self.attribution.standard.fit(real.features)

    @steady_arithmetic()
    def forward(self, seen: Seen) -> Answer:
        logits = {name: branch(seen) for name, branch in self.branches.items()}
        weight = nn.functional.softplus(self.weight)
        fused_B = self.bias + sum(w * logit_B for w, logit_B in zip(weight, logits.values(), strict=True))
        return Answer(fused_B, logits, None if self.attribution is None else self.attribution(seen.features))
