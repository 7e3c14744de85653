"""Daft's image pattern with our detector, for benchmarks.throughput. No dependency of radet: pip install daft."""

import os
import time
from pathlib import Path

import daft
import numpy as np

from pipelines.process import tune
from radet import Detector

_BATCH = 32


@daft.cls(use_process=True, max_concurrency=len(os.sched_getaffinity(0)))
class Scorer:
    """One detector in each of Daft's processes."""

    def __init__(self, model: str) -> None:
        tune()
        self._detector = Detector.from_pretrained(model)

    @daft.method.batch(return_dtype=daft.DataType.float32(), batch_size=_BATCH)  # type: ignore[untyped-decorator]
    def drift(self, images: daft.Series) -> daft.Series:
        drift = self._detector.evidence(np.stack(images.to_pylist())).drift_cosine
        assert drift is not None
        return daft.Series.from_numpy(drift)


def points(folder: Path, model: str) -> list[tuple[float, int]]:
    """(time, rows so far) for each batch that comes out."""
    size = Detector.from_pretrained(model).config.crop.size
    scorer = Scorer(model)
    images = daft.from_glob_path(f"{folder}/*").with_column(
        "crop", daft.col("path").download().decode_image(mode="RGB").resize(size, size)
    )
    found, rows = [], 0
    for batch in images.select(scorer.drift(daft.col("crop"))).to_arrow_iter():
        rows += batch.num_rows
        found.append((time.perf_counter(), rows))
    return found
