import copy
import io
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from radet import ConfigError, Detector, Evidence, ModelError
from radet.config import DetectorConfig, ProbeConfig, resolve
from radet.fit import fit_reference
from radet.selftest import pictures

LITE = resolve("radet-lite")
COLUMNS = ("logit", "p_generated", "drift_cosine", "drift_l2", "drift_mahalanobis")
WORDS = {"name": "x", "description": "x", "source": "x"}
BRANCHES = ("logit_semantic", "logit_discrepancy", "logit_lowlevel")


@pytest.fixture(scope="module")
def lite():
    return Detector.from_pretrained("radet-lite")


@pytest.fixture(scope="module")
def crops():
    """64 crops of real photographs and of made-up pictures, uint8 [64, 224, 224, 3]."""
    sources = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    rng = np.random.default_rng(0)
    found = [*pictures(224)]
    while len(found) < 64:
        picture = sources[len(found) % 4]
        top, left = (rng.integers(0, side - 224 + 1) for side in picture.shape[:2])
        found.append(picture[top : top + 224, left : left + 224])
    return np.stack(found)


@pytest.fixture(scope="module")
def every(lite, crops):
    """The evidence on all of them."""
    return lite.evidence(crops)


@pytest.fixture(scope="module")
def drifting(lite, crops):
    """A training-free detector on the same encoder: seeded noise, and the drift of twelve pictures as reference."""
    return fit_reference(lite.config.encoder, ProbeConfig(kind="gaussian"), crops[4:16], **WORDS, crop=lite.config.crop)


def columns(evidence):
    return {name: getattr(evidence, name) for name in COLUMNS}


def test_evidence_has_the_fields_of_a_score(lite, crops):
    evidence = lite.evidence(crops[:3])
    for column in (*columns(evidence).values(), *(getattr(evidence, name) for name in BRANCHES)):
        assert column.dtype == np.float32
        assert column.shape == (3,)
        assert np.isfinite(column).all()
    assert set(evidence.verdict) <= {"real", "uncertain", "generated"}
    assert set(evidence.row(0)) == {field.name for field in fields(Evidence)}
    assert evidence.row(2)["logit"] == float(evidence.logit[2])


def test_the_fused_logit_is_the_sum_of_what_the_branches_contribute(lite, every):
    weight = torch.nn.functional.softplus(lite.heads.weight).detach().numpy()
    summed = sum(w * getattr(every, name) for w, name in zip(weight, BRANCHES, strict=True))
    assert every.logit == pytest.approx(summed + lite.heads.bias.item(), abs=1e-4)


def test_the_verdict_is_what_its_thresholds_say(lite, every):
    band = lite.config.verdict
    assert set(every.verdict) == {"real", "uncertain", "generated"}
    for p, verdict in zip(every.p_generated, every.verdict, strict=True):
        expected = "generated" if p > band.generated_above else "real" if p < band.real_below else "uncertain"
        assert verdict == expected


def test_without_training_there_is_drift_and_no_probability(drifting, crops):
    evidence = drifting.evidence(crops[:3])
    for name in ("p_generated", "verdict", "logit_semantic", "logit_lowlevel"):
        assert getattr(evidence, name) is None
    assert np.isfinite(evidence.logit).all()


def test_twice_the_same_is_bit_identical(lite, crops):
    once, again = lite.evidence(crops[:8]), lite.evidence(crops[:8])
    reloaded = Detector.from_pretrained("radet-lite").evidence(crops[:8])
    for name in COLUMNS:
        assert np.array_equal(getattr(once, name), getattr(again, name))
        assert np.array_equal(getattr(once, name), getattr(reloaded, name))


def test_alone_equals_any_batch(lite, crops, every):
    together = columns(every)
    sevens = [columns(lite.evidence(crops[start : start + 7])) for start in (0, 7, 14)]
    alone = [columns(lite.evidence(crops[index : index + 1])) for index in range(0, 64, 9)]
    for name in COLUMNS:
        assert np.abs(np.concatenate([part[name] for part in sevens]) - together[name][:21]).max() <= 1e-5
        assert np.abs(np.concatenate([part[name] for part in alone]) - together[name][::9]).max() <= 1e-5


