"""oneDNN's products are torch's but for rounding, and are left alone where they would be wrong."""

import platform
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import radet.onednn
from radet.onednn import Conv, Linear, SameConv, fold_norms, linear, replace_linears, torch_only

x86 = pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="oneDNN is asked on x86 alone")


class Block(nn.Module):
    """As timm's: an activation inside of the norm, a strided depthwise convolution between two 1x1 ones."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_pw = nn.Conv2d(8, 24, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.bn1.act = nn.ReLU6(inplace=True)  # type: ignore[assignment]
        self.conv_dw = nn.Conv2d(24, 24, 3, stride=2, padding=1, groups=24, bias=False)
        self.bn2 = nn.BatchNorm2d(24)
        self.conv_pwl = nn.Conv2d(24, 12, 1)
        self.bn3 = nn.BatchNorm2d(12)
        for norm in (self.bn1, self.bn2, self.bn3):
            norm.running_mean = torch.randn_like(norm.bias)
            norm.running_var = torch.rand_like(norm.bias) + 0.5
            nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn1(self.conv_pw(x))
        if isinstance(self.bn1, nn.BatchNorm2d):
            h = self.bn1.act(h)
        return self.bn3(self.conv_pwl(self.bn2(self.conv_dw(h))))  # type: ignore[no-any-return]


def ran(call: object) -> set[str]:
    """Names of the operators that a call came to."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()  # type: ignore[operator]
    return {event.key for event in profile.key_averages()}


@torch.inference_mode()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(64,), (1, 7, 64), (3, 5, 64)])
def test_a_linear_layer(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    plain, x = nn.Linear(64, 48, bias=bias), torch.randn(shape)
    ours = Linear(plain)
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-5, atol=1e-5)
    # What attention hands over is no contiguous tensor.
    strided = torch.stack([x, -x], dim=-1)[..., 0]
    assert torch.equal(ours(strided), ours(x))


@torch.inference_mode()
def test_folded_norms_are_the_same_function() -> None:
    torch.manual_seed(0)
    tower, x = nn.Sequential(Block(), nn.Sequential(Block())).eval().requires_grad_(False), torch.rand(1, 8, 33, 33)
    tower[1][0].conv_pw = nn.Conv2d(12, 24, 1, bias=False).eval()  # type: ignore[index]
    expected = tower(x)
    fold_norms(tower)
    torch.testing.assert_close(tower(x), expected, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in tower.modules())
    assert sum(isinstance(module, Conv) for module in tower.modules()) == 6
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_parameters_keep_their_names() -> None:
    plain = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2))
    names = list(plain.state_dict())
    replace_linears(plain)
    assert list(plain.state_dict()) == names
    assert isinstance(plain[0], Linear)


