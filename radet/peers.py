"""Published detectors that are configurations of ours, on the encoder of a checkpoint: what it has to be better than.

None of them is tuned here: they get the settings of their papers and the checkpoint's own encoder and crop, so a table
compares methods, not backbones. Adding one is one entry.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from radet.config import BranchName, ProbeConfig
from radet.detector import Detector


@dataclass(frozen=True, slots=True)
class Peer:
    """A method by its name in tables, where it was published, and its probe."""

    name: str
    source: str
    probe: ProbeConfig


#: Training-free: the cosine drift alone is the score.
DRIFTS = (
    Peer("RIGID", "arXiv 2405.20112, sigma 0.05", ProbeConfig(kind="gaussian", sigma=0.05)),
    Peer("RIGID, 4 draws", "arXiv 2405.20112, sigma 0.05", ProbeConfig(kind="gaussian", sigma=0.05, draws=4)),
    Peer("RIGID, sigma 0.1", "arXiv 2405.20112", ProbeConfig(kind="gaussian", sigma=0.1)),
    Peer("contrastive blur", "arXiv 2411.19117", ProbeConfig(kind="blur")),
    Peer("MINDER", "arXiv 2411.19117", ProbeConfig(kind="minder")),
    Peer("WaRPAD's direction", "Haar detail removed; without its rescaling and patches", ProbeConfig(kind="haar")),
)

LINEAR = "linear probe"
LINEAR_SOURCE = "arXiv 2302.10174 (UniversalFakeDetect), on all blocks"


def drift_detectors(detector: Detector) -> Iterator[tuple[Peer, Detector]]:
    """Each training-free peer, with the encoder of `detector`. Uncalibrated: they give drifts and no probability."""
    for peer in DRIFTS:
        config = replace(
            detector.config,
            name=peer.name,
            description=peer.source,
            probe=peer.probe,
            reference=None,
            heads=None,
            calibration=None,
            thresholds=(),
            verdict=None,
        )
        yield peer, Detector(config, detector.encoder, None, detector.folder)


def branch_detector(detector: Detector, branch: BranchName) -> Detector:
    """One branch of `detector`, with the passes that it needs and no others. Raises KeyError where there is none."""
    heads = detector.config.heads
    if heads is None or branch not in heads.branches:
        raise KeyError(branch)
    drifts = branch == "discrepancy"
    config = replace(
        detector.config,
        name=f"{detector.config.name}: {branch}",
        probe=detector.config.probe if drifts else ProbeConfig(kind="none"),
        reference=detector.config.reference if drifts else None,
        heads=replace(heads, branches=(branch,), scalars=heads.scalars if drifts else 0, attribution=None),
        calibration=None,
        thresholds=(),
        verdict=None,
    )
    alone = Detector(config, detector.encoder, detector.covariance if drifts else None, detector.folder)
    own, whole = alone.own_tensors(), detector.own_tensors()
    with torch.no_grad():
        for name, tensor in own.items():
            if name not in {"heads.weight", "heads.bias"}:  # of one branch there is no fusion
                tensor.copy_(whole[name])
    return alone


def linear_detector(detector: Detector) -> Detector | None:
    """The linear probe that the semantic branch of `detector` is built on, alone: one pass, no drift. None where there
    is no such branch."""
    heads = detector.config.heads
    if heads is None or "semantic" not in heads.branches or detector.heads is None:
        return None
    alone = branch_detector(detector, "semantic")
    alone.config = replace(alone.config, name=LINEAR, description=LINEAR_SOURCE)
    with torch.no_grad():
        for name, tensor in alone.own_tensors().items():
            if ".mlp." in name:
                tensor.zero_()  # it reads out nothing
    return alone