def test_neighbours_do_not_matter_at_all_on_a_cpu(lite, crops):
    backwards = lite.evidence(crops[:6][::-1])
    assert np.array_equal(backwards.logit[::-1], lite.evidence(crops[:6]).logit)


def test_threads_that_share_a_detector_get_the_scores_that_one_gets(lite, crops):
    alone = [lite.evidence(crop[None]) for crop in crops[:24]]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda crop: lite.evidence(crop[None]), crops[:24]))
    for name in (*COLUMNS, *BRANCHES):
        assert [getattr(one, name)[0] for one in together] == [getattr(one, name)[0] for one in alone], name


def test_a_copy_and_one_that_was_pickled_score_as_the_original(lite, crops):
    expected = lite.evidence(crops[:2]).logit
    lite.model_id  # noqa: B018 - kept with the tensors it is of
    for other in (copy.deepcopy(lite), pickle.loads(pickle.dumps(lite))):
        assert other.model_id == lite.model_id
        assert np.array_equal(other.evidence(crops[:2]).logit, expected)


def test_what_the_caller_has_set_changes_no_score(lite, crops):
    """Dropout that was left on, and another arithmetic for what the caller computes around it."""
    expected, detector = columns(lite.evidence(crops[:3])), copy.deepcopy(lite)
    detector.train()
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():
        found = detector.evidence(crops[:3])
    for name in COLUMNS:
        assert np.array_equal(getattr(found, name), expected[name]), name


def test_logit_is_the_standardised_log_drift(drifting, crops):
    evidence, reference = drifting.evidence(crops[:5]), drifting.config.reference
    expected = (np.log(evidence.drift_cosine) - reference.log_drift_mean) / reference.log_drift_std
    assert evidence.logit == pytest.approx(expected, abs=1e-5)
    assert np.array_equal(evidence.logit, evidence.logit_discrepancy)


def test_drift_is_that_of_the_two_embeddings(drifting, crops):
    x = torch.from_numpy(crops[4:6]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        z, moved = drifting.encoder.embed(x), drifting.encoder.embed((x + drifting.probe.noise_KCHW[0]).clamp(0, 1))
    evidence = drifting.evidence(crops[4:6])
    assert evidence.drift_cosine == pytest.approx((1 - torch.cosine_similarity(z, moved)).numpy(), rel=1e-3)
    assert evidence.drift_l2 == pytest.approx((z - moved).norm(dim=1).numpy(), rel=1e-4)


@pytest.fixture
def tf32():
    """As programs set it for what they compute themselves, by torch's old names and by its new ones."""
    backends = torch.backends
    torch.set_float32_matmul_precision("medium")
    backends.fp32_precision, backends.cudnn.benchmark = "tf32", True
    yield
    backends.fp32_precision, backends.cudnn.benchmark = "none", False
    torch.set_float32_matmul_precision("highest")


def arithmetic():
    backends = torch.backends
    kinds = backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul
    rounded = sum(kind.fp32_precision in {"tf32", "bf16"} for kind in kinds)
    return backends.cudnn.enabled, backends.cudnn.benchmark, rounded


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_is_in_tf32_and_no_convolution_in_bf16_by_cudnn(lite, crops, monkeypatch, tf32, precision):
    """What a GPU would be told. TF32, which cuDNN takes of its own accord, is another arithmetic than a CPU's; in bf16
    cuDNN rounds otherwise in another batch."""
    monkeypatch.setattr(lite.encoder, "precision", precision)
    seen = {}
    hooks = [
        module.register_forward_hook(lambda *_, name=name: seen.update({name: arithmetic()}))
        for name, module in lite.named_modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
    ]
    before = arithmetic()
    lite.evidence(crops[:1])
    for hook in hooks:
        hook.remove()
    told = {(name.partition(".")[0], *flags) for name, flags in seen.items()}
    assert told == {(*part, False, 0) for part in (("encoder", precision == "fp32"), ("probe", True), ("heads", True))}
    assert arithmetic() == before == (True, True, 4)


@pytest.mark.parametrize(
    ("dtype", "device"), [(torch.bfloat16, "cpu"), (torch.float64, "cpu"), (torch.float32, "meta")]
)
def test_it_is_loaded_whatever_new_tensors_are_to_the_caller(lite, crops, dtype, device):
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            loaded = Detector.from_pretrained("radet-lite")
        assert torch.get_default_dtype() is dtype
    finally:
        torch.set_default_dtype(torch.float32)
    assert loaded.model_id == lite.model_id
    assert np.array_equal(loaded.evidence(crops[:1]).logit, lite.evidence(crops[:1]).logit)


def test_forked_processes_score_too(lite):
    """As multiprocessing starts them on Linux. Of its parent's threads a child has one: none that computes for torch,
    none that could give back what it held."""
    code = """
import multiprocessing, sys, threading, time, torch
from radet import Detector
from radet.tensors import one_at_a_time

def logit(picture):
    return detector.score([picture])[0].logit

def compute():
    with one_at_a_time:
        held.set()
        time.sleep(1)

torch.set_num_threads(2)
detector, picture, held = Detector.from_pretrained("radet-lite"), sys.stdin.buffer.read(), threading.Event()
here = logit(picture)
threading.Thread(target=compute).start()
held.wait()
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(logit, [picture] * 2) == [here] * 2
"""
    passive = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}  # or its threads would spin where others want the cores
    subprocess.run([sys.executable, "-c", code], input=png(data.chelsea()), env=passive, check=True, timeout=240)


