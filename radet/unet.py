"""The network of the learned probe: pixels and their embedding in, an unbounded perturbation out. A light UNet.

It works on 4x4 pixel blocks (space to depth), so that full resolution costs one projection at either end, and is told
what the encoder saw by FiLM: each level's features are scaled and shifted by a linear map of the embedding. GroupNorm
only, so a picture never depends on its neighbours. At width 48: 1.3 M parameters + 960 per dimension of z, 0.8 GMAC.

B batch, C=3 channels, H W pixels (multiples of 16), D embedding width, F features
"""

from itertools import pairwise

from torch import Tensor, nn

from radet.group_norm import GroupNorm
from radet.onednn import Conv

_BLOCK = 4  # side of the pixel blocks
_LEVELS = 3
_GROUPS = 8


class _FilmBlock(nn.Module):
    """Two 3x3 convolutions around a residual path, conditioned on the embedding between them."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(_GROUPS, features)
        self.conv1 = Conv(features, features, 3, padding=1)
        self.film = nn.Linear(dim, 2 * features)
        self.norm2 = GroupNorm(_GROUPS, features)
        self.conv2 = Conv(features, features, 3, padding=1)
        self.act = nn.SiLU()

    def forward(self, h_BFHW: Tensor, z_BD: Tensor) -> Tensor:
        scale_BF, shift_BF = self.film(z_BD).chunk(2, dim=1)
        y_BFHW = self.norm2(self.conv1(self.act(self.norm1(h_BFHW))))
        y_BFHW = y_BFHW * (1 + scale_BF[..., None, None]) + shift_BF[..., None, None]
        out: Tensor = h_BFHW + self.conv2(self.act(y_BFHW))
        return out


class LightUNet(nn.Module):
    """P(x, z) -> [B, 3, H, W]. `dim` is the width of the embedding, `width` that of the first level."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        features = [width * min(2**level, 4) for level in range(_LEVELS)]
        self.normalise = nn.LayerNorm(dim, elementwise_affine=False)
        self.unshuffle, self.shuffle = nn.PixelUnshuffle(_BLOCK), nn.PixelShuffle(_BLOCK)
        self.enter = Conv(3 * _BLOCK**2, width, 3, padding=1)
        self.down = nn.ModuleList(_FilmBlock(f, dim) for f in features)
        self.shrink = nn.ModuleList(Conv(a, b, 3, stride=2, padding=1) for a, b in pairwise(features))
        self.grow = nn.ModuleList(Conv(b, a, 1) for a, b in pairwise(features))
        self.up = nn.ModuleList(_FilmBlock(f, dim) for f in features[:-1])
        self.leave = Conv(width, 3 * _BLOCK**2, 1)

    def forward(self, x_BCHW: Tensor, z_BD: Tensor) -> Tensor:
        z_BD = self.normalise(z_BD)
        h_BFHW = self.enter(self.unshuffle(2 * x_BCHW - 1))
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            h_BFHW = block(h_BFHW, z_BD)
            if level < len(self.shrink):
                skips.append(h_BFHW)
                h_BFHW = self.shrink[level](h_BFHW)
        for level in reversed(range(len(self.up))):
            h_BFHW = nn.functional.interpolate(self.grow[level](h_BFHW), scale_factor=2.0, mode="nearest")
            h_BFHW = self.up[level](h_BFHW + skips[level], z_BD)
        out: Tensor = self.shuffle(self.leave(h_BFHW))
        return out
