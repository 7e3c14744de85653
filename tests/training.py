"""A corpus that a tiny detector can learn in seconds, and the detector: the real architecture with random weights."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from radet.crop import CropPolicy
from radet.feed import LocalFeed, list_tree
from radet.recipe import AugmentConfig, EncoderChoice, LinearConfig, OptimiserConfig, Recipe
from radet.training import MicroBatch

SIZE = 32


def write_encoder(folder: Path) -> Path:
    """A DINOv2 of two blocks, from a fixed seed."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=SIZE, patch_size=8
    )
    Dinov2Model(config).save_pretrained(folder)
    return folder


def tiny_recipe(encoder: Path, **changes: object) -> Recipe:
    from dataclasses import replace

    recipe = Recipe(
        name="tiny",
        encoder=EncoderChoice(
            family="transformers", name="dinov2", weights=str(encoder), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
        ),
        crop=CropPolicy(resize=SIZE, size=SIZE),
        layers=(0, 1),
        hidden=8,
        lowlevel_width=8,
        dropout=0.2,
        linear=LinearConfig(pictures=96),
        optimiser=OptimiserConfig(rate=3e-3),
        augment=AugmentConfig(plain=0, rescale=0, blur=0, noise=0, codec=0.2, quality=(90, 98)),
        epochs=3,
        global_batch=16,
        micro_batch=8,
        reference_images=12,
    )
    return replace(recipe, probe=replace(recipe.probe, width=8), **changes)  # type: ignore[arg-type]


def write_tree(root: Path, photographs: list[Image.Image], count: int = 48, *, seed: int = 0) -> Path:
    """Crops of photographs; the "generated" ones carry a checkerboard of four levels, as upsamplers leave it."""
    rng = np.random.default_rng(seed)
    board = np.where(np.indices((SIZE, SIZE)).sum(0) % 2, 12, -12)[:, :, None]
    for number in range(count):
        picture = np.asarray(photographs[number % len(photographs)].resize((160, 160)), np.int16)
        top, left = rng.integers(0, 160 - SIZE, 2)
        crop = picture[top : top + SIZE, left : left + SIZE]
        generated = number % 2 == 1
        folder = root / f"source{number % 3}" / ("1_fake" if generated else "0_real")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (crop + board * generated).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return root


def feed_of(recipe: Recipe, training: Path, validation: Path) -> LocalFeed:
    return LocalFeed(list_tree(training), list_tree(validation), recipe)


def random_batches(count: int, size: int, *, seed: int = 0) -> list[MicroBatch]:
    """Micro-batches of noise, real and generated in turn."""
    rng = np.random.default_rng(seed)
    label = torch.arange(size) % 2
    return [
        MicroBatch(
            number,
            torch.from_numpy(rng.integers(0, 256, (size, SIZE, SIZE, 3), np.uint8)),
            label.float(),
            np.arange(size),
        )
        for number in range(count)
    ]
