"""The clean passes of augmented views that come again, on local disk: a frozen encoder sees a view as it saw it before.

Half of a training step's encoder work, for a file of pictures x views x width numbers. Each rank keeps its own.

N pictures, B batch
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from radet.encoders import Look

Indices = NDArray[np.int64]


class CleanCache:
    """Clean passes by (position of the picture, view), fp32: what comes back is what was put in."""

    def __init__(self, folder: Path, *, pictures: int, views: int, widths: tuple[int, ...]) -> None:
        """`widths`: of the embedding, then of each layer's token. `folder` is this process's own, on local disk."""
        folder.mkdir(parents=True, exist_ok=True)
        self._widths = widths
        self._values = _open(folder / "values.f4", (pictures, views, sum(widths)), np.dtype(np.float32))
        self._known = _open(folder / "known.u1", (pictures, views), np.dtype(np.uint8))

    def get(self, pictures: Indices, view: int, device: torch.device) -> Look | None:
        """The pass over these B pictures, or None where one of them is not known yet."""
        if not self._known[pictures, view].all():
            return None
        rows = torch.from_numpy(np.ascontiguousarray(self._values[pictures, view])).to(device)
        z_BD, *tokens = torch.split(rows, list(self._widths), dim=1)
        return Look(z_BD.contiguous(), tuple(token.contiguous() for token in tokens))

    def put(self, pictures: Indices, view: int, look: Look) -> None:
        """Keep a pass."""
        self._values[pictures, view] = look.features.cpu().numpy()
        self._known[pictures, view] = 1


def _open(file: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> np.memmap[tuple[int, ...], np.dtype]:
    """A new file as an array of zeros, sparse until it is written to."""
    return np.memmap(file, dtype, "w+", shape=shape)
