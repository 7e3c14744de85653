"""Training pictures from local files, without Ray: for one machine with one GPU, and for tests.

pipelines.train feeds the same crops, made by the same `training_crop`, from any source, on a cluster.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from radet.augment import augment
from radet.errors import ConfigError, ImageError
from radet.images import Pixels, decode_pixels
from radet.labels import label_of
from radet.order import Portion, view_of
from radet.recipe import Recipe
from radet.rows import read_row
from radet.training import MicroBatch

_AHEAD = 4  # steps that are read before they are asked for
_THREADS = 2


class LabelledFile(NamedTuple):
    """A picture of a tree."""

    path: Path
    generated: bool
    source: str


def list_tree(root: str | Path) -> list[LabelledFile]:
    """Every file below a labelled folder, sorted by path. Raises ConfigError where there is none."""
    found = []
    for path in sorted(Path(root).rglob("*")):
        label = label_of(path.relative_to(root).as_posix())
        if label is not None and path.is_file():
            found.append(LabelledFile(path, *label))
    if not found:
        raise ConfigError(
            f"{root} has no labelled folders: put pictures into <generator>/0_real and <generator>/1_fake"
        )
    return found


def training_crop(data: bytes, position: int, view: int, recipe: Recipe) -> Pixels:
    """The augmented crop of a picture: a function of its bytes, its position in the listing, the view and the recipe.

    Raises ImageError for bytes that are no picture.
    """
    rng = np.random.default_rng([recipe.seed, position, view])
    return augment(decode_pixels(data), recipe.crop, recipe.augment, rng)


class LocalFeed:
    """A radet.loop.Feed of files. What cannot be read is skipped and named in `broken`."""

    def __init__(self, training: Sequence[LabelledFile], validation: Sequence[LabelledFile], recipe: Recipe) -> None:
        self._training, self._validation, self._recipe = training, validation, recipe
        self.broken: dict[str, str] = {}  # path -> what is wrong
        self.generated = np.array([file.generated for file in training], bool)
        self.sources = [file.source for file in training]
        self.validation_generated = np.array([file.generated for file in validation], bool)

    def batches(self, epoch: int, steps: Iterable[list[Portion]]) -> Iterator[list[MicroBatch]]:
        """As radet.loop.Feed."""
        view = view_of(epoch, self._recipe.views)

        def load(position: int) -> Pixels | None:
            path = self._training[position].path
            try:
                return training_crop(path.read_bytes(), position, view, self._recipe)
            except (ImageError, OSError) as error:
                self.broken[str(path)] = str(error)
                return None

        with ThreadPoolExecutor(_THREADS) as pool:
            waiting: deque[list[tuple[Portion, list[Future[Pixels | None]]]]] = deque()
            for portions in steps:
                waiting.append([(p, [pool.submit(load, int(position)) for position in p.pictures]) for p in portions])
                if len(waiting) > _AHEAD:
                    yield self._ready(waiting.popleft())
            while waiting:
                yield self._ready(waiting.popleft())

    def _ready(self, loading: list[tuple[Portion, list[Future[Pixels | None]]]]) -> list[MicroBatch]:
        return [
            micro_batch(portion, [crop.result() for crop in crops], self.generated[portion.pictures])
            for portion, crops in loading
        ]

    def reference(self) -> Iterator[Pixels]:
        """As radet.loop.Feed."""
        chosen = reference_pictures(self.generated, self._recipe)
        return (crop for crop in self._crops(self._training, chosen) if crop is not None)

    def validation(self, share: Sequence[int]) -> Iterator[Pixels | None]:
        """As radet.loop.Feed."""
        return self._crops(self._validation, share)

    def _crops(self, files: Sequence[LabelledFile], positions: Iterable[int]) -> Iterator[Pixels | None]:
        for position in positions:
            row = read_row(files[position].path, position, self._recipe.crop)
            if row.crop is None:
                self.broken[str(files[position].path)] = str(row.facts["error"])
            yield row.crop


def micro_batch(portion: Portion, crops: Sequence[Pixels | None], generated: NDArray[np.bool_]) -> MicroBatch:
    """The portion with those of its pictures that could be read; it may be empty."""
    there = np.array([crop is not None for crop in crops], bool)
    pixels = np.stack([c for c in crops if c is not None]) if there.any() else np.empty((0, 1, 1, 3), np.uint8)
    label = torch.from_numpy(generated[there].astype(np.float32))
    return MicroBatch(portion.number, torch.from_numpy(pixels), label, portion.pictures[there])


def reference_pictures(generated: NDArray[np.bool_], recipe: Recipe) -> list[int]:
    """Positions of the real training pictures that drift statistics are measured on."""
    real = np.flatnonzero(~generated)
    chosen = np.random.default_rng(recipe.seed).permutation(real)[: recipe.reference_images]
    return sorted(int(position) for position in chosen)
