"""Large encoders of random weights, for measuring what does not depend on them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import timm
from safetensors.torch import save_file
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from radet.recipe import EncoderChoice

_HALF = (0.5, 0.5, 0.5)
SIZE = 224


@dataclass(frozen=True, slots=True)
class Tower:
    """How to make one, and the blocks whose tokens its detector reads."""

    make: Callable[[Path], EncoderChoice]
    layers: tuple[int, ...]


def timm_tower(name: str) -> Callable[[Path], EncoderChoice]:
    def make(folder: Path) -> EncoderChoice:
        file = folder / f"{name}.safetensors"
        save_file(timm.create_model(name, pretrained=False, num_classes=0).state_dict(), file)
        return EncoderChoice(family="timm", name=name, weights=str(file), mean=_HALF, std=_HALF)

    return make


def dinov3(folder: Path) -> EncoderChoice:
    """DINOv3's ViT-L/16, as its config has it."""
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    DINOv3ViTModel(DINOv3ViTConfig(**sizes, patch_size=16, image_size=SIZE)).save_pretrained(folder / "dinov3")
    return EncoderChoice(
        family="transformers", name="dinov3_vit", weights=str(folder / "dinov3"), mean=_HALF, std=_HALF
    )


TOWERS = {
    "clip-l14": Tower(timm_tower("vit_large_patch14_clip_224"), (5, 11, 17, 23)),
    "dinov3-l16": Tower(dinov3, (5, 11, 17, 23)),
    "tiny": Tower(timm_tower("vit_tiny_patch16_224"), (5, 11)),
}
