"""DINOv3's blocks without what transformers does twice: between the matrix products of a ViT-L/16 in bf16 a GPU spends
three fifths of its time.

B batch, N tokens, P patches (the last of the tokens), D width, H heads, d = D / H
"""

from typing import Any

import torch
from torch import Tensor, nn


class RotarySelfAttention(nn.Module):
    """The attention of a block, with its parameters under their names; no mask.

    transformers turns queries and keys by a dozen elementwise operations each, of numbers that autocast makes fp32 and
    then bf16 again.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads = attention.num_heads
        self.q_proj, self.k_proj, self.v_proj = attention.q_proj, attention.k_proj, attention.v_proj
        self.o_proj = attention.o_proj

    def forward(
        self, x_BND: Tensor, *, position_embeddings: tuple[Tensor, Tensor], attention_mask: None = None
    ) -> tuple[Tensor, None]:
        assert attention_mask is None
        if torch.is_autocast_enabled(x_BND.device.type):  # once, not by each of the three
            x_BND = x_BND.to(torch.get_autocast_dtype(x_BND.device.type))
        q_BHNd, k_BHNd, v_BHNd = (
            project(x_BND).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        o_BHNd = nn.functional.scaled_dot_product_attention(
            turned(q_BHNd, *position_embeddings), turned(k_BHNd, *position_embeddings), v_BHNd
        )
        return self.o_proj(o_BHNd.transpose(1, 2).flatten(2)), None


def turned(x_BHNd: Tensor, cos_Pd: Tensor, sin_Pd: Tensor) -> Tensor:
    """Rotary position embedding of the patches: each pair (x_i, x_{i + d/2}) is turned by its angle; both halves of the
    tables hold the same angles. Computed in fp32, rounded at the end; class and register tokens stay as they are."""
    half, prefix = x_BHNd.shape[-1] // 2, x_BHNd.shape[-2] - len(cos_Pd)
    cos, sin = cos_Pd[:, :half], sin_Pd[:, :half]
    a, b = x_BHNd[..., prefix:, :half], x_BHNd[..., prefix:, half:]
    with torch.autocast(x_BHNd.device.type, enabled=False):
        # A gradient does not pass out=, and torch.compile breaks its graph there.
        if torch.compiler.is_compiling() or (torch.is_grad_enabled() and x_BHNd.requires_grad):
            patches = torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x_BHNd.dtype)
            return torch.cat([x_BHNd[..., :prefix, :], patches], dim=-2)
        out_BHNd = torch.empty_like(x_BHNd)
        out_BHNd[..., :prefix, :] = x_BHNd[..., :prefix, :]
        torch.addcmul(a * cos, b, sin, value=-1, out=out_BHNd[..., prefix:, :half])
        torch.addcmul(b * cos, a, sin, out=out_BHNd[..., prefix:, half:])
    return out_BHNd


@torch.no_grad()
def lighten(tower: nn.Module) -> None:
    """Its blocks get this attention, and their layer scales go into the products before them: the same function but
    for rounding."""
    for block in tower.get_submodule("model.layer").children():
        attention, mlp = block.get_submodule("attention"), block.get_submodule("mlp")
        for scale, layer in (("layer_scale1", attention.o_proj), ("layer_scale2", mlp.down_proj)):
            assert isinstance(layer, nn.Linear)
            by_D = block.get_submodule(scale).get_parameter("lambda1")
            layer.weight.mul_(by_D[:, None])
            if layer.bias is not None:
                layer.bias.mul_(by_D)
            setattr(block, scale, nn.Identity())
        setattr(block, "attention", RotarySelfAttention(attention))  # noqa: B010 - to mypy it is a tensor
