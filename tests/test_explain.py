"""Explanations add up to the score that they explain."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import radet.rows
from radet import Detector
from radet.errors import FetchError, ImageError
from radet.explain import _sentences, explain
from radet.images import decode_picture
from radet.peers import drift_detectors, linear_detector
from radet.thresholds import VerdictConfig


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.from_pretrained("radet-lite")


@pytest.fixture(scope="module")
def path(photographs: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("explain") / "photograph.png"
    photographs[0].save(file)
    return file


def test_it_explains_the_score_that_scoring_gives(detector: Detector, path: Path) -> None:
    found = explain(detector, path, id="mine")
    (score,) = detector.score([path])
    assert found.score.p_generated == score.p_generated
    assert found.score.id == "mine"
    assert sum(found.contributions.values()) + found.bias == pytest.approx(score.logit, abs=1e-5)
    assert set(found.contributions) == {"semantic", "discrepancy", "lowlevel"}
    assert 0 <= found.percentile <= 1
    assert found.crop.shape == (224, 224, 3)
    assert json.loads(json.dumps(found.to_dict()))["score"]["verdict"] == score.verdict
    text = " ".join(found.sentences)
    assert score.verdict in text
    assert f"{score.p_generated:.2f}" in text
    (sentence,) = (sentence for sentence in found.sentences if sentence.startswith("To the logit of"))
    total, *added = map(float, re.findall(r"[+-]\d+\.\d\d", sentence))
    assert sum(added) == pytest.approx(total, abs=0.03)


def test_the_rate_that_is_told_is_the_achieved_one(detector: Detector, path: Path) -> None:
    (score,) = detector.score([path])
    score = replace(score, p_generated=0.999, verdict="generated")
    (told,) = (t for t in detector.config.thresholds if t.target_fpr == detector.config.verdict.target_fpr)
    assert told.achieved_fpr < told.target_fpr
    text = " ".join(_sentences(detector.config, score, None, None, {}, 0.0))
    assert f"which {told.achieved_fpr:.1%} of the real calibration pictures exceeded" in text
    text = " ".join(_sentences(replace(detector.config, thresholds=()), score, None, None, {}, 0.0))
    assert "which at most 5% of the real" in text


def test_percentiles_are_of_the_drift_and_of_the_probability(
    detector: Detector, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, (score,) = detector.config, detector.score([path])
    quantiles = tuple(np.linspace(0, 2 * score.drift_cosine, 21).tolist())
    real = tuple(np.linspace(0, 4 * score.p_generated, 21).tolist())
    reference = replace(config.reference, quantiles=quantiles)
    calibration = replace(config.calibration, real=real, generated=(0.0,) * 21)
    monkeypatch.setattr(detector, "config", replace(config, reference=reference, calibration=calibration))
    found = explain(detector, path)
    assert (found.percentile, found.p_percentile) == pytest.approx((0.5, 0.25), abs=1e-6)


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("generated", "since that is above 0.80, which at most 5% of the real calibration pictures exceeded"),
        ("real", "since that is below 0.20, as were at most 10% of the generated calibration pictures"),
        ("uncertain", "since that lies between 0.20 and 0.80"),
    ],
)
def test_the_verdict_is_told_with_its_bounds(detector: Detector, path: Path, verdict: Any, words: str) -> None:
    band = VerdictConfig(real_below=0.2, generated_above=0.8, target_fpr=0.05, target_fnr=0.1)
    score = replace(detector.score([path])[0], verdict=verdict)
    text = _sentences(replace(detector.config, verdict=band), score, None, None, {}, 0.0)[1]
    assert text.startswith(f"Verdict: {verdict}, {words}")


def test_numbers_are_not_rounded_to_what_is_not_so(detector: Detector, path: Path) -> None:
    (score,) = detector.score([path])
    text = " ".join(_sentences(detector.config, score, 0.004, 0.996, {"semantic": -0.001, "lowlevel": 2.0}, -0.002))
    assert "Of the real calibration pictures more than 99% scored lower." in text
    assert "larger than that of less than 1% of real pictures" in text
    assert "-0.00" not in text
    assert "pictures 100% scored" in " ".join(_sentences(detector.config, score, 0.0, 1.0, {}, 0.0))


def test_a_picture_is_decoded_once(detector: Detector, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []

    def spy(data: bytes, *rest: Any) -> Any:
        decoded.append(len(data))
        return decode_picture(data, *rest)

    monkeypatch.setattr(radet.rows, "decode_picture", spy)
    explain(detector, path)
    assert decoded == [path.stat().st_size]


def test_heat_is_the_drift_of_each_patch(detector: Detector, path: Path) -> None:
    heat = explain(detector, path).heat
    assert heat.shape == (7, 7)
    assert (heat >= 0).all()
    assert np.ptp(heat) > 0
    assert np.array_equal(heat, explain(detector, path).heat)


def test_overlay_shows_the_crop_and_the_heat(detector: Detector, path: Path) -> None:
    found = explain(detector, path)
    assert np.array_equal(np.asarray(found.overlay(0.0)), found.crop)
    assert found.overlay(side=448).size == (448, 448)
    hottest = np.unravel_index(found.heat.argmax(), found.heat.shape)
    light = np.asarray(found.heat_map(7).convert("L"))
    assert light[hottest] == light.max()


def test_a_detector_without_drift_or_calibration_explains_what_it_has(detector: Detector, path: Path) -> None:
    linear = linear_detector(detector)
    assert linear is not None
    found = explain(linear, path)
    assert found.heat is None
    assert found.percentile is None
    assert np.array_equal(np.asarray(found.overlay()), found.crop)
    assert "not calibrated" in found.sentences[0]


def test_a_detector_without_a_logit_explains_its_drift(detector: Detector, path: Path) -> None:
    _, rigid = next(drift_detectors(detector))
    found = explain(rigid, path)
    assert "gives no logit" in found.sentences[0]
    assert found.score.logit is None
    assert found.heat is not None


def test_heat_is_the_same_whatever_the_caller_computes_in(detector: Detector, path: Path) -> None:
    heat = explain(detector, path).heat
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(explain(detector, path).heat, heat)


def test_what_is_no_picture_is_an_error_with_its_code(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_text("<html>")
    with pytest.raises(ImageError) as error:
        explain(detector, tmp_path / "page.jpg")
    assert error.value.code == "not_an_image"
    with pytest.raises(FetchError):
        explain(detector, tmp_path / "nothing.jpg")


def test_the_linear_peer_is_the_probe_inside_the_semantic_branch(detector: Detector, path: Path) -> None:
    linear = linear_detector(detector)
    assert linear is not None
    again = linear_detector(detector)
    assert again is not None
    assert linear.model_id == again.model_id != detector.model_id
    with torch.inference_mode():
        pixels = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        look = detector.encoder.look(pixels, detector.layers)
        semantic = detector.heads.branches["semantic"]
        expected = semantic.linear(semantic.standard(look.features))
        own = linear.heads.branches["semantic"]
        assert torch.equal(own.linear(own.standard(look.features)) + own.mlp(own.standard(look.features)), expected)
    (score,) = linear.score([path])
    assert score.logit is not None
    assert score.p_generated is None


def test_training_free_peers_give_their_drift(detector: Detector, path: Path) -> None:
    found = {peer.name: other.score([path])[0].drift_cosine for peer, other in drift_detectors(detector)}
    assert len(found) >= 5
    assert all(drift > 0 for drift in found.values())
    assert len(set(found.values())) == len(found) - 1  # MINDER is one of two others
    assert found["MINDER"] == pytest.approx(min(found["RIGID"], found["contrastive blur"]))
