"""Training pictures by Ray's tasks, which read and augment each worker's micro-batches ahead of it.

Order matters: which pictures make up a step is decided by radet.order alone, so that a run is the same on any number of
workers. That is why a worker asks for its micro-batches by name instead of taking a share of a shuffled stream.

Not by Ray Data: where the consumer is the slower side, its executor polls without a pause. On two cores it took 57 % of
one, and the worker saw 21 pictures a second; 53 with the executor at the lowest priority.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from pipelines.fetch import Fetcher
from pipelines.labelled import Labelled
from pipelines.process import tune
from pipelines.training_plan import TrainingPlan
from radet.errors import FetchError, ImageError
from radet.feed import micro_batch, reference_pictures, training_crop
from radet.images import Pixels
from radet.order import Portion, view_of
from radet.recipe import Recipe
from radet.rows import see
from radet.training import MicroBatch

_TOGETHER = 64  # pictures a task reads: a task costs as much as some ten of them
_AHEAD = 2  # tasks that wait, done, for each that runs

Told = Callable[[dict[str, str]], None]


class RayFeed:
    """A radet.loop.Feed. `told` is called with what could not be read: location -> what is wrong."""

    def __init__(
        self, training: Labelled, validation: Labelled, recipe: Recipe, told: Told, *, plan: TrainingPlan
    ) -> None:
        self._training, self._validation, self._recipe, self._told = training, validation, recipe, told
        self._ahead = plan.loaders * (1 + _AHEAD)
        self._task = ray.remote(num_cpus=plan.loader_cpus)(_load_part)
        self._reference: list[Pixels] | None = None
        self.generated = training.generated
        self.sources = training.sources
        self.validation_generated = validation.generated

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
        """Each part's crops, in order; some parts are read before they are asked for."""
        recipe = ray.put(self._recipe)
        ahead: deque[tuple[list[str], ray.ObjectRef[Any]]] = deque()
        for positions in parts:
            locations = [listed.locations[position] for position in positions]
            ahead.append((locations, self._task.remote(positions, locations, recipe, view)))
            if len(ahead) > self._ahead:
                yield self._taken(*ahead.popleft())
        while ahead:
            yield self._taken(*ahead.popleft())

    def _taken(self, locations: list[str], loading: "ray.ObjectRef[Any]") -> list[Pixels | None]:
        crops, errors = ray.get(loading)
        if errors:
            self._told({locations[index]: error for index, error in errors.items()})
        return [None if index in errors else crop for index, crop in enumerate(crops)]


def _load_part(
    positions: list[int], locations: list[str], recipe: Recipe, view: int | None
) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """Crops [P, size, size, 3] of P pictures, augmented where `view` is given; and by place among them, what is wrong
    with those that could not be read, whose crops are black."""
    tune()
    fetcher = Fetcher(allow_http=False)
    size = recipe.crop.size
    crops = np.zeros((len(positions), size, size, 3), np.uint8)
    errors: dict[int, str] = {}
    for index, (position, location) in enumerate(zip(positions, locations, strict=True)):
        try:
            data = fetcher.read(location)
            if view is not None:
                crops[index] = training_crop(data, position, view, recipe)
                continue
        except (FetchError, ImageError) as error:
            errors[index] = str(error)
            continue
        seen = see(data, recipe.crop)
        if seen.crop is None:
            errors[index] = str(seen.facts["error"])
        else:
            crops[index] = seen.crop
    return crops, errors


def _parts(positions: list[int]) -> Iterator[list[int]]:
    return (positions[start : start + _TOGETHER] for start in range(0, len(positions), _TOGETHER))
