"""What a run may use of this machine, told by a real executor."""

import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import psutil
import pyarrow as pa
import pytest
import ray
from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback

from pipelines.cluster import connected

_LASTS_S = 16  # Ray's autoscaler reserves for the first time after ten


class _Look(ExecutionCallback):  # type: ignore[misc]
    cpus: set[float] = set()  # noqa: RUF012 - Ray makes the instances

    def on_execution_step(self, executor: Any) -> None:
        _Look.cpus.add(executor._resource_manager.get_global_limits().cpu)


@pytest.mark.ray
def test_a_run_of_ones_own_has_all_cpus_from_first_to_last(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_DATA_CLUSTER_AUTOSCALER", raising=False)  # an earlier test's connection leaves it
    monkeypatch.setattr(_Look, "cpus", set())
    monkeypatch.setattr(DataContext.get_current(), "custom_execution_callback_classes", [_Look])

    def dawdle(table: pa.Table) -> pa.Table:
        time.sleep(1)
        return table

    blocks = 2 * _LASTS_S
    with connected(None):
        dataset = ray.data.range(blocks, override_num_blocks=blocks).map_batches(
            dawdle, batch_format="pyarrow", num_cpus=0.9
        )
        assert dataset.count() == blocks
    assert _Look.cpus - {0.0} == {2.0}, "none before Ray has told of any, then both"


HANGING = """
import atexit, os, time, ray
from pipelines.cluster import connected

class Hanging:
    def begin(self):
        atexit.register(time.sleep, 600)
        return os.getpid()

with connected(None):
    actor = ray.remote(Hanging).remote()
    print(ray.get(actor.begin.remote()))
    del actor  # it ends by itself, as Ray Train's controller does
    time.sleep(3)
"""


@pytest.mark.ray
def test_a_process_that_hangs_in_its_own_exit_ends_with_the_run() -> None:
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, check=True, timeout=120)
    with suppress(psutil.NoSuchProcess):
        assert psutil.Process(int(done.stdout)).status() == psutil.STATUS_ZOMBIE, "it still runs"
