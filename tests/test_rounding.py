"""A tower stored in 8 bits and the published one it came from are one encoder, or are refused."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from radet import Detector
from radet.config import EncoderConfig, ProbeConfig
from radet.crop import CropPolicy
from radet.encoders import describe, load_encoder
from radet.errors import ModelError
from radet.fit import fit_reference
from radet.selftest import write_golden
from radet.tensors import round_int8

WEIGHTS = Path(__file__).parents[2] / "shared" / "weights"
SIZE = 32
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@pytest.fixture
def tower(tmp_path: Path) -> torch.nn.Module:
    torch.manual_seed(0)
    vision = {"image_size": SIZE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
    file = tmp_path / "rounded-clip.json"
    file.write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(file)
    built: torch.nn.Module = open_clip.create_model("rounded-clip", load_weights=False).visual.eval()
    return built


def described(folder: Path) -> EncoderConfig:
    return describe("open_clip", "rounded-clip", "clip.safetensors", **HALF, rounding="int8", size=SIZE, folder=folder)


def test_what_was_rounded_stays_as_it_is(tower: torch.nn.Module) -> None:
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    round_int8(tower)
    once = {name: value.clone() for name, value in tower.state_dict().items()}
    round_int8(tower)
    assert all(torch.equal(value, once[name]) for name, value in tower.state_dict().items())
    changed = {name for name, value in once.items() if not torch.equal(value, before[name])}
    assert "proj" in changed
    assert "transformer.resblocks.1.attn.in_proj_weight" in changed
    assert not [name for name in changed if "embedding" in name or "conv1" in name or "ln" in name or "bias" in name]
    for name in changed:
        outputs = once[name].T if name == "proj" else once[name]
        assert all(len(set(row.tolist())) <= 255 for row in outputs)
        step = (before[name].T if name == "proj" else before[name]).abs().amax(1) / 127
        error = (once[name] - before[name]).abs()
        assert ((error.T if name == "proj" else error).amax(1) <= 0.501 * step).all()


def test_the_original_and_its_rounded_copy_are_one_encoder(tower: torch.nn.Module, tmp_path: Path) -> None:
    save_file(tower.state_dict(), tmp_path / "clip.safetensors")
    original = described(tmp_path)
    round_int8(tower)
    save_file(tower.state_dict(), tmp_path / "clip.safetensors")
    assert described(tmp_path).sha256 == original.sha256


def test_a_tie_rounded_the_other_way_is_accepted_under_its_own_id(tower: torch.nn.Module, tmp_path: Path) -> None:
    """Another tower is accepted as far as golden scores hold, and never under the same model id."""
    file = tmp_path / "clip.safetensors"
    save_file(tower.state_dict(), file)
    crops = iter(np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), np.uint8))
    detector = fit_reference(
        described(tmp_path),
        ProbeConfig(kind="gaussian"),
        crops,
        name="x",
        description="",
        source="noise",
        crop=CropPolicy(resize=SIZE, size=SIZE),
        folder=tmp_path,
    )
    detector.save_pretrained(tmp_path)
    write_golden(detector, tmp_path)
    assert Detector.from_pretrained(tmp_path).model_id == detector.model_id

    state = load_file(file)
    name = "transformer.resblocks.1.mlp.c_fc.weight"
    step = state[name].abs().amax(1) / 127
    state[name][3, 5] += step[3]  # one code of one weight
    save_file(state, file)
    other = Detector.from_pretrained(tmp_path)
    assert other.config.encoder.sha256 != detector.config.encoder.sha256
    assert other.model_id != detector.model_id

    state[name] += 0.3 * torch.randn(state[name].shape, generator=torch.Generator().manual_seed(0))
    save_file(state, file)
    with pytest.raises(ModelError, match="golden"):
        Detector.from_pretrained(tmp_path)
    with pytest.raises(ModelError, match="sha256"):
        load_encoder(replace(detector.config.encoder, rounding="none"), tmp_path)


@pytest.mark.weights
@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the project's weights folder ../shared/weights is not there")
def test_the_real_tower_comes_from_the_folder_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was stored in 8 bits, and rounding it again changes no bit."""
    file = tmp_path / "clip-vit-b16-openai.safetensors"
    subprocess.run([sys.executable, str(WEIGHTS / "unpack.py"), str(file)], check=True, capture_output=True)
    monkeypatch.setenv("RADET_WEIGHTS", str(tmp_path))
    statistics = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
    rounded = describe("open_clip", "ViT-B-16-quickgelu", "hub:openai", **statistics, rounding="int8")
    assert rounded.sha256 == describe("open_clip", "ViT-B-16-quickgelu", "hub:openai", **statistics).sha256
