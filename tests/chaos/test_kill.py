"""Kill it anywhere, run the same command again: every input ends in the output exactly once."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.ledger import Ledger
from pipelines.plan import Plan
from pipelines.sink import read_scores
from pipelines.storage import open_folder

from ..conftest import ROOT
from ..corpus import write_corpus
from ..s3_server import S3Server

pytestmark = [pytest.mark.ray, pytest.mark.chaos]

BLOCK = Plan.of({"CPU": 2}, None).block
COUNT = 5 * BLOCK
_names = itertools.count()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, photographs: list[Image.Image]) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, COUNT, photographs, side=48)
    return folder


@pytest.fixture(scope="module")
def cluster(s3: S3Server) -> Iterator[Any]:
    """A head and a second node: drivers connect to it, so that each run starts in seconds."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 1 << 29})
    yield made
    made.shutdown()


@pytest.fixture
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "out")
    server: S3Server = request.getfixturevalue("s3")
    return server.url(f"kill/{os.getpid()}-{next(_names)}")


class Run:
    """Runs of the same job over the same corpus, in processes of their own."""

    def __init__(self, address: str, corpus: Path, out: str, log: Path) -> None:
        self.out = out
        self._address, self._corpus, self._log = address, corpus, log
        self._started: list[subprocess.Popen[str]] = []
        log.mkdir()

    def start(self, *, workers: int, fault: str = "", victim: str = "") -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "tests.chaos.driver", self._address, str(self._corpus), self.out, str(workers)]
        env = os.environ | {"RADET_TEST_LOG": str(self._log), "RADET_TEST_FAULT": fault, "RADET_TEST_VICTIM": victim}
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._started.append(process)
        return process

    def stop(self) -> None:
        for process in self._started:
            if process.poll() is None:
                sigkill(process)

    def finish(self, *, workers: int) -> dict[str, Any]:
        process = self.start(workers=workers)
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        return told(output)

    def staged_rows(self) -> int:
        folder = open_folder(self.out)
        ledger = Ledger(folder, model_id="", rescore=False)
        return sum(ledger.read(i.name, ["_key"]).num_rows for i in folder.list("_staging/") if ".tmp-" not in i.name)

    def wait_for_staged(self, process: "subprocess.Popen[str]", blocks: int) -> None:
        deadline = time.monotonic() + 240
        while sum(1 for _ in open_folder(self.out).list("_staging/")) < blocks:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "no progress"
            time.sleep(0.05)

    def scored(self) -> int:
        """Images that went through the detector, over all runs."""
        return sum(int(line) for file in self._log.iterdir() for line in file.read_text().split())

    def check(self, workers: int) -> None:
        rows = read_scores(self.out, history=True, verify=True)
        names = rows["id"].to_pylist()
        assert sorted(names) == sorted(str(path) for path in self._corpus.rglob("*.jpg"))
        assert rows["logit"].null_count == 0
        redone = self.scored() - COUNT
        print(f"redone: {redone} of {COUNT} images")
        assert 0 <= redone <= workers * BLOCK, "at most one block per worker"


@pytest.fixture
def run(cluster: Any, corpus: Path, out: str, tmp_path: Path) -> Iterator[Run]:
    made = Run(cluster.address, corpus, out, tmp_path / "log")
    yield made
    made.stop()


def told(output: str) -> dict[str, Any]:
    """The driver's own line; Ray's notes on dead workers may stand around it."""
    manifest: dict[str, Any] = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
    return manifest


def sigkill(process: "subprocess.Popen[str]") -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize(
    "out", [pytest.param("local", marks=pytest.mark.slow), pytest.param("s3", marks=pytest.mark.s3)], indirect=True
)
def test_driver_killed_while_scoring_then_resumed_with_other_parallelism(run: Run) -> None:
    process = run.start(workers=2)
    run.wait_for_staged(process, 2)
    sigkill(process)
    staged = run.staged_rows()
    inputs = run.finish(workers=1)["inputs"]
    assert inputs["resumed"] >= staged >= 2 * BLOCK
    assert inputs["new"] == COUNT - inputs["resumed"]
    run.check(workers=2)


@pytest.mark.parametrize(
    ("out", "fault"),
    [
        pytest.param("local", "upload parts/ after", marks=pytest.mark.slow),
        pytest.param("local", "write _staging/ before", marks=pytest.mark.slow),
        pytest.param("local", "_publish _runs/ before", marks=pytest.mark.slow),
        pytest.param("local", "write _runs/ after", marks=pytest.mark.slow),
        pytest.param("local", "delete _staging/ after", marks=pytest.mark.slow),
        pytest.param("s3", "upload parts/ after", marks=[pytest.mark.slow, pytest.mark.s3]),
        pytest.param("s3", "write _runs/ before", marks=[pytest.mark.slow, pytest.mark.s3]),
        pytest.param("s3", "write _runs/ after", marks=[pytest.mark.slow, pytest.mark.s3]),
        pytest.param("s3", "delete _staging/ after", marks=[pytest.mark.slow, pytest.mark.s3]),
    ],
    indirect=["out"],
)
def test_killed_at_a_named_point_of_the_commit(run: Run, fault: str) -> None:
    process = run.start(workers=1, fault=fault)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    rows = run.finish(workers=2)["rows"]
    committed_first = fault in ("write _runs/ after", "delete _staging/ after")
    assert rows == (0 if committed_first else COUNT)
    run.check(workers=1)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["scorer", "loader", "stager"])
@pytest.mark.parametrize("out", ["local"], indirect=True)
def test_a_worker_killed_while_scoring_costs_its_work_in_flight(run: Run, tmp_path: Path, victim: str) -> None:
    process = run.start(workers=2, victim=victim)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert (tmp_path / "died").exists()
    assert told(output)["rows"] == COUNT
    run.check(workers=2)


@pytest.mark.slow
@pytest.mark.parametrize("out", ["local"], indirect=True)
def test_a_node_lost_while_scoring_costs_its_work_in_flight(run: Run, cluster: Any) -> None:
    node = cluster.add_node(num_cpus=2, object_store_memory=1 << 29)
    cluster.wait_for_nodes()
    process = run.start(workers=4)
    run.wait_for_staged(process, 1)
    cluster.remove_node(node, allow_graceful=False)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert told(output)["rows"] == COUNT
    run.check(workers=4)
