"""Branches of a detector on their own, and what they cost."""

import numpy as np
import pytest

from radet import Detector
from radet.cost import gmac, relative_time
from radet.encoders import FrozenEncoder
from radet.peers import branch_detector

PASSES = {"semantic": 1, "discrepancy": 2, "lowlevel": 0}


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.from_pretrained("radet-lite")


@pytest.mark.parametrize("branch", PASSES)
def test_a_branch_alone_says_what_it_says_among_the_others(
    detector: Detector, branch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops = np.random.default_rng(5).integers(0, 255, (2, detector.config.crop.size, detector.config.crop.size, 3))
    crops = crops.astype(np.uint8)
    expected = getattr(detector.evidence(crops), f"logit_{branch}")
    passes, look = [], FrozenEncoder.look
    monkeypatch.setattr(FrozenEncoder, "look", lambda *args: passes.append(args) or look(*args))
    alone = branch_detector(detector, branch)  # type: ignore[arg-type]
    found = alone.evidence(crops)
    np.testing.assert_allclose(getattr(found, f"logit_{branch}"), expected, rtol=1e-6, atol=1e-6)
    # Fusion of one branch is that branch, but for the rounding of its weight's softplus.
    np.testing.assert_allclose(found.logit, expected, rtol=1e-4)
    assert len(passes) == PASSES[branch] * len(crops)


def test_a_branch_that_is_not_there(detector: Detector) -> None:
    with pytest.raises(KeyError):
        branch_detector(branch_detector(detector, "lowlevel"), "semantic")


def test_costs_are_in_proportion(detector: Detector) -> None:
    lowlevel = branch_detector(detector, "lowlevel")
    # Three stages of two 3x3 convolutions, 16, 32, 48 features at 112, 56 and 28 pixels, and a read-out.
    convolutions = [(3, 16, 112), (16, 16, 112), (16, 32, 56), (32, 32, 56), (32, 48, 28), (48, 48, 28)]
    assert gmac(lowlevel) == pytest.approx(sum(9 * a * b * side**2 for a, b, side in convolutions) / 1e9, rel=1e-3)
    assert relative_time(detector, lowlevel) > 1.5
