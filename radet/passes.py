"""The passes that an analysis needs: what the encoder sees of pictures, as they are and perturbed in many ways.

B batch, C=3 channels, H W pixels, N pictures, D_l width of a layer's token, L layers (every block, then the embedding)
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radet.config import ProbeConfig
from radet.detector import Detector, to_pixels
from radet.discrepancy import cosine_drift
from radet.encoders import Look
from radet.probes import GaussianProbe, Group, LearnedProbe

Floats = NDArray[np.float64]
Features = list[NDArray[np.float32]]  # [N, D_l] by layer
Views = Callable[[Tensor, Tensor], list[Tensor]]

#: Called with a stage's name, the pictures (or comparisons) it has done, and how many there are.
Told = Callable[[str, int, int], None]

SIGMAS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
EPSILONS = tuple(step / 255 for step in (1, 2, 4, 8, 16, 32, 64))

_BATCH = 32


class Seen(NamedTuple):
    """What the passes gave of N pictures."""

    features: Features
    moved: dict[str, tuple[Floats, Floats]]  # cosine and relative L2 drift, [N, L], by perturbation
    swept: dict[tuple[str, float], Floats]  # cosine drift [N] by perturbation and strength


def probes_of(detector: Detector) -> dict[str, tuple[Views, tuple[Group, ...]]]:
    """The checkpoint's own probe first, and Gaussian noise, which needs no training."""
    probe, size = detector.probe, detector.config.crop.size
    noise = GaussianProbe(ProbeConfig(kind="gaussian"), size).to(detector.device)
    found: dict[str, tuple[Views, tuple[Group, ...]]] = {}
    if probe.groups:
        found[detector.config.probe.kind] = (probe.views, probe.groups)
    return {**found, "gaussian": found.get("gaussian", (noise.views, noise.groups))}


@torch.inference_mode()
def see(
    detector: Detector, stacked: NDArray[np.uint8], probes: dict[str, tuple[Views, tuple[Group, ...]]], told: Told
) -> Seen:
    """Every pass that layers, sweep and divergences need, batch by batch."""
    every = tuple(range(len(detector.encoder.blocks)))
    features: list[Features] = []
    moved: dict[str, list[tuple[Floats, Floats]]] = {}
    swept: dict[tuple[str, float], list[Floats]] = {}
    size = detector.config.crop.size
    noises = [
        (sigma, GaussianProbe(ProbeConfig(kind="gaussian", sigma=sigma), size).to(detector.device)) for sigma in SIGMAS
    ]
    for done, x_BCHW in batches(detector, stacked, _BATCH):
        clean = detector.encoder.look(x_BCHW, every)
        features.append(_arrays(clean))
        for name, (views, groups) in probes.items():
            looks = [clean, *(detector.encoder.look(view, every) for view in views(x_BCHW, clean.z))]
            moved.setdefault(name, []).append(_moved(looks, groups))
        for sigma, noise in noises:
            (view,) = noise.views(x_BCHW, clean.z)
            swept.setdefault(("gaussian", sigma), []).append(_embedding_drift(detector, clean, view))
        if isinstance(detector.probe, LearnedProbe):
            for eps in EPSILONS:
                (view,) = detector.probe.views(x_BCHW, clean.z, eps)
                swept.setdefault(("drp", eps), []).append(_embedding_drift(detector, clean, view))
        told("layers and sweep", done, len(stacked))
    return Seen(
        [np.concatenate(parts) for parts in zip(*features, strict=True)],
        {
            name: (np.concatenate([cosine for cosine, _ in parts]), np.concatenate([relative for _, relative in parts]))
            for name, parts in moved.items()
        },
        {key: np.concatenate(parts) for key, parts in swept.items()},
    )


def batches(detector: Detector, stacked: NDArray[np.uint8], size: int) -> Iterator[tuple[int, Tensor]]:
    """How many pictures are done after this batch, and the batch."""
    for start in range(0, len(stacked), size):
        part = stacked[start : start + size]
        yield start + len(part), to_pixels(torch.from_numpy(part).to(detector.device))


def _embedding_drift(detector: Detector, clean: Look, view: Tensor) -> Floats:
    drift: Floats = cosine_drift(clean.z.double(), detector.encoder.embed(view).double()).cpu().numpy()
    return drift


def _moved(looks: Sequence[Look], groups: tuple[Group, ...]) -> tuple[Floats, Floats]:
    """Cosine and relative L2 drift of every layer, [B, L]: means over the pairs of the group whose embedding drifts
    least, which is the drift that Detector reports."""
    tokens = [[token.double() for token in (*look.tokens, look.z)] for look in looks]
    cosines, relatives = [], []
    for group in groups:
        pairs = [(tokens[i], tokens[j]) for i, j in group]
        cosines.append(torch.stack([_columns(cosine_drift, a, b) for a, b in pairs]).mean(0))
        relatives.append(torch.stack([_columns(_relative, a, b) for a, b in pairs]).mean(0))
    cosine_GBL, relative_GBL = torch.stack(cosines), torch.stack(relatives)
    least_B = cosine_GBL[:, :, -1].argmin(0)
    rows = torch.arange(len(least_B), device=least_B.device)
    return cosine_GBL[least_B, rows].cpu().numpy(), relative_GBL[least_B, rows].cpu().numpy()


def _columns(drift: Callable[[Tensor, Tensor], Tensor], a: list[Tensor], b: list[Tensor]) -> Tensor:
    return torch.stack([drift(p_BD, q_BD) for p_BD, q_BD in zip(a, b, strict=True)], dim=1)


def _relative(a_BD: Tensor, b_BD: Tensor) -> Tensor:
    relative_B: Tensor = (b_BD - a_BD).norm(dim=-1) / a_BD.norm(dim=-1).clamp_min(1e-12)
    return relative_B


def _arrays(look: Look) -> Features:
    return [token.cpu().numpy() for token in (*look.tokens, look.z)]


@torch.inference_mode()
def clean_features(detector: Detector, stacked: NDArray[np.uint8], told: Told) -> Features:
    """Every layer's tokens of unperturbed crops."""
    every = tuple(range(len(detector.encoder.blocks)))
    parts = []
    for done, x_BCHW in batches(detector, stacked, _BATCH):
        parts.append(_arrays(detector.encoder.look(x_BCHW, every)))
        told("reference", done, len(stacked))
    return [np.concatenate(columns) for columns in zip(*parts, strict=True)]
