"""The blocks of open_clip's towers without what takes time and changes nothing.

B batch, N tokens, D width, H heads, d = D / H
"""

import torch
from torch import Tensor, nn

from radet.onednn import linear

_QUICK = 1.702  # QuickGELU(x) = x sigmoid(1.702 x) = SiLU(1.702 x) / 1.702


class SelfAttention(nn.Module):
    """nn.MultiheadAttention as open_clip calls it, with its parameters under their names.

    torch's own copies the projection's weight for every token when it meets autocast or a gradient with several
    pictures on a CPU: CLIP B/16 in bf16, in batches of 16, takes 0.27 times as long this way.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = attention.num_heads
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(self, x_BND: Tensor, *_: Tensor, need_weights: bool, attn_mask: None) -> tuple[Tensor, None]:  # noqa: ARG002
        projected = linear(x_BND, self.in_proj_weight, self.in_proj_bias)
        qkv = projected.view(*x_BND.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        o_BHNd = nn.functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        return self.out_proj(o_BHNd.transpose(1, 2).flatten(2)), None


class PlainNorm(nn.Module):
    """A layer norm whose scale and shift are elsewhere. In bf16 it reads and writes bf16 and computes in fp32; under
    autocast torch's is three operations, there and back."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.eps = norm.eps

    def forward(self, x_BND: Tensor) -> Tensor:
        with torch.autocast(x_BND.device.type, enabled=False):
            return nn.functional.layer_norm(x_BND, x_BND.shape[-1:], eps=self.eps)


@torch.no_grad()
def lighten(tower: nn.Module) -> None:
    """Norms' scales and shifts go into the products after them, QuickGELU's factor into those around it: the same
    function but for rounding. Blocks of other kinds stay as they are."""
    for block in tower.get_submodule("transformer.resblocks").children():
        attention = getattr(block, "attn", None)
        if type(attention) is nn.MultiheadAttention and attention.batch_first and attention.in_proj_weight is not None:
            mine = SelfAttention(attention)
            _lighten_block(block, mine)
            block.attn = mine


def _lighten_block(block: nn.Module, attention: SelfAttention) -> None:
    first, second = block.get_submodule("ln_1"), block.get_submodule("ln_2")
    grow, act, shrink = (block.get_submodule(f"mlp.{name}") for name in ("c_fc", "gelu", "c_proj"))
    assert isinstance(grow, nn.Linear)
    assert isinstance(shrink, nn.Linear)
    for name, norm, weight, bias in (
        ("ln_1", first, attention.in_proj_weight, attention.in_proj_bias),
        ("ln_2", second, grow.weight, grow.bias),
    ):
        if not isinstance(norm, nn.LayerNorm) or norm.weight is None or norm.bias is None or bias is None:
            continue
        bias.add_(weight @ norm.bias)
        weight.mul_(norm.weight)
        setattr(block, name, PlainNorm(norm))
    if type(act).__name__ == "QuickGELU":
        grow.weight.mul_(_QUICK)
        grow.bias.mul_(_QUICK)
        shrink.weight.div_(_QUICK)
        block.get_submodule("mlp").register_module("gelu", nn.SiLU())
