"""Who gets what of a cluster."""

import math
from dataclasses import dataclass, replace

from pipelines.coordinator import Progress
from radet.crop import CropPolicy

_AHEAD_OF_SCORER = 16  # batches
_AHEAD_OF_LOADER = 4  # Ray counts two that a task has begun to write, of about half of what all stages may hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Who gets what of the cluster."""

    scorers: int
    scorer_cpus: float
    scorer_gpus: float
    loader_cpus: float
    loaders: int  # that fit beside the scorers
    block: int  # inputs per batch: what a crash can cost a worker, and what Ray has to handle at once
    batch: int  # crops that the detector is given at once

    def cut_to(self, progress: Progress) -> "Plan":
        """No more scorers than there are batches, where the listing has ended and told how many: each takes seconds."""
        inputs = progress.counts.new + progress.ahead
        if progress.listing or not inputs:
            return self
        return replace(self, scorers=min(self.scorers, math.ceil(inputs / self.block)))

    def store_bytes(self, crop: CropPolicy) -> int:
        """What the object store may hold of a run: enough that no scorer waits and every loader may write its batches.

        Without a limit loaders run ahead until a share of the store is full: of small crops that are hundreds of
        batches, which have to be fetched again when the driver is killed.
        """
        batches = _AHEAD_OF_SCORER * self.scorers + _AHEAD_OF_LOADER * self.loaders
        return batches * self.block * crop.size**2 * 3

    @property
    def device(self) -> str:
        return "cuda" if self.scorer_gpus else "cpu"

    @classmethod
    def of(cls, resources: dict[str, float], workers: int | None) -> "Plan":
        """One scorer per GPU, which leaves the CPUs to the loaders; without GPUs one per core.

        A scorer computes on one core, however few there are: threads that wait for each other stand still as soon as
        something else wants a core (thirty times slower was measured). On CPUs half of Ray's accounting goes to each
        stage: both may run as many processes as there are cores, and the operating system gives the cores to whichever
        has work.
        """
        cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
        if gpus:
            scorers = workers or gpus
            scorer_cpus = min(0.5, 0.5 * cpus / scorers)
            left = cpus - scorers * scorer_cpus
            return cls(
                scorers=scorers,
                scorer_cpus=scorer_cpus,
                scorer_gpus=min(1.0, gpus / scorers),
                loader_cpus=min(1.0, left),
                loaders=max(1, int(left)),
                block=256,
                batch=256,
            )
        scorers = workers or max(1, cpus)
        return cls(
            scorers=scorers,
            scorer_cpus=0.5 * min(1.0, max(1, cpus) / scorers),
            scorer_gpus=0.0,
            loader_cpus=0.45,
            loaders=max(1, cpus),
            block=64,
            batch=32,
        )
