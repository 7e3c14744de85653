"""fp32 products on CPUs by oneDNN, which torch's x86 wheels hold, where torch itself would not ask it.

torch gives fp32 linear layers to MKL, which on processors other than Intel's does without AVX-512 (a score by CLIP
ViT-B/16 takes 1.9 times as long on an AMD EPYC), and the 1x1 convolutions of a single picture to im2col and MKL. The
operators here are those that torch.compile emits for the same layers, without its compiler. They have no gradient and
know nothing of autocast: where either is wanted, and on other machines, torch's own way is taken.

Autocast rounds a layer's weights anew in every pass, a tenth of a score by CLIP ViT-B/16 in bf16: weights without a
gradient are rounded once here, on any device, to the same numbers. And where the processor has nothing for bf16 (x86
before AVX-512), torch multiplies it in a plain loop, far slower than fp32 (benchmarks.passes). The product of two bf16
numbers is exact in fp32, so there an fp32 product of the rounded numbers, rounded again, is the same arithmetic.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_there = (
    platform.machine() in {"x86_64", "AMD64"}
    and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
_bf16_there = not _there or torch.ops.mkldnn._is_mkldnn_bf16_supported()
_wanted = True


@contextmanager
def torch_only() -> Iterator[None]:
    """Torch's own way meanwhile, which torch's FlopCounterMode can count. Of the whole process, not of a thread."""
    global _wanted  # noqa: PLW0603
    before, _wanted = _wanted, False
    try:
        yield
    finally:
        _wanted = before


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., D] @ weight [E, D]^T + bias [E]"""
    if torch.compiler.is_compiling():  # which does all this by itself
        return nn.functional.linear(x, weight, bias)
    if torch.is_autocast_enabled(x.device.type) and not weight.requires_grad:
        dtype = torch.get_autocast_dtype(x.device.type)
        slow = _wanted and not _bf16_there and x.device.type == "cpu" and dtype is torch.bfloat16
        kept = torch.float32 if slow else dtype
        rounded = (_rounded(weight, dtype, kept), None if bias is None else _rounded(bias, dtype, kept))
        if not slow:
            return nn.functional.linear(x, *rounded)
        with torch.autocast("cpu", enabled=False):
            return linear(x.to(dtype).float(), *rounded).to(dtype)
    if not _can(x, weight):
        return nn.functional.linear(x, weight, bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return product


class Linear(nn.Linear):
    """A linear layer by oneDNN."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, device="meta")
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Pointwise(nn.Conv2d):
    """A 1x1 convolution by oneDNN."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv.in_channels, conv.out_channels, 1, device="meta")
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or not _can(x_BCHW, self.weight):
            return super().forward(x_BCHW)
        return torch.mkldnn_convolution(x_BCHW, self.weight, self.bias, (0, 0), (1, 1), (1, 1), 1)


def replace_linears(tower: nn.Module) -> None:
    """Its linear layers become Linear, with the same parameters under the same names."""
    for module in tower.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, Linear(child))


def fold_norms(tower: nn.Module) -> None:
    """Batch norms go into the convolutions before them, and 1x1 convolutions become Pointwise: the same but for
    rounding. For towers in eval mode whose modules list each norm right after its convolution."""
    for module in tower.modules():
        children = list(module.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                folded = fuse_conv_bn_eval(conv, norm).requires_grad_(False)
                plain = folded.kernel_size == folded.stride == (1, 1) and folded.groups == 1
                setattr(module, conv_name, Pointwise(folded) if plain else folded)
                setattr(module, norm_name, getattr(norm, "act", nn.Identity()))  # timm's norms end in an activation


def _rounded(weight: Tensor, dtype: torch.dtype, kept: torch.dtype) -> Tensor:
    """The weight rounded to `dtype`, as numbers of `kept`, held at the weight until that changes or moves."""
    if weight.is_inference():  # made in inference mode: it does not tell when it changes
        return weight.to(dtype).to(kept)
    of = (weight.data_ptr(), weight._version, dtype, kept)
    if getattr(weight, "_radet_rounded_of", None) != of:
        with torch.inference_mode(False):  # a gradient may pass it later on
            weight._radet_rounded = weight.detach().to(dtype).to(kept)  # type: ignore[attr-defined]
        weight._radet_rounded_of = of  # type: ignore[attr-defined]
    found: Tensor = weight._radet_rounded  # type: ignore[attr-defined]
    return found


def _can(x: Tensor, weight: Tensor) -> bool:
    return (
        _there
        and _wanted
        and x.ndim > 1
        and x.dtype is torch.float32 is weight.dtype
        and x.device.type == "cpu"
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        and not torch.is_autocast_enabled("cpu")
    )
