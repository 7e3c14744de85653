"""The cheapest honest corpus and detector, for questions about the pipeline and not about the encoder: small JPEGs, all
different, and a one-block DINOv2 of random weights at 56 pixels."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from radet.config import ProbeConfig
from radet.crop import CropPolicy
from radet.encoders import describe
from radet.fit import fit_reference

_HIGH, _WIDE = 48, 64
_FILE, _GROUP = 20_000, 1_000  # rows of a Parquet file and of its row groups


def write_checkpoint(folder: Path) -> None:
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    tower = Dinov2Model(Dinov2Config(**size))
    tower.save_pretrained(folder / "tower")
    half = (0.5, 0.5, 0.5)
    encoder = describe("transformers", "dinov2", str(folder / "tower"), mean=half, std=half, size=56)
    pictures = np.random.default_rng(1).integers(0, 256, (16, 56, 56, 3), dtype=np.uint8)
    fit_reference(
        encoder,
        ProbeConfig(kind="gaussian"),
        iter(pictures),
        name="tiny",
        description="random weights",
        source="noise",
        crop=CropPolicy(resize=56, size=56),
    ).save_pretrained(folder)


def pictures(count: int) -> Iterator[bytes]:
    """JPEGs of 64x48, no two alike: windows of one smooth noise."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(noise).resize((1200, 1200), Image.Resampling.BICUBIC))
    down, across = 1200 - _HIGH, 1200 - _WIDE
    if count > down * across:
        raise ValueError(f"at most {down * across} different pictures")
    for number in range(count):
        top, left = divmod(number, across)
        window = np.ascontiguousarray(smooth[top : top + _HIGH, left : left + _WIDE])
        yield simplejpeg.encode_jpeg(window, quality=80)


def write_files(folder: Path, count: int) -> None:
    """One JPEG a file, some hundreds in a folder, below two labels that mean nothing."""
    for number, data in enumerate(pictures(count)):
        target = folder / "noise" / ("0_real", "1_fake")[number % 2] / f"{number // 1000:04d}"
        target.mkdir(parents=True, exist_ok=True)
        (target / f"{number:07d}.jpg").write_bytes(data)


def write_parquet(folder: Path, count: int) -> None:
    """Columns `id` and `image`."""
    folder.mkdir(parents=True, exist_ok=True)
    source = pictures(count)
    for first in range(0, count, _FILE):
        rows = min(_FILE, count - first)
        table = pa.table(
            {"id": [f"{first + i:07d}" for i in range(rows)], "image": [next(source) for _ in range(rows)]},
            schema=pa.schema({"id": pa.string(), "image": pa.binary()}),
        )
        pq.write_table(table, folder / f"{first // _FILE:04d}.parquet", row_group_size=_GROUP, compression="none")