def test_a_score_that_is_no_number_is_an_error_rather_than_evidence(lite, crops):
    detector = copy.deepcopy(lite)
    with torch.no_grad():
        detector.heads.bias.fill_(torch.nan)
    with pytest.raises(ModelError, match="no finite number") as caught:
        detector.evidence(crops[:1])
    assert caught.value.code == "numeric_selftest_failed"


def test_no_crop_is_no_evidence_rather_than_an_error(lite):
    assert lite.evidence(np.empty((0, 224, 224, 3), np.uint8)).logit.shape == (0,)


def test_read_only_arrays_and_tensors_are_welcome(lite, crops):
    crop = crops[:1].copy()
    crop.setflags(write=False)
    assert lite.evidence(crop).logit == lite.evidence(torch.tensor(crop)).logit


@pytest.mark.parametrize("shape", [(1, 3, 224, 224), (1, 256, 256, 3), (224, 224, 3)])
def test_other_shapes_are_refused(lite, shape):
    with pytest.raises(ConfigError, match="uint8"):
        lite.evidence(np.zeros(shape, np.uint8))
    with pytest.raises(ConfigError, match="float32"):
        lite.evidence(np.zeros((1, 224, 224, 3), np.float32))


def png(picture):
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    return out.getvalue()


def test_score_takes_bytes_paths_and_pictures_and_says_the_same(lite, tmp_path):
    raw, file = png(data.chelsea()), tmp_path / "cat.png"
    file.write_bytes(raw)
    scores = lite.score([raw, file, str(file), Image.open(file)])
    assert len({score.logit for score in scores}) == 1
    assert len({score.phash for score in scores}) == 1
    assert [score.uri for score in scores] == ["#0", str(file), str(file), "#3"]
    assert [score.id for score in scores] == [score.uri for score in scores]
    first, opened = scores[0], scores[3]
    assert (first.width, first.height, first.format, first.bytes, first.status) == (451, 300, "PNG", len(raw), "ok")
    assert len(first.sha256) == 64
    assert (opened.sha256, opened.bytes, opened.format) == (None, None, "PNG")
    assert first.model_id == lite.model_id
    assert 0 <= first.p_generated <= 1
    assert (first.verdict in {"real", "uncertain", "generated"}, first.error) == (True, None)
    assert first.scored_at.utcoffset().total_seconds() == 0


