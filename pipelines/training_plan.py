"""How a training shares out cores: to workers, and to the tasks that read for them."""

import math
from dataclasses import dataclass

from pipelines.process import fill_cores

_OF_A_WORKER = 0.75  # of its share of the cores, where it computes on them; the rest reads


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What each worker has. `..._cpus` are Ray's accounting: they say how many of either run at once."""

    threads: int  # of torch, on a CPU
    worker_cpus: float
    loaders: int  # tasks that read for it at once, each a process of 0.7 GB that takes seconds to start
    loader_cpus: float
    bound: bool  # each worker keeps to a core

    @classmethod
    def of(cls, cpus: float, *, nodes: int, workers: int, gpus: bool, alone: bool) -> "TrainingPlan":
        """For so many workers, one GPU each with `gpus`, on a cluster of so many cores and nodes. `alone`: it is this
        machine, and nobody else counts on its cores."""
        share = cpus / max(nodes, workers)
        threads = max(1, int(share))
        worker_cpus = min(1.0 if gpus else share, _OF_A_WORKER * share)
        left = (share - worker_cpus) / threads
        return cls(
            threads=threads,
            worker_cpus=worker_cpus,
            loaders=threads,
            loader_cpus=min(1.0, math.floor(left * 1e4) / 1e4),  # Ray counts in ten thousandths
            bound=alone and not gpus and fill_cores(workers),
        )
