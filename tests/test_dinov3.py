"""The lightened blocks of DINOv3 compute what transformers' compute."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import DINOv3ViTConfig, DINOv3ViTModel
from transformers.models.dinov3_vit.modeling_dinov3_vit import apply_rotary_pos_emb

from radet.dinov3 import RotarySelfAttention, lighten, turned

X = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def tower(**choices: object) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model: nn.Module = DINOv3ViTModel(DINOv3ViTConfig(**sizes | choices, image_size=32, patch_size=8)).eval()
    for parameter in model.requires_grad_(False).parameters():  # layer scales start at 1, biases at 0
        parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("registers", [0, 4])
def test_the_same_function_but_for_rounding(registers: int, gated: bool) -> None:
    model = tower(num_register_tokens=registers, use_gated_mlp=gated)
    x = X.clone().requires_grad_()
    expected = model(x).pooler_output
    (slope,) = torch.autograd.grad(expected[:, 0].sum(), x)
    lighten(model)
    assert sum(isinstance(module, RotarySelfAttention) for module in model.modules()) == 2
    assert not any(name.endswith("lambda1") for name in model.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(model(X).pooler_output, expected, rtol=1e-4, atol=1e-5)
    found = model(x).pooler_output
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(found[:, 0].sum(), x)[0], slope, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gradient", [False, True])
def test_turning_is_theirs_in_fp32_rounded_once(dtype: torch.dtype, gradient: bool) -> None:
    torch.manual_seed(0)
    q = torch.randn(2, 5, 3, 8).transpose(1, 2).to(dtype)  # as it lies in memory: [B, N, H, d]
    angle = torch.rand(4, 4).tile(2)  # of four patches; the first token is none
    expected, _ = apply_rotary_pos_emb(q.float(), q.float(), angle.cos(), angle.sin())
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        found = turned(q.clone().requires_grad_(gradient), angle.cos(), angle.sin())
    assert found.dtype is dtype
    assert found.requires_grad is gradient
    torch.testing.assert_close(found, expected.to(dtype), rtol=2**-8 if dtype is torch.bfloat16 else 1e-6, atol=1e-6)
    assert torch.equal(found[:, :, :1], q[:, :, :1])


def test_a_mask_is_refused() -> None:
    part = nn.Linear(4, 4)
    attention = RotarySelfAttention(SimpleNamespace(num_heads=1, q_proj=part, k_proj=part, v_proj=part, o_proj=part))
    with pytest.raises(AssertionError):
        attention(
            torch.ones(1, 2, 4),
            position_embeddings=(torch.ones(1, 4), torch.zeros(1, 4)),
            attention_mask=torch.ones(2, 2),
        )
