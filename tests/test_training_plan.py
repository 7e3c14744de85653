"""How a training shares out cores, and what keeps a process to one of them."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from pipelines.train import TrainJob, _scaling
from pipelines.training_plan import TrainingPlan
from radet.errors import ConfigError
from radet.recipe import Recipe

from .conftest import ROOT

LINUX = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux keeps a process to a core")


def plan(cpus: float, workers: int, *, nodes: int = 1, gpus: bool = False, alone: bool = True) -> TrainingPlan:
    return TrainingPlan.of(cpus, nodes=nodes, workers=workers, gpus=gpus, alone=alone)


@pytest.mark.parametrize("gpus", [False, True])
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("cpus", [1, 2, 3, 8, 16, 96])
def test_loaders_fill_what_workers_leave_and_no_more(cpus: int, workers: int, gpus: bool) -> None:
    found = plan(cpus, workers, gpus=gpus)
    loaders = workers * found.loaders
    left = cpus - workers * found.worker_cpus
    assert left > 0
    assert loaders * found.loader_cpus <= left
    fit = int(left / found.loader_cpus)
    assert fit == loaders or found.loader_cpus == 1.0, "others would start, 0.7 GB each"


def test_a_worker_fits_on_a_node() -> None:
    assert plan(4, 1, nodes=2).worker_cpus + plan(4, 1, nodes=2).loader_cpus <= 2
    assert plan(64, 2, nodes=4) == plan(32, 2, nodes=2)


def test_each_worker_has_a_gpu_or_the_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"CPU": 8.0, "GPU": 1.0}
    monkeypatch.setattr("ray.cluster_resources", lambda: there)
    recipe = Recipe.read(ROOT / "jobs" / "train-lite.yaml")
    job = TrainJob(recipe=recipe, data="", val="", out="", workers=(2, 4), gpus=True)
    with pytest.raises(ConfigError, match="--gpus: the cluster has 1 GPUs, fewer than the workers asked for"):
        _scaling(job, plan(8, 4, gpus=True))
    there["GPU"] = 2.0
    found = _scaling(job, plan(8, 4, gpus=True))
    assert (found.num_workers, found.use_gpu) == ((2, 4), True)
    assert found.resources_per_worker == {"CPU": 1.0, "GPU": 1}
    there.pop("GPU")
    found = _scaling(replace(job, workers=2, gpus=False), plan(8, 2))
    assert (found.num_workers, found.use_gpu, found.resources_per_worker) == (2, False, {"CPU": 3.0})


@LINUX
def test_workers_that_fill_a_machine_of_their_own_are_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    assert plan(4, 4).bound
    assert not plan(4, 2).bound, "two cores each"
    assert not plan(3, 3).bound, "a core is left, and may be any"
    assert not plan(4, 4, alone=False).bound
    assert not plan(4, 4, gpus=True).bound


KEPT = """
import os, sys, threading
from pipelines.process import keep_to_core
def kept():
    return sorted({tuple(sorted(os.sched_getaffinity(int(thread)))) for thread in os.listdir("/proc/self/task")})
end = threading.Event()
threads = [threading.Thread(target=end.wait, daemon=True) for _ in range(2)]
threads[0].start()
mine = sorted(os.sched_getaffinity(0))
keep_to_core(len(mine))
assert kept() == [tuple(mine)]
keep_to_core(len(mine) - 1)
threads[1].start()
assert len(os.listdir("/proc/self/task")) >= 3
assert kept() == [(mine[-1],)], kept()
end.set()
"""


@LINUX
def test_every_thread_is_kept_to_the_core() -> None:
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
