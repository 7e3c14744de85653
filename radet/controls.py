"""Is it the probe?  A learned probe that looks at the picture can classify by itself and write its verdict into how
strongly it perturbs; the drift then echoes the verdict (METHOD section 4.1). Four controls take that channel away.

    learned     delta as the probe makes it
    random      seeded noise of the same norm as each picture's delta: is it the direction, or only the strength?
    equalised   each delta scaled to the median norm: is it anything but the strength?
    swapped     the delta made for another picture of the batch: is it this picture's reaction?
    norm        no encoder at all: the norm of delta as the score

What AUROC survives each says where the detector's discrepancy evidence comes from. B batch, N pictures
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radet.detector import Detector
from radet.encoders import Look
from radet.errors import ConfigError
from radet.images import Pixels
from radet.metrics import auroc
from radet.passes import batches
from radet.probes import LearnedProbe, seeded_noise

_BATCH = 32


class Control(NamedTuple):
    """AUROC of what the detector says under one control; nan where it says nothing."""

    drift: float  # cosine drift alone as the score, larger meaning generated
    discrepancy: float  # the discrepancy branch's logit
    fused: float  # the detector's logit


@torch.inference_mode()
def run_controls(
    detector: Detector, crops: Iterable[Pixels], generated_N: NDArray[np.bool_], *, seed: int = 0
) -> dict[str, Control]:
    """AUROC by control, over labelled crops uint8 [size, size, 3] in an order that mixes the classes.

    Cost: five encoder passes a picture. Raises ConfigError for a detector without a learned probe.
    """
    if not isinstance(detector.probe, LearnedProbe):
        raise ConfigError(
            f"controls are about a learned probe; {detector.config.name} has {detector.config.probe.kind}"
        )
    detector.eval()
    stacked = np.stack(list(crops))
    norm_N = torch.cat([_norm(delta_BCHW)[:, 0, 0, 0] for _, _, delta_BCHW in _probed(detector, stacked)])
    median = norm_N.median()
    found: dict[str, list[NDArray[np.float64]]] = {}
    for number, (x_BCHW, clean, delta_BCHW) in enumerate(_probed(detector, stacked)):
        noise = torch.from_numpy(seeded_noise(seed + number, tuple(delta_BCHW.shape))).to(delta_BCHW.device)
        scale = _norm(delta_BCHW)
        deltas = {
            "learned": delta_BCHW,
            "random": noise / _norm(noise) * scale,
            "equalised": delta_BCHW / scale.clamp_min(1e-12) * median,
            "swapped": delta_BCHW.roll(1, dims=0),
        }
        for name, delta in deltas.items():
            outcome = detector(x_BCHW, clean=clean, views=[(x_BCHW + delta).clamp(0, 1)])
            columns = [outcome.drift.cosine, outcome.branches.get("discrepancy"), outcome.fused]
            rows = [np.full(len(x_BCHW), np.nan) if c is None else c.double().cpu().numpy() for c in columns]
            found.setdefault(name, []).append(np.stack(rows))
    controls = {
        name: Control(*(auroc(column, generated_N) for column in np.concatenate(parts, axis=1)))
        for name, parts in found.items()
    }
    controls["norm"] = Control(auroc(norm_N.cpu().numpy(), generated_N), float("nan"), float("nan"))
    return controls


def _probed(detector: Detector, stacked: NDArray[np.uint8]) -> Iterator[tuple[Tensor, Look, Tensor]]:
    """Batch by batch: the pixels, the clean pass, and the perturbation that the probe makes of them, [B, 3, H, W]."""
    assert isinstance(detector.probe, LearnedProbe)
    for _, x_BCHW in batches(detector, stacked, _BATCH):
        clean = detector.encoder.look(x_BCHW, detector.layers)
        yield x_BCHW, clean, detector.probe.perturbation(x_BCHW, clean.z)


def _norm(delta_BCHW: Tensor) -> Tensor:
    """Root mean square over each picture, [B, 1, 1, 1]."""
    return delta_BCHW.square().mean((1, 2, 3), keepdim=True).sqrt()
