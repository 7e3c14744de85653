"""Products on CPUs by oneDNN, which torch's x86 wheels hold, where torch itself would not ask it, or not well.

torch gives fp32 linear layers to MKL, which on processors other than Intel's does without AVX-512 (a score by CLIP
ViT-B/16 takes 1.9 times as long on an AMD EPYC), and the convolutions of a small single picture, or of one thread, to
im2col and MKL. The operators here are those that torch.compile emits for the same layers, without its compiler. They
know nothing of autocast and have no gradient. That of what comes in, by which a probe is trained through a frozen
encoder, is a product with the same weights and so theirs too, in linear layers and 1x1 convolutions; elsewhere, where
weights learn, under autocast, and on other machines, torch's own way is taken.

oneDNN lays weights out anew in every call, unless they lie as it wants them: kernels of convolutions do so here after
their first call, which is a tenth of a score by radet-lite. So do weights that are rounded to bf16, which are another
copy anyway. Those of fp32 linear layers stay as they are: 6 % of a score by CLIP ViT-B/16 is not worth 350 MB.

Autocast rounds a layer's weights anew in every pass, a tenth of a score by CLIP ViT-B/16 in bf16: weights without a
gradient are rounded once here, on any device, to the same numbers. And where the processor has nothing for bf16 (x86
before AVX-512), torch multiplies it in a plain loop, far slower than fp32 (benchmarks.passes). The product of two bf16
numbers is exact in fp32, so there an fp32 product of the rounded numbers, rounded again, is the same arithmetic.

B batch, C channels, D E widths, H W pixels
"""

import math
import platform
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
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
        return _rounded_linear(x, weight, bias, torch.get_autocast_dtype(x.device.type))
    if not _can(x, weight):
        return nn.functional.linear(x, weight, bias)
    return _product(_linear, x, weight, bias)


def _rounded_linear(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    here = _there and _wanted and x.device.type == "cpu" and dtype is torch.bfloat16
    kept = torch.float32 if here and not _bf16_there else dtype

    def rounded(value: Tensor) -> Tensor:
        return _kept(value, "rounded", (dtype, kept), lambda value: value.to(dtype).to(kept))

    bias = None if bias is None else rounded(bias)
    if not here or (_bf16_there and _differentiates(x)):
        return nn.functional.linear(x, rounded(weight), bias)
    x = x.to(dtype)
    if _bf16_there:
        rows = x.numel() // x.shape[-1]

        def packed(value: Tensor) -> Tensor:
            found: Tensor = torch.ops.mkldnn._reorder_linear_weight(value.to(dtype), rows)
            return found

        return _linear(x, _kept(weight, "packed", (dtype, rows), packed), bias)
    with torch.autocast("cpu", enabled=False):
        return linear(x.float(), rounded(weight), bias).to(dtype)


class Linear(nn.Linear):
    """A linear layer by oneDNN."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, device="meta")
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Conv(nn.Conv2d):
    """A convolution by oneDNN."""

    @classmethod
    def of(cls, conv: nn.Conv2d) -> "Conv":
        """The same, with the same parameters."""
        made = cls(conv.in_channels, conv.out_channels, 1, groups=conv.groups, device="meta")
        for name in ("kernel_size", "stride", "padding", "dilation"):
            setattr(made, name, getattr(conv, name))
        made.weight, made.bias = conv.weight, conv.bias
        return made

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if not self._quick(x_BCHW):
            return super().forward(x_BCHW)
        if _differentiates(x_BCHW):
            return _product(_pointwise, x_BCHW, self.weight, self.bias)
        return self._convolved(x_BCHW, cast(tuple[int, ...], self.padding))

    def _quick(self, x_BCHW: Tensor) -> bool:
        plain = self.kernel_size == self.stride == (1, 1) and self.padding == (0, 0) and self.groups == 1
        there = not torch.compiler.is_compiling() and _can(x_BCHW, self.weight)
        return there and (plain or not _differentiates(x_BCHW))

    def _convolved(self, x_BCHW: Tensor, padding: Sequence[int]) -> Tensor:
        how = (padding, self.stride, self.dilation, self.groups)
        shape = tuple(x_BCHW.shape)

        def packed(kernel: Tensor) -> Tensor:
            found: Tensor = torch.ops.mkldnn._reorder_convolution_weight(kernel, *how, shape)
            return found

        kernel = _kept(self.weight, "packed", (how, shape), packed)
        made: Tensor = torch.ops.mkldnn._convolution_pointwise(x_BCHW, kernel, self.bias, *how, "none", [], "")
        return made


class SameConv(Conv):
    """Padded as TensorFlow's SAME: for ceil(side / stride) places, an odd pixel of padding after the picture."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        (top, bottom), (left, right) = (self._padding(x_BCHW, dim) for dim in range(2))
        if not self._quick(x_BCHW):
            return super().forward(nn.functional.pad(x_BCHW, (left, right, top, bottom)))
        # Either end is padded alike here, without a copy of the picture: a stride more makes one place more before it.
        odd_y, odd_x = bottom - top, right - left
        padding = (top + odd_y * self.stride[0], left + odd_x * self.stride[1])
        return self._convolved(x_BCHW, padding)[..., odd_y:, odd_x:]

    def _padding(self, x_BCHW: Tensor, dim: int) -> tuple[int, int]:
        """Before and after the picture."""
        side, stride = x_BCHW.shape[2 + dim], self.stride[dim]
        reach = (self.kernel_size[dim] - 1) * self.dilation[dim] + 1
        total = max(0, (math.ceil(side / stride) - 1) * stride + reach - side)
        return total // 2, total - total // 2


def replace_linears(tower: nn.Module) -> None:
    """Its linear layers become Linear, with the same parameters under the same names."""
    for module in tower.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, Linear(child))