@x86
def test_who_computes() -> None:
    layer = Linear(nn.Linear(64, 64).requires_grad_(False))
    conv = Conv.of(nn.Conv2d(64, 64, 1).requires_grad_(False))
    x, maps = torch.randn(5, 64), torch.randn(1, 64, 4, 4)
    ours, conv_ours = "mkldnn::_linear_pointwise", "mkldnn::_convolution_pointwise"
    assert ours in ran(lambda: layer(x))
    assert conv_ours in ran(lambda: conv(maps))
    with torch_only():
        assert ours not in ran(lambda: layer(x))
        assert conv_ours not in ran(lambda: conv(maps))
    with torch.autocast("cpu", torch.bfloat16):
        assert ours in ran(lambda: layer(x))
        assert ours not in ran(lambda: layer(x.clone().requires_grad_())) or not radet.onednn._bf16_there
        assert layer(x).dtype is conv(maps).dtype is torch.bfloat16
    double = Linear(nn.Linear(64, 64).double().requires_grad_(False))
    assert ours not in ran(lambda: double(x.double()))
    # With a gradient of what comes in; weights that learn have torch's.
    assert ours in ran(lambda: layer(x.clone().requires_grad_()))
    assert ours not in ran(lambda: linear(x, nn.Parameter(torch.ones(2, 64)), None))
    assert conv_ours not in ran(lambda: Conv(64, 2, 1)(maps))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("plain", "shape"),
    [
        (lambda bias: nn.Linear(16, 8, bias=bias), (3, 5, 16)),
        (lambda bias: nn.Conv2d(16, 4, 1, bias=bias), (2, 16, 5, 7)),
        (lambda bias: nn.Conv2d(16, 4, 1, stride=2, bias=bias), (2, 16, 5, 7)),
        (lambda bias: nn.Conv2d(16, 4, 2, stride=2, bias=bias), (2, 16, 5, 7)),
        (lambda bias: nn.Conv2d(16, 4, 1, groups=2, bias=bias), (2, 16, 5, 7)),
        (lambda bias: nn.Conv2d(16, 4, 3, padding=1, bias=bias), (2, 16, 5, 7)),
    ],
)
def test_gradients_are_torchs(plain: Callable[[bool], Any], shape: tuple[int, ...], bias: bool) -> None:
    """Through a frozen layer to what comes in, as a learned probe is trained."""
    torch.manual_seed(0)
    layer = plain(bias).requires_grad_(False)
    ours = Linear(layer) if isinstance(layer, nn.Linear) else Conv.of(layer)
    x = torch.randn(shape)
    slopes = []
    for forward in (ours, layer):
        mine = x.clone().requires_grad_()
        forward(mine).square().sum().backward()
        slopes.append(mine.grad)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-5, atol=1e-5)


