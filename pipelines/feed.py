"""Training pictures through Ray Data: each worker streams its own micro-batches, in order, read and augmented by tasks.

Order matters: which pictures make up a step is decided by radet.order alone, so that a run is the same on any number of
workers. That is why a worker asks for its micro-batches by name instead of taking a share of a shuffled stream.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from pipelines.fetch import Fetcher
from pipelines.labelled import Labelled
from pipelines.process import tune
from radet.errors import FetchError, ImageError
from radet.feed import micro_batch, reference_pictures, training_crop
from radet.images import Pixels
from radet.order import Portion, view_of
from radet.recipe import Recipe
from radet.rows import see
from radet.training import MicroBatch

_TOGETHER = 64  # pictures a task reads: a task costs as much as some ten of them
LOADER_CPUS = 0.1  # in Ray's accounting: training workers leave that much
_PREFETCH = 4  # tasks' results ready before they are asked for

Told = Callable[[dict[str, str]], None]


class RayFeed:
    """A radet.loop.Feed. `told` is called with what could not be read: location -> what is wrong."""

    def __init__(
        self, training: Labelled, validation: Labelled, recipe: Recipe, told: Told, *, loaders: int = 2
    ) -> None:
        """`loaders`: tasks that read for this worker at once, each a process that takes seconds to start."""
        self._training, self._validation, self._recipe, self._told = training, validation, recipe, told
        self._loaders = loaders
        self._reference: list[Pixels] | None = None
        self.generated = training.generated
        self.sources = training.sources
        self.validation_generated = validation.generated
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False

    def batches(self, epoch: int, steps: Iterable[list[Portion]]) -> Iterator[list[MicroBatch]]:
        """As radet.loop.Feed."""
        view = view_of(epoch, self._recipe.views)
        planned = list(steps)
        wanted = [position for portions in planned for portion in portions for position in portion.pictures.tolist()]
        crops = (crop for part in self._load(_parts(wanted), self._training, view) for crop in part)
        for portions in planned:
            yield [
                micro_batch(portion, list(islice(crops, len(portion.pictures))), self.generated[portion.pictures])
                for portion in portions
            ]

    def reference(self) -> Iterator[Pixels]:
        """As radet.loop.Feed. Read once: every epoch asks again, and some hundreds of crops are small."""
        if self._reference is None:
            chosen = _parts(reference_pictures(self.generated, self._recipe))
            loaded = self._load(chosen, self._training, None)
            self._reference = [crop for crops in loaded for crop in crops if crop is not None]
        return iter(self._reference)

    def validation(self, share: Sequence[int]) -> Iterator[Pixels | None]:
        """As radet.loop.Feed."""
        for crops in self._load(_parts(list(share)), self._validation, None):
            yield from crops

    def _load(self, parts: Iterable[list[int]], listed: Labelled, view: int | None) -> Iterator[list[Pixels | None]]:
        rows = [{"positions": part, "locations": [listed.locations[position] for position in part]} for part in parts]
        if not rows:
            return
        recipe, size = self._recipe, self._recipe.crop.size

        def load(table: pa.Table) -> pa.Table:
            return _load_part(table, recipe, view)

        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            load,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=LOADER_CPUS,
            compute=ray.data.TaskPoolStrategy(size=self._loaders),
            zero_copy_batch=True,
        )
        for row in _rows(dataset):
            crops: list[Pixels | None] = [
                None if crop is None else np.frombuffer(crop, np.uint8).reshape(size, size, 3) for crop in row["crops"]
            ]
            found = {location: error for location, error in zip(row["locations"], row["errors"], strict=True) if error}
            if found:
                self._told(found)
            yield crops


def _rows(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    (whole,) = dataset.streaming_split(1)  # Ray Data's scheduling in a process of its own, not in the training's
    for batch in whole.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=_PREFETCH):
        yield from batch.to_pylist()


def _load_part(table: pa.Table, recipe: Recipe, view: int | None) -> pa.Table:
    """One part of pictures, augmented where `view` is given: crops as bytes, null with an error where one is broken."""
    tune(threads=1)
    fetcher = Fetcher(allow_http=False)
    (row,) = table.to_pylist()
    crops: list[bytes | None] = []
    errors: list[str | None] = []
    for position, location in zip(row["positions"], row["locations"], strict=True):
        crop, error = _load_one(fetcher, location, position, recipe, view)
        crops.append(crop)
        errors.append(error)
    return pa.table({"locations": [row["locations"]], "crops": [crops], "errors": [errors]}, schema=_PART)


def _load_one(
    fetcher: Fetcher, location: str, position: int, recipe: Recipe, view: int | None
) -> tuple[bytes | None, str | None]:
    try:
        data = fetcher.read(location)
        if view is not None:
            return training_crop(data, position, view, recipe).tobytes(), None
    except (FetchError, ImageError) as error:
        return None, str(error)
    seen = see(data, recipe.crop)
    return (None, str(seen.facts["error"])) if seen.crop is None else (seen.crop.tobytes(), None)


_PART = pa.schema(
    [
        ("locations", pa.list_(pa.string())),
        ("crops", pa.list_(pa.large_binary())),
        ("errors", pa.list_(pa.string())),
    ]
)


def _parts(positions: list[int]) -> Iterator[list[int]]:
    return (positions[start : start + _TOGETHER] for start in range(0, len(positions), _TOGETHER))
