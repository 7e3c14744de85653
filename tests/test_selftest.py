import hashlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from radet import Detector, ModelError
from radet.config import DetectorConfig, resolve
from radet.selftest import MAX_FLOOR, MAX_GOLDEN_ERROR, drift_floor, pictures, selftest, write_golden

LITE = resolve("radet-lite")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_bundled_detector_passes_in_both_precisions(precision):
    detector = Detector.from_pretrained("radet-lite", precision=precision)
    report = selftest(detector)
    assert report.model_id == detector.model_id
    assert report.precision == precision
    assert report.device == "cpu"
    assert 0 <= report.floor_share < MAX_FLOOR
    assert report.golden_error <= MAX_GOLDEN_ERROR[precision]
    assert report.floor_share == pytest.approx(report.floor / detector.config.reference.median_drift)


def test_pictures_are_the_pinned_ones_and_not_trivial():
    found = pictures(224)
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == "81b74500a4dbdf0f"
    assert found.shape == (4, 224, 224, 3)
    assert all(len(np.unique(picture)) > 100 for picture in found)


def copied(tmp_path, change):
    folder = Path(shutil.copytree(LITE, tmp_path / "copy"))
    change(folder)
    return Detector.from_pretrained(folder)


def test_changed_tensors_are_found_out(tmp_path):
    def tamper(folder):
        state = load_file(folder / "model.safetensors")
        state["covariance.values_K"] *= 1.1
        save_file(state, folder / "model.safetensors")

    with pytest.raises(ModelError, match="golden") as caught:
        selftest(copied(tmp_path, tamper), batches=())
    assert caught.value.code == "numeric_selftest_failed"


def test_a_changed_probe_is_found_out(tmp_path):
    def tamper(folder):
        config = DetectorConfig.read(folder)
        (folder / "config.json").write_text(
            replace(config, probe=replace(config.probe, eps=config.probe.eps * 1.1)).to_json()
        )

    with pytest.raises(ModelError, match="golden"):
        selftest(copied(tmp_path, tamper), batches=())


def standardise_by_batch(detector):
    """The classic mistake: embeddings then depend on the neighbours."""
    detector.encoder.tower.conv_stem.register_forward_hook(
        lambda _, __, maps: maps - maps.mean((0, 2, 3), keepdim=True)
    )


def test_a_floor_as_large_as_the_drift_is_refused(tmp_path):
    """Golden scores hold, for pictures that pass alone; in a batch the encoder sees them otherwise."""
    detector = copied(tmp_path, lambda _: None)
    standardise_by_batch(detector)
    write_golden(detector, detector.folder)
    with pytest.raises(ModelError, match="rounding alone drifts") as caught:
        selftest(detector, batches=(7,))
    assert caught.value.code == "numeric_selftest_failed"


def test_a_checkpoint_without_golden_scores_says_so(tmp_path):
    detector = copied(tmp_path, lambda folder: (folder / "golden.json").unlink())
    with pytest.raises(ModelError, match=r"golden\.json") as caught:
        selftest(detector)
    assert caught.value.code == "weights_missing"
    write_golden(detector, detector.folder)
    assert json.loads((detector.folder / "golden.json").read_text()).keys() >= {"logit", "drift_cosine"}
    assert selftest(detector, batches=()).golden_error < 1e-6


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '"logit"', '{"logit": ["a"]}', '{"logit": [null, [1]]}', '{"logit": 1}']
)
def test_golden_scores_that_cannot_be_read_say_so(tmp_path, text):
    """As where a checkpoint is still being copied: whoever tries again, tries again."""
    detector = copied(tmp_path, lambda folder: (folder / "golden.json").write_text(text))
    with pytest.raises(ModelError, match=r"golden\.json") as caught:
        selftest(detector, batches=())
    assert caught.value.code in ("weights_mismatch", "numeric_selftest_failed")


def test_golden_scores_of_other_pictures_are_no_match(tmp_path):
    def cut(folder):
        golden = json.loads((folder / "golden.json").read_text())
        (folder / "golden.json").write_text(json.dumps({name: column[:1] for name, column in golden.items()}))

    with pytest.raises(ModelError, match="another kind of checkpoint"):
        selftest(copied(tmp_path, cut), batches=())


def test_a_golden_score_that_is_no_number_matches_nothing(tmp_path):
    def tamper(folder):
        golden = json.loads((folder / "golden.json").read_text())
        golden["logit"][0] = math.nan
        (folder / "golden.json").write_text(json.dumps(golden))

    with pytest.raises(ModelError, match="nan away from its golden scores"):
        selftest(copied(tmp_path, tamper), batches=())


def test_a_drift_that_is_no_number_is_no_floor(tmp_path):
    detector = copied(tmp_path, lambda _: None)
    detector.encoder.tower.conv_stem.register_forward_hook(
        lambda _, __, maps: maps if len(maps) == 1 else maps * torch.nan
    )
    with pytest.raises(ModelError, match="rounding alone drifts"):
        selftest(detector, batches=(7,))


def test_the_floor_sees_an_encoder_that_depends_on_the_batch():
    detector = Detector.from_pretrained("radet-lite")
    standardise_by_batch(detector)
    assert drift_floor(detector, batches=(7,)) > 1e-3
