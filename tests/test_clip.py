"""The lightened blocks of open_clip's towers compute what the library's compute."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from torch import nn

from radet.clip import PlainNorm, SelfAttention, lighten

X = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def tower(folder: Path, quick: bool) -> nn.Module:
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
    name = f"tiny-lightened-{quick}"
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, "quick_gelu": quick}
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{name}.json")
    made: nn.Module = open_clip.create_model(name, load_weights=False).visual.eval().requires_grad_(False)
    for parameter in made.parameters():  # norms start at 1 and 0, which would hide what becomes of them
        parameter.add_(0.2 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("quick", [True, False], ids=["QuickGELU", "GELU"])
def test_the_same_function_but_for_rounding(tmp_path: Path, quick: bool) -> None:
    mine = tower(tmp_path, quick)
    x = X.clone().requires_grad_()
    expected = mine(x)
    (slope,) = torch.autograd.grad(expected.square().sum(), x)
    names = sorted(mine.state_dict())
    lighten(mine)
    found = mine(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), x)[0], slope, rtol=1e-3, atol=1e-4)
    blocks = mine.get_submodule("transformer.resblocks")
    assert [type(module) for block in blocks.children() for module in block.children()] == 2 * [
        *(PlainNorm, SelfAttention, nn.Identity, PlainNorm, nn.Sequential, nn.Identity)
    ]
    assert [type(module).__name__ for module in blocks.modules()].count("SiLU") == (2 if quick else 0)
    # All else keeps its name, so that a tower can be looked at as before.
    gone = {f"transformer.resblocks.{i}.ln_{n}.{part}" for i in (0, 1) for n in (1, 2) for part in ("weight", "bias")}
    assert sorted(mine.state_dict()) == [name for name in names if name not in gone]


def test_blocks_of_other_kinds_stay() -> None:
    class Block(nn.Module):
        def __init__(self, attention: nn.Module) -> None:
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(8), nn.LayerNorm(8)
            self.attn = attention

    others = [
        nn.MultiheadAttention(8, 2, kdim=4, vdim=4, batch_first=True),  # has no in_proj_weight
        nn.MultiheadAttention(8, 2),
        nn.Identity(),
    ]

    mine = nn.Module()
    mine.transformer = nn.Module()
    mine.transformer.resblocks = nn.ModuleList([*map(Block, others), nn.Linear(2, 2)])
    before = [type(module) for module in mine.modules()]
    lighten(mine)
    assert [type(module) for module in mine.modules()] == before


def test_a_norm_in_bf16_is_one_operation_and_as_exact() -> None:
    norm = PlainNorm(nn.LayerNorm(64, eps=0.01))
    x = (3 + torch.randn(5, 7, 64, generator=torch.Generator().manual_seed(2))).bfloat16()
    with torch.autocast("cpu", torch.bfloat16), torch.profiler.profile() as profile:
        found = norm(x)
    assert not any(event.key == "aten::_to_copy" for event in profile.key_averages())
    assert found.dtype is torch.bfloat16
    assert torch.equal(found, nn.functional.layer_norm(x.float(), (64,), eps=0.01).bfloat16())