def test_a_bad_image_is_a_row_and_spoils_nothing(lite, tmp_path):
    good = png(data.chelsea())
    images = [b"", good, b"<html>", good[:5000], tmp_path / "absent.png", tmp_path, "nul\0.png", good]
    scores = lite.score(images, ids=list("abcdefgh"), batch_size=3)
    assert [score.id for score in scores] == list("abcdefgh")
    statuses = ["empty", "ok", "not_an_image", "truncated", "not_found", "not_an_image", "not_found", "ok"]
    assert [score.status for score in scores] == statuses
    assert scores[1].logit == scores[7].logit == lite.score([good])[0].logit
    for score in scores:
        assert (score.error is None) == (score.status == "ok")
        assert (score.logit is None) == (score.status != "ok")
    assert (scores[3].width, scores[3].height, scores[3].bytes) == (451, 300, 5000)


def test_opened_pictures_mean_what_their_files_mean(lite, tmp_path):
    """Transparency, palette, orientation, CMYK, 16 bits: as read from the file."""
    cat = Image.fromarray(data.chelsea())
    transparent = cat.copy()
    transparent.putalpha(Image.linear_gradient("L").resize(cat.size))
    turned = Image.Exif()
    turned[0x0112] = 6
    transparent.save(tmp_path / "a.png")
    cat.quantize(16).save(tmp_path / "p.png")
    cat.save(tmp_path / "o.png", exif=turned)
    cat.convert("L").save(tmp_path / "l.png")
    for file in sorted(tmp_path.iterdir()):
        with Image.open(file) as opened:
            by_path, by_picture = lite.score([file, opened])
        assert by_path.status == "ok"
        assert by_picture.logit == by_path.logit, file.name
        assert (by_picture.width, by_picture.height) == (by_path.width, by_path.height)
    assert lite.score([cat.convert("CMYK")])[0].status == "ok"


def test_a_picture_that_breaks_while_it_is_read_is_a_row(lite):
    opened = Image.open(io.BytesIO(png(data.chelsea())[:5000]))
    score = lite.score([opened])[0]
    assert (score.status, score.logit) == ("truncated", None)


def test_ids_must_match(lite):
    with pytest.raises(ConfigError, match="2 images and 1 ids"):
        lite.score([b"", b""], ids=["a"])
    assert lite.score([]) == []


def test_any_iterable_of_pictures_will_do(lite):
    raw = [png(data.chelsea()), b"", png(data.rocket())]
    expected = [(score.id, score.logit) for score in lite.score(raw)]
    taken = []
    stream = (taken.append(position) or picture for position, picture in enumerate(raw))
    assert [(score.id, score.logit) for score in lite.score(stream, batch_size=2)] == expected
    assert taken == [0, 1, 2]
    assert [score.id for score in lite.score(iter(raw), ids=iter("abc"))] == ["a", "b", "c"]
    with pytest.raises(ConfigError, match="3 images and 1 ids"):
        lite.score(iter(raw), ids=["a"])


ONE = ["a.jpg", b"\xff\xd8", Path("a.jpg"), io.BytesIO(b"\xff\xd8"), Image.new("RGB", (8, 8)), None]


@pytest.mark.parametrize("images", ONE)
def test_one_picture_that_is_no_list_is_told_how(lite, images):
    with pytest.raises(ConfigError, match=r"score\(\[picture\]\)"):
        lite.score(images)


def test_what_is_no_picture_and_a_batch_of_none_are_refused(lite):
    for images in ([b"", None], np.zeros((1, 8, 8, 3), np.uint8), bytearray(b"abc")):
        with pytest.raises(ConfigError, match=r"picture #[01] is a (NoneType|ndarray|int): give"):
            lite.score(images)
    for batch_size in (0, -1):
        with pytest.raises(ConfigError, match="batch_size must be >= 1"):
            lite.score([b""], batch_size=batch_size)


def test_without_a_probe_there_is_no_drift_and_no_logit(lite, crops, tmp_path):
    fit_reference(lite.config.encoder, ProbeConfig(kind="none"), [], **WORDS, crop=lite.config.crop).save_pretrained(
        tmp_path
    )
    detector = Detector.from_pretrained(tmp_path)
    assert DetectorConfig.read(tmp_path).reference is None
    assert set(detector.evidence(crops[:2]).row(0).values()) == {None}
    score = detector.score([png(crops[0])])[0]
    assert (score.status, score.logit, score.drift_cosine) == ("ok", None, None)
