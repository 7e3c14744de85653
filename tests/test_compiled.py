"""Blocks under torch.compile see what they saw, for any number of pictures, and are themselves again afterwards."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from radet.compiled import compiled
from radet.encoders import FrozenEncoder, describe, load_encoder
from radet.loop import Floats, Progress, Run, Watcher
from radet.training import new_detector

from .training import SIZE, feed_of, tiny_recipe, write_encoder, write_tree

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler"),
    pytest.mark.filterwarnings("ignore"),  # torch's compiler uses what torch has deprecated
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> FrozenEncoder:
    return new_detector(tiny_recipe(write_encoder(tmp_path_factory.mktemp("encoder")))).encoder


@pytest.fixture(scope="module")
def dinov3(tmp_path_factory: pytest.TempPathFactory) -> FrozenEncoder:
    folder, half = tmp_path_factory.mktemp("dinov3"), (0.5, 0.5, 0.5)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    DINOv3ViTModel(DINOv3ViTConfig(**sizes, image_size=SIZE, patch_size=8)).save_pretrained(folder / "tower")
    config = describe("transformers", "dinov3_vit", "tower", mean=half, std=half, size=SIZE, folder=folder)
    return load_encoder(config, folder)


def _times_compiled() -> int:
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("name", ["encoder", "dinov3"])
def test_what_is_seen_stays_and_so_do_gradients(name: str, request: pytest.FixtureRequest) -> None:
    encoder: FrozenEncoder = request.getfixturevalue(name)
    x_BCHW = torch.rand((5, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0)).requires_grad_()
    plain = [encoder.look(x_BCHW[:count], (0, 1)) for count in (1, 2, 5)]
    (gradient,) = torch.autograd.grad(plain[-1].z.square().sum(), x_BCHW)
    before = _times_compiled()
    with compiled(encoder, SIZE):
        assert _times_compiled() == before + 1  # one block for all
        with torch.no_grad():
            seen = [encoder.look(x_BCHW[:count], (0, 1)) for count in (2, 5, 1)]
        assert _times_compiled() == before + 1, "one graph for any number, of one picture too"
        with_gradient = encoder.look(x_BCHW, (0, 1))
        (again,) = torch.autograd.grad(with_gradient.z.square().sum(), x_BCHW)
    for found, expected in zip([seen[2], seen[0], seen[1], with_gradient], [*plain, plain[-1]], strict=True):
        torch.testing.assert_close(found.features, expected.features)
    torch.testing.assert_close(again, gradient)
    after = _times_compiled()
    assert torch.equal(encoder.embed(x_BCHW), plain[-1].z)
    assert _times_compiled() == after


def test_a_machine_that_cannot_compile_says_so(tmp_path: Path) -> None:
    """In a process of its own: torch remembers the compiler that it found."""
    write_encoder(tmp_path)
    script = f"""
import torch
from pathlib import Path
from radet.compiled import compiled
from radet.errors import ConfigError
from radet.training import new_detector
from tests.training import SIZE, tiny_recipe

encoder = new_detector(tiny_recipe(Path({str(tmp_path)!r}))).encoder
x_BCHW = torch.rand(2, 3, SIZE, SIZE)
plain = encoder.embed(x_BCHW)
try:
    with compiled(encoder, SIZE):
        print("compiled")
except ConfigError as error:
    print(error)
assert torch.equal(encoder.embed(x_BCHW), plain)
"""
    environment = os.environ | {"CXX": "/no/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True, timeout=300
    )
    assert "torch.compile does not work on this machine: " in run.stdout


def test_what_was_trained_compiled_is_measured_as_it_will_score(photographs: list[Image.Image], tmp_path: Path) -> None:
    recipe = tiny_recipe(write_encoder(tmp_path / "encoder"), epochs=1)
    trees = write_tree(tmp_path / "train", photographs, 24), write_tree(tmp_path / "val", photographs, 40, seed=1)
    run = Run(new_detector(recipe), replace(recipe, train_compiled=True), feed_of(recipe, *trees))
    seen: list[Floats] = []

    class _Keep(Watcher):
        def validated(self, progress: Progress, logits: Floats) -> None:
            assert all("forward" in vars(block) for block in run.detector.encoder.blocks)
            seen.append(logits)

        def settling(self) -> None:
            assert not any("forward" in vars(block) for block in run.detector.encoder.blocks)

    assert run.go(_Keep()).settled
    assert run.best is not None
    np.testing.assert_allclose(run.best.logits, seen[0], atol=1e-3)
