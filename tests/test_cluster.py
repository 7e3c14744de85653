"""What a run of one's own may use of this machine, and who may use it."""

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
import ray
from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback

from pipelines.cluster import connected

from .conftest import ROOT, as_a_user

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


@pytest.mark.ray
@pytest.mark.parametrize("place", ["long" * 20, "file/below"])
def test_a_folder_that_ray_cannot_keep_its_files_in_is_told(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    program = "from pipelines.cluster import connected\nwith connected(None): pass"
    given = {"TMPDIR": str(tmp_path / place), "RAY_TMPDIR": str(tmp_path / place)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=as_a_user() | given, capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1].startswith("radet.errors.ConfigError: Ray cannot start here: "), done.stderr
    assert done.stderr.strip().endswith(
        "; its files lie in RAY_TMPDIR, else TMPDIR, or /tmp: a short path that can be written to"
    )


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
    deadline = time.monotonic() + 10  # it is killed, and may be a moment in dying
    with suppress(psutil.NoSuchProcess):
        while (status := psutil.Process(int(done.stdout)).status()) != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, f"it still runs: {status}"
            time.sleep(0.1)


STANDING = """
import ray
from pipelines.cluster import connected

with connected(None):
    print(ray.get_runtime_context().gcs_address, flush=True)
    input()
"""


@pytest.mark.ray
def test_nobody_reads_what_the_workers_of_a_run_write() -> None:
    """Ray's log monitor would, though this driver shows nothing of it."""
    run = subprocess.Popen([sys.executable, "-c", STANDING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert run.stdout is not None
        run.stdout.readline()
        commands = [" ".join(child.cmdline()) for child in psutil.Process(run.pid).children()]  # raises for a zombie
    finally:
        run.communicate("\n", timeout=60)
    assert any("/monitor.py" in command for command in commands), "Ray's processes have other names"
    assert not any("log_monitor" in command for command in commands)


JOINING = """
import sys, ray

ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(ray.get(ray.remote(num_cpus=0)(lambda: "ran").remote(), timeout=60))
"""


@pytest.mark.ray
def test_a_run_of_ones_own_takes_no_code_from_strangers(tmp_path: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", STANDING],
        env=as_a_user() | {"HOME": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert run.stdout is not None
        address = run.stdout.readline().strip()
        raylet = next(child for child in psutil.Process(run.pid).children() if child.name() == "raylet")
        token = raylet.environ()["RAY_AUTH_TOKEN"]

        def join(**given: str) -> str:
            command = [sys.executable, "-c", JOINING, address]
            return subprocess.run(command, env=as_a_user() | given, capture_output=True, text=True, check=False).stdout

        soon = {"RAY_gcs_server_port_wait_time_s": "1"}  # else they ask for 20 s
        assert join(RAY_AUTH_MODE="disabled", **soon) == ""
        assert join(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token[::-1], **soon) == ""
        assert join(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token) == "ran\n"
    finally:
        run.communicate("\n", timeout=60)
    assert not list(tmp_path.rglob("*token*")), "it outlives the run"


@pytest.mark.ray
def test_what_lies_beside_the_pictures_is_not_run_by_workers_in_place_of_a_package(tmp_path: Path) -> None:
    for name in ("pipelines/__init__", "radet/__init__", "simplejpeg"):
        file = tmp_path / "pictures" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("raise RuntimeError('somebody else wrote this')")
    program = tmp_path / "program.py"
    program.write_text(
        "import ray\nfrom pipelines.cluster import connected\n"
        "def found(name):\n    return __import__(name).__file__\n"
        "with connected(None):\n"
        "    for name in ('pipelines', 'radet', 'simplejpeg'):\n"
        "        print(ray.get(ray.remote(found).remote(name)))\n"
    )
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path / "pictures",
        env=as_a_user() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[:2] == [str(ROOT / name / "__init__.py") for name in ("pipelines", "radet")]
    assert done.stdout.strip().endswith("site-packages/simplejpeg/__init__.py"), done.stderr
