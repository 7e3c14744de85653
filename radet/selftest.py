"""Numeric self-test: does this machine compute what the checkpoint's maker computed?

1. golden   pictures made of integer arithmetic, hence the same everywhere, score as golden.json says
2. floor    the drift of an unperturbed picture (delta = 0), embedded alone and in batches: it should be 0, and it is
            rounding. Above 1 % of the median real drift, this precision is no use for this checkpoint

B batch, H W pixels
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from radet.config import Precision
from radet.detector import CUDA_BATCH, Detector, to_pixels
from radet.discrepancy import cosine_drift
from radet.errors import ModelError
from radet.evidence import Evidence

#: Largest drift floor, as a share of the median drift of real pictures.
MAX_FLOOR = 0.01

#: Largest difference from golden.json, which holds fp32 values: relative for drifts, absolute for logits and
#: probabilities. bf16 is another arithmetic: on photographs a training-free radet-lite's logit was off by 0.04 in the
#: median and by 0.25 at most.
MAX_GOLDEN_ERROR: dict[Precision, float] = {"fp32": 1e-3, "bf16": 0.5}


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """What was measured. `golden_error` as in MAX_GOLDEN_ERROR; `floor` is a cosine drift, `floor_share` its share of
    the median real drift (0 where the checkpoint has no reference)."""

    model_id: str
    precision: Precision
    device: str
    golden_error: float
    floor: float
    floor_share: float


def selftest(detector: Detector, *, batches: tuple[int, ...] | None = None) -> SelfTest:
    """Run both checks in the detector's own precision, on its own device.

    `batches` are the sizes for the floor: 7 and 64 unless given, on a GPU also what passes together there.
    Cost: about 4 + 4 V + sum(batches) encoder passes, V being the probe's views.
    Raises ModelError: "numeric_selftest_failed"; "weights_missing" where the checkpoint has no golden.json, and
    "weights_mismatch" where that cannot be read.
    """
    config = detector.config
    if batches is None:
        batches = (7, 64) if detector.device.type == "cpu" else (7, 64, CUDA_BATCH)
    error = require_golden(detector)
    floor = drift_floor(detector, batches)
    share = 0.0 if config.reference is None else floor / config.reference.median_drift
    if not share <= MAX_FLOOR:  # nor where it is no number
        raise ModelError(
            "numeric_selftest_failed",
            f"{config.name} in {config.precision}: rounding alone drifts {share:.1%} of what real pictures do, more "
            f"than {MAX_FLOOR:.0%}: use precision fp32",
        )
    return SelfTest(
        model_id=detector.model_id,
        precision=config.precision,
        device=str(detector.device),
        golden_error=error,
        floor=floor,
        floor_share=share,
    )


def require_golden(detector: Detector) -> float:
    """How far its scores are from golden.json, as in MAX_GOLDEN_ERROR. Raises ModelError as `selftest`."""
    config, error = detector.config, _golden_error(detector)
    if not error <= MAX_GOLDEN_ERROR[config.precision]:  # nor where it is no number
        raise ModelError(
            "numeric_selftest_failed",
            f"{config.name} in {config.precision} is {error:.2g} away from its golden scores, more than "
            f"{MAX_GOLDEN_ERROR[config.precision]:g}: its tensors or this machine's arithmetic differ",
        )
    return error


def drift_floor(detector: Detector, batches: tuple[int, ...] = (7, 64)) -> float:
    """The largest cosine drift between embeddings of one unperturbed picture, alone and at every place of a batch.

    Measured on the encoder itself, so it also bounds what batching could do where the detector does not batch.
    """
    x_BCHW = to_pixels(torch.from_numpy(pictures(detector.config.crop.size)).to(detector.device))
    with torch.inference_mode():
        alone_BD = torch.cat([detector.encoder.embed(x_1CHW) for x_1CHW in x_BCHW[:, None]]).double()
        floors = [0.0]
        for size in batches:
            index = torch.arange(size, device=detector.device) % len(x_BCHW)
            z_BD = detector.encoder.embed(x_BCHW[index]).double()
            floors.append(float(cosine_drift(z_BD, alone_BD[index]).max()))
    return float(np.max(floors))  # unlike max(), it keeps what is no number


def write_golden(detector: Detector, folder: Path) -> None:
    """Write golden.json: the evidence on `pictures()`. The detector is fp32 on a CPU."""
    assert detector.config.precision == "fp32"
    found = _columns(detector.evidence(pictures(detector.config.crop.size)))
    golden = {name: [float(value) for value in column] for name, column in found.items()}
    (folder / "golden.json").write_text(json.dumps(golden, indent=2) + "\n", encoding="utf-8")


def pictures(size: int) -> NDArray[np.uint8]:
    """Four pictures, uint8 [4, size, size, 3]: colour ramps, XOR weave, soft blobs, per-pixel noise. Integers only."""
    y_HW, x_HW = np.mgrid[:size, :size]
    ramps = [x_HW * 255 // size, y_HW * 255 // size, (x_HW + y_HW) * 255 // (2 * size)]
    weave = [x_HW ^ y_HW, (3 * x_HW) ^ (5 * y_HW), (x_HW * y_HW) >> 5]
    blobs = [_blobs(x_HW, y_HW, channel) for channel in range(3)]
    noise = [_hash(x_HW, y_HW, channel) for channel in range(3)]
    stacked = np.stack([np.stack(planes, axis=-1) for planes in (ramps, weave, blobs, noise)])
    return (stacked & 255).astype(np.uint8)


def _hash(x: NDArray[np.int64], y: NDArray[np.int64], channel: int) -> NDArray[np.int64]:
    """A byte that looks random, of integer coordinates."""
    mixed = (x * 73856093) ^ (y * 19349663) ^ ((channel + 1) * 83492791)
    mixed = (mixed ^ (mixed >> 13)) & 0xFFFFFFFF
    byte: NDArray[np.int64] = (mixed * 1274126177 >> 16) & 255
    return byte


def _blobs(x: NDArray[np.int64], y: NDArray[np.int64], channel: int) -> NDArray[np.int64]:
    """Value noise: random bytes on a lattice of 32 pixels, linear between."""
    i, j, a, b = x >> 5, y >> 5, x & 31, y & 31
    top = _hash(i, j, channel) * (32 - a) + _hash(i + 1, j, channel) * a
    bottom = _hash(i, j + 1, channel) * (32 - a) + _hash(i + 1, j + 1, channel) * a
    level: NDArray[np.int64] = (top * (32 - b) + bottom * b) >> 10
    return level


def _golden_error(detector: Detector) -> float:
    file = detector.folder / "golden.json"
    golden = _read_golden(file)
    found = _columns(detector.evidence(pictures(detector.config.crop.size)))
    if {name: column.shape for name, column in found.items()} != {
        name: column.shape for name, column in golden.items()
    }:
        raise ModelError("numeric_selftest_failed", f"{file} is of another kind of checkpoint: {sorted(golden)}")
    errors = [0.0]
    for name, column in found.items():
        expected = golden[name]
        scale = np.ones_like(expected) if name.startswith(("logit", "p_")) else np.abs(expected)
        errors.append(float((np.abs(column - expected) / scale).max()))
    return float(np.max(errors))  # unlike max(), it keeps what is no number


def _read_golden(file: Path) -> dict[str, NDArray[np.float64]]:
    try:
        columns = json.loads(file.read_text(encoding="utf-8"))
        return {name: np.array(column, np.float64) for name, column in columns.items()}
    except FileNotFoundError:
        raise ModelError(
            "weights_missing", f"{file} does not exist: write it with radet.selftest.write_golden"
        ) from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError("weights_mismatch", f"{file} cannot be read as golden scores: {error}") from None


def _columns(evidence: Evidence) -> dict[str, NDArray[np.float32]]:
    found = {field.name: getattr(evidence, field.name) for field in fields(evidence)}
    return {name: column for name, column in found.items() if isinstance(column, np.ndarray)}