def test_weights_that_learn_have_gradients() -> None:
    torch.manual_seed(0)
    ours, x = Conv(8, 4, 1), torch.randn(2, 8, 5, 5, requires_grad=True)
    plain = nn.Conv2d(8, 4, 1)
    plain.load_state_dict(ours.state_dict())
    slopes = [torch.autograd.grad(conv(x).square().sum(), (x, *conv.parameters())) for conv in (ours, plain)]
    for found, expected in zip(*slopes, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("settings", [{"padding": 1}, {"stride": 2}, {"groups": 6, "padding": 1}, {"dilation": 2}])
def test_a_convolution(settings: dict[str, int], layout: torch.memory_format) -> None:
    with torch.inference_mode(False):
        torch.manual_seed(0)
        plain = nn.Conv2d(6, 12, 3, **settings)  # type: ignore[arg-type]
    ours = Conv.of(plain)
    for side in (9, 14, 9):  # kernels lie otherwise for another size
        x = torch.randn(1, 6, side, side + 3).contiguous(memory_format=layout)
        torch.testing.assert_close(ours(x), plain(x), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        plain.weight.neg_()
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-5, atol=1e-5)


@x86
@torch.inference_mode()
def test_kernels_are_laid_out_once() -> None:
    with torch.inference_mode(False):
        conv = Conv(6, 12, 3).requires_grad_(False)
    x = torch.randn(1, 6, 9, 9)
    conv(x)
    kept = conv.weight._radet_packed  # type: ignore[attr-defined]
    conv(x)
    assert conv.weight._radet_packed is kept  # type: ignore[attr-defined]
    conv(torch.randn(2, 6, 9, 9))
    assert conv.weight._radet_packed is not kept  # type: ignore[attr-defined]


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("settings", [(3, 2, 1), (5, 2, 1), (3, 1, 1), (3, 2, 2), (4, 3, 1), (1, 2, 1), (2, 1, 1)])
def test_padded_as_tensorflow_does(settings: tuple[int, int, int], gradient: bool) -> None:
    torch.manual_seed(0)
    kernel, stride, dilation = settings
    theirs = Conv2dSame(3, 5, kernel, stride, dilation=dilation).requires_grad_(False)
    ours = SameConv.of(theirs)
    for size in ((12, 12), (13, 10), (5, 9)):
        x = torch.randn(1, 3, *size, requires_grad=gradient)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_flops_can_be_counted() -> None:
    layer, x = Linear(nn.Linear(64, 32).requires_grad_(False)), torch.randn(5, 64)
    with torch_only(), FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * 5 * 64 * 32


def rounded_weights(layer: nn.Module, x: Tensor) -> int:
    """How many tensors a pass in bf16 converts, its input aside."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with (
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
        torch.profiler.profile(activities=activities) as profile,
    ):
        layer(x)
    return sum(event.count for event in profile.key_averages() if event.key == "aten::_to_copy") - 1


@pytest.mark.skipif(not radet.onednn._bf16_there, reason="this processor has nothing for bf16")
def test_weights_are_rounded_once_and_to_the_same_numbers() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(64, 48).requires_grad_(False)
    ours, x = Linear(plain), torch.randn(3, 5, 64)
    assert [rounded_weights(plain, x) for _ in range(2)] == [2, 2]
    assert [rounded_weights(ours, x) for _ in range(2)] == [2, 0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(x), plain(x))
        x.requires_grad_()
        found, expected = (torch.autograd.grad(layer(x).float().sum(), x)[0] for layer in (ours, plain))
        assert torch.equal(found, expected)
        with torch.no_grad():
            plain.weight.add_(1)
        assert torch.equal(ours(x), plain(x)), "other weights are rounded anew"
    assert ours(x).dtype is torch.float32


def test_torch_compile_sees_a_plain_layer() -> None:
    plain, x = nn.Linear(64, 48).requires_grad_(False), torch.randn(3, 64)
    compiled = torch.compile(Linear(plain), backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), plain(x))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(x), plain(x), rtol=2**-7, atol=2**-7)


@torch.inference_mode()
def test_torch_compile_sees_a_plain_convolution() -> None:
    plain, x = nn.Conv2d(16, 24, 1).requires_grad_(False), torch.randn(1, 16, 8, 8)
    compiled = torch.compile(Conv.of(plain), backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), plain(x))


@torch.inference_mode()
def test_weights_that_were_made_in_inference_mode() -> None:
    plain, x = nn.Linear(64, 48).requires_grad_(False), torch.randn(3, 64)
    ours = Linear(plain)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(ours(x), plain(x), rtol=2**-7, atol=2**-7)
        plain.weight.neg_()


@x86
@pytest.mark.parametrize("bias", [True, False])
def test_bf16_on_a_processor_that_has_none(monkeypatch: pytest.MonkeyPatch, bias: bool) -> None:
    """Products in fp32 of the same rounded numbers: torch's own result but for its order of summation."""
    monkeypatch.setattr(radet.onednn, "_bf16_there", False)
    torch.manual_seed(0)
    plain, x = nn.Linear(256, 48, bias=bias).requires_grad_(False), torch.randn(3, 5, 256)
    ours = Linear(plain)
    fine = plain.weight.clone()
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = ours(x), plain(x)
        assert "mkldnn::_linear_pointwise" in ran(lambda: ours(x))
        with torch_only():
            assert "mkldnn::_linear_pointwise" not in ran(lambda: ours(x))
        assert found.dtype is torch.bfloat16
        # One step of bf16 is 2^-8 of a number; more would be other inputs. Rounded less, it would not be bf16's result.
        torch.testing.assert_close(found, expected, rtol=2**-7, atol=2**-7)
        exact = x.bfloat16().double() @ plain.weight.bfloat16().double().T + (
            plain.bias.bfloat16().double() if bias else 0
        )
        assert (found.double() - exact).abs().max() <= exact.abs().max() * 2**-8
        assert (found == exact.float().bfloat16()).float().mean() > 0.99
        x.requires_grad_()
        gradient, theirs = (torch.autograd.grad(layer(x).float().sum(), x)[0] for layer in (ours, plain))
        torch.testing.assert_close(gradient, theirs, rtol=2**-6, atol=2**-6)
    assert torch.equal(plain.weight, fine)


def test_weights_that_learn_are_left_to_torch() -> None:
    layer, x = Linear(nn.Linear(8, 4)), torch.randn(2, 8)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).float().sum().backward()
    assert layer.weight.grad is not None
