"""A detector as a folder: written, read, and refused where it is not what it says."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from radet import ConfigError, Detector, ModelError
from radet.config import model_id, resolve
from radet.encoders import _load_timm
from radet.selftest import pictures

LITE = resolve("radet-lite")


@pytest.fixture(scope="module")
def lite():
    return Detector.from_pretrained("radet-lite")


@pytest.fixture(scope="module")
def crops():
    """Eight pictures, uint8 [8, 224, 224, 3]."""
    found = pictures(224)
    return np.concatenate([found, found[:, ::-1]])


def test_save_and_load_give_the_same_detector(lite, crops, tmp_path):
    lite.save_pretrained(tmp_path / "saved")
    again = Detector.from_pretrained(tmp_path / "saved")
    assert again.model_id == lite.model_id == model_id(LITE) == model_id(tmp_path / "saved")
    assert again.config == lite.config
    assert np.array_equal(again.evidence(crops[:4]).logit, lite.evidence(crops[:4]).logit)
    assert (tmp_path / "saved" / "model.safetensors").stat().st_size < 15 << 20


def test_precision_is_part_of_the_identity(lite, crops):
    bf16 = Detector.from_pretrained("radet-lite", precision="bf16")
    assert bf16.model_id == model_id(LITE, precision="bf16") != lite.model_id
    assert bf16.evidence(crops[:8]).p_generated == pytest.approx(lite.evidence(crops[:8]).p_generated, abs=0.1)
    assert not np.array_equal(bf16.evidence(crops[:8]).logit, lite.evidence(crops[:8]).logit)


def test_a_precision_that_there_is_not_is_refused():
    for precision in ("fp16", "bfloat16", "BF16"):
        for load_one in (Detector.from_pretrained, model_id):
            with pytest.raises(ConfigError, match=f"precision must be fp32 or bf16, not '{precision}'"):
                load_one(LITE, precision=precision)


def spoiled(tmp_path, change):
    folder = Path(shutil.copytree(LITE, tmp_path / "spoiled"))
    change(folder)
    with pytest.raises(ModelError) as caught:
        Detector.from_pretrained(folder)
    assert "\n" not in caught.value.message
    return caught.value.code


def rewrite(folder, change):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


def test_tampered_checkpoints_are_refused(tmp_path):
    def other_encoder(folder):
        config = json.loads((folder / "config.json").read_text())
        config["encoder"]["sha256"] = "0" * 64
        (folder / "config.json").write_text(json.dumps(config))

    assert spoiled(tmp_path / "a", other_encoder) == "weights_mismatch"
    assert spoiled(tmp_path / "b", lambda f: rewrite(f, lambda s: s.pop("covariance.tail"))) == "weights_mismatch"
    assert spoiled(tmp_path / "c", lambda f: rewrite(f, lambda s: s.update(x=torch.zeros(1)))) == "weights_mismatch"
    misshapen = {"covariance.mean_D": torch.zeros(7)}
    assert spoiled(tmp_path / "d", lambda f: rewrite(f, lambda s: s.update(misshapen))) == "weights_mismatch"
    garbage = b"\x80\x04pickle"
    assert spoiled(tmp_path / "e", lambda f: (f / "model.safetensors").write_bytes(garbage)) == "weights_mismatch"
    assert spoiled(tmp_path / "f", lambda f: (f / "model.safetensors").unlink()) == "weights_missing"

    def become_a_folder(folder):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors").mkdir()

    assert spoiled(tmp_path / "g", become_a_folder) == "weights_mismatch"


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.update({name: value.half() for name, value in state.items()}),
        lambda state: state.update({"heads.weight": state["heads.weight"].double()}),
        lambda state: state.update({"covariance.x": torch.zeros(1)}),
        lambda state: state.update({"covariance.values_K": torch.tensor(1.0)}),
        lambda state: state.update({"covariance.values_K": -state["covariance.values_K"]}),
        lambda state: state.update({"covariance.tail": torch.tensor(torch.nan)}),
    ],
    ids=["fp16", "fp64", "a stranger", "0-d", "negative", "nan"],
)
def test_tensors_are_taken_strictly(tmp_path, change):
    assert spoiled(tmp_path, lambda folder: rewrite(folder, change)) == "weights_mismatch"


def test_a_layer_that_the_encoder_has_not_is_refused(tmp_path):
    def point_beyond(folder):
        config = json.loads((folder / "config.json").read_text())
        config["heads"]["layers"][-1] = 60
        (folder / "config.json").write_text(json.dumps(config))

    assert spoiled(tmp_path, point_beyond) == "config_invalid"


def turned_round(data):
    """The same tensors, the last of them first."""
    start = 8 + int.from_bytes(data[:8], "little")
    header, parts, end = {}, [], 0
    for name, tensor in reversed(json.loads(data[8:start]).items()):
        first, last = (start + offset for offset in tensor["data_offsets"])
        header[name] = tensor | {"data_offsets": [end, end + last - first]}
        parts.append(data[first:last])
        end += last - first
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


@pytest.mark.parametrize("how", ["plain", "metadata", "another order"])
def test_the_folder_and_the_detector_from_it_have_one_id(lite, tmp_path, how):
    """As it is, and written again by another tool."""
    folder = Path(shutil.copytree(LITE, tmp_path / "again"))
    file = folder / "model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt"} if how == "metadata" else None)
    if how == "another order":
        file.write_bytes(turned_round(file.read_bytes()))
    assert model_id(folder) == Detector.from_pretrained(folder).model_id == lite.model_id


@pytest.mark.parametrize("device", ["mps", "cuda", "cuda:99", "gpu", None])
def test_a_device_that_is_not_there_is_refused(device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ConfigError, match=str(device)):
        Detector.from_pretrained("radet-lite", device=device)


def test_encoder_weights_in_the_checkpoint_travel_with_it(lite, crops, tmp_path):
    """A relative weight file belongs to the checkpoint; one at an absolute path stays where it is."""
    tower = _load_timm("tf_efficientnet_lite0", lite.config.encoder.weights, "none", LITE).tower
    state = {name: value.contiguous() for name, value in tower.state_dict().items()}
    (tmp_path / "here" / "towers").mkdir(parents=True)
    save_file(state, tmp_path / "here" / "encoder.safetensors")
    shutil.copy(tmp_path / "here" / "encoder.safetensors", tmp_path / "here" / "towers" / "own.safetensors")
    for weights in ("encoder.safetensors", "towers/own.safetensors", str(tmp_path / "here" / "encoder.safetensors")):
        encoder = replace(lite.config.encoder, weights=weights)
        (tmp_path / "here" / "config.json").write_text(replace(lite.config, encoder=encoder).to_json())
        shutil.copy(LITE / "model.safetensors", tmp_path / "here")
        target = tmp_path / f"there{len(weights)}"
        Detector.from_pretrained(tmp_path / "here").save_pretrained(target)
        copied = {file.relative_to(target).as_posix() for file in target.rglob("*.safetensors")}
        assert copied == {"model.safetensors", weights} - {str(tmp_path / "here" / "encoder.safetensors")}
        moved = Detector.from_pretrained(target)
        assert moved.model_id == lite.model_id
        assert np.array_equal(moved.evidence(crops[:2]).logit, lite.evidence(crops[:2]).logit)


def test_a_model_id_follows_the_tensors(lite):
    """It is hashed once, and again after every change, in place or not."""
    detector = copy.deepcopy(lite)
    seen = [detector.model_id]
    assert detector.model_id == seen[0] == lite.model_id
    assert detector.heads is not None
    with torch.no_grad():
        detector.heads.bias.add_(1)
    seen.append(detector.model_id)
    for _ in range(2):
        detector.heads.bias = nn.Parameter(detector.heads.bias + 1)
        seen.append(detector.model_id)
    detector.config = replace(detector.config, precision="bf16")
    seen.append(detector.model_id)
    with torch.inference_mode():
        detector.heads.bias = nn.Parameter(detector.heads.bias + 1, requires_grad=False)
        seen.append(detector.model_id)
        detector.heads.bias.add_(1)
        seen.append(detector.model_id)
    assert len(set(seen)) == 7
    with mock.patch("hashlib.sha256", side_effect=AssertionError("hashed")):
        assert lite.model_id == seen[0]