def fold_norms(tower: nn.Module) -> None:
    """Batch norms go into the convolutions before them, which become Conv: the same but for rounding. For timm's towers
    in eval mode whose modules list each norm right after its convolution."""
    for module in tower.modules():
        children = list(module.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                folded = fuse_conv_bn_eval(conv, norm).requires_grad_(False)
                kind = SameConv if type(conv).__name__ == "Conv2dSame" else Conv
                setattr(module, conv_name, kind.of(folded))
                setattr(module, norm_name, getattr(norm, "act", nn.Identity()))  # timm's norms end in an activation


Operator = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return product


def _pointwise(x_BCHW: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.mkldnn_convolution(x_BCHW, weight, bias, (0, 0), (1, 1), (1, 1), 1)


class _Product(torch.autograd.Function):
    """`operator` with the gradient of what comes in; the weights have none."""

    @staticmethod
    def forward(ctx: Any, operator: Operator, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.operator = operator
        ctx.save_for_backward(weight)
        return operator(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return None, ctx.operator(grad, weight.transpose(0, 1), None), None, None


def _product(operator: Operator, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if _differentiates(x):
        product: Tensor = _Product.apply(operator, x, weight, bias)
        return product
    return operator(x, weight, bias)


class _Made(NamedTuple):
    """What was made from a weight, and the state that the weight was in. Not pickled: a copy of the weight in another
    process makes its own."""

    of: Hashable
    value: Tensor

    def __reduce__(self) -> tuple[type[None], tuple[()]]:  # oneDNN's own layout has no bytes to be pickled
        return type(None), ()


def _kept(weight: Tensor, name: str, how: Hashable, make: Callable[[Tensor], Tensor]) -> Tensor:
    """`make(weight)`, kept as an attribute of the weight until that changes or moves, or `how` is another."""
    if weight.is_inference():  # made in inference mode: it does not tell when it changes
        return make(weight)
    of = (weight.data_ptr(), weight._version, how)
    kept: _Made | None = getattr(weight, f"_radet_{name}", None)
    if kept is None or kept.of != of:
        with torch.inference_mode(False):  # a gradient may pass it later on
            kept = _Made(of, make(weight.detach()))
        setattr(weight, f"_radet_{name}", kept)
    return kept.value


def _differentiates(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.requires_grad


def _can(x: Tensor, weight: Tensor) -> bool:
    return (
        _there
        and _wanted
        and x.ndim > 1
        and x.dtype is torch.float32 is weight.dtype
        and x.device.type == "cpu"
        and not (torch.is_grad_enabled() and weight.requires_grad)
        and not torch.is_autocast_enabled("cpu")
    )
