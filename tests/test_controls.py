"""The controls take away what they say they take away."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from radet.controls import run_controls
from radet.detector import Detector
from radet.errors import ConfigError
from radet.fit import refit
from radet.probes import LearnedProbe
from radet.training import new_detector

from .training import SIZE, tiny_recipe, write_encoder

GENERATED = np.arange(60) % 2 == 1


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def crops() -> "np.typing.NDArray[np.uint8]":
    """Noise; the first pixel of a generated picture is white: a probe sees it, the encoder hardly does."""
    rng = np.random.default_rng(0)
    noise = rng.integers(80, 140, (60, SIZE, SIZE, 3)).astype(np.uint8)
    noise[:, 0, 0] = 255 * GENERATED[:, None]
    return noise


def detector_with(encoder: Path, crops: "np.typing.NDArray[np.uint8]") -> Detector:
    detector = new_detector(tiny_recipe(encoder))
    refit(detector, crops[~GENERATED], source="noise")
    return detector


def test_a_probe_that_writes_its_verdict_into_the_norm_is_found_out(
    encoder: Path, crops: "np.typing.NDArray[np.uint8]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """One fixed pattern, four times as strong where the mark is: the drift tells the classes apart, and it is
    all the probe's own classification."""
    detector = detector_with(encoder, crops)
    pattern = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) / 255

    def cheat(_self: LearnedProbe, x_BCHW: Tensor, z_BD: Tensor, eps: object = None) -> Tensor:
        return pattern * torch.where(x_BCHW[:, :1, :1, :1] > 0.5, 4.0, 1.0)

    monkeypatch.setattr(LearnedProbe, "perturbation", cheat)
    found = run_controls(detector, crops, GENERATED)
    assert found["learned"].drift > 0.95
    assert found["norm"].drift == 1.0
    assert found["random"].drift > 0.95, "the norm alone carries it"
    assert abs(found["equalised"].drift - 0.5) < 0.3, "without the norm it is gone"
    assert found["swapped"].drift < 0.05, "neighbours are of the other class"


def test_every_control_speaks_for_drift_branch_and_fusion(encoder: Path, crops: "np.typing.NDArray[np.uint8]") -> None:
    found = run_controls(detector_with(encoder, crops), crops, GENERATED)
    assert set(found) == {"learned", "random", "equalised", "swapped", "norm"}
    for name, control in found.items():
        assert 0 <= control.drift <= 1
        assert np.isnan(control.fused) == (name == "norm")


def test_controls_need_a_learned_probe(encoder: Path, crops: "np.typing.NDArray[np.uint8]") -> None:
    recipe = tiny_recipe(encoder)
    detector = new_detector(replace(recipe, probe=replace(recipe.probe, kind="gaussian")))
    with pytest.raises(ConfigError, match="learned probe"):
        run_controls(detector, crops, GENERATED)
