"""A storm over one scoring job: nodes, an actor and the driver die, nodes come, S3 fails in bursts; from a seed.

The job is submitted as a user submits it. Used by the test and, longer, by benchmarks/chaos.py.
"""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from pipelines.sink import read_scores
from pipelines.storage import open_folder

from ..nodes import Nodes, radet
from ..s3_proxy import Proxy

_PATIENCE_S = 900.0
_LOOK_S = 20.0  # how often whoever submitted the job looks whether it still runs


@dataclass(frozen=True)
class Outcome:
    """What a storm did, and what is left of the job."""

    images: int
    rows: int
    distinct: int
    ok: int
    submissions: int  # of the job; each one more than the first took up where the last had ended
    deaths: dict[str, int]  # by what died
    s3_requests: int
    s3_faults: dict[str, int]
    read_again: int  # images that were read from S3 more often than once, and so loaded and mostly scored again
    kept: int  # rows of the last submission that were taken over from the ones before

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Storm:
    """`deaths`: what to kill, one after the other, each after another share of the batches."""

    def __init__(self, nodes: Nodes, proxy: Proxy, *, folder: Path, src: str, out: str, images: int, seed: int) -> None:
        self._nodes, self._proxy, self._src, self._out, self._images = nodes, proxy, src, out, images
        self._random = random.Random(seed)
        self._workers: list[tuple[str, Any]] = []
        self._born = self._submissions = 0
        self._deaths: Counter[str] = Counter()
        self._job = folder / "job.yaml"
        self._name = f"storm-{os.getpid()}-{seed}"
        self._job.write_text(yaml.safe_dump({"name": self._name, "run": "1", "score": {"src": src, "out": out}}))

    def add_node(self) -> None:
        self._born += 1
        name = f"worker{self._born}"
        self._workers.append((name, self._nodes.add(name, cpus=1)))

    def run(self, deaths: list[str], *, every: int) -> Outcome:
        """Each death comes `every` staged batches after the last one, as long as there is something left to do."""
        self._submit()
        for victim in deaths:
            self._wait_for_batches(every)
            if self._committed():
                break
            getattr(self, f"_kill_{victim}")()
            self._deaths[victim] += 1
            if victim == "driver":
                self._submit()
        ended = self._radet("submit", str(self._job))
        while ended.returncode and self._submissions < 10:
            self._submissions += 1
            ended = self._radet("submit", str(self._job))
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return self._outcome()

    def _radet(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return radet(*arguments, "--address", self._nodes.dashboard)

    def _submit(self) -> None:
        done = self._radet("submit", str(self._job), "--no-wait")
        assert done.returncode == 0, done.stderr
        self._submissions += 1

    def _wait_for_batches(self, more: int) -> None:
        """A job that gave up, for S3 was away too long, is submitted again, as a scheduler does."""
        target = self._staged() + more
        until, look = time.monotonic() + _PATIENCE_S, time.monotonic() + _LOOK_S
        while self._staged() < target and not self._committed():
            assert time.monotonic() < until, f"no progress: {self._staged()} of {target} batches"
            if time.monotonic() > look:
                if not self._running():
                    self._submit()
                look = time.monotonic() + _LOOK_S
            time.sleep(0.2)

    def _running(self) -> bool:
        told = self._radet("jobs", "status").stdout
        return "RUNNING" in told or "PENDING" in told

    def _staged(self) -> int:
        return sum(1 for _ in open_folder(self._out).list("_staging/"))

    def _committed(self) -> bool:
        return any(item.name.endswith(".json") for item in open_folder(self._out).list("_runs/"))

    def _kill_node(self) -> None:
        """One is lost, another takes its place, as on spot machines."""
        _, node = self._workers.pop(self._random.randrange(len(self._workers)))
        self._nodes.kill(node)
        self.add_node()

    def _kill_actor(self) -> None:
        _sigkill(self._random.choice(_wait_for_process("Scorer")))

    def _kill_driver(self) -> None:
        for process in _wait_for_process("radet score"):
            _sigkill(process)
        self._wait_for_end()

    def _wait_for_end(self) -> None:
        until = time.monotonic() + _PATIENCE_S
        while self._running():
            assert time.monotonic() < until, "the head has not noticed that its driver is gone"
            time.sleep(1)

    def _outcome(self) -> Outcome:
        rows = read_scores(self._out, history=True, verify=True)
        ids, statuses = rows["id"].to_pylist(), rows["status"].to_pylist()
        path = self._src.removeprefix("s3://")
        delivered = Counter(
            request.path
            for request in self._proxy.requests
            if request.method == "GET" and request.path.startswith(f"/{path}/") and not request.fault
        )
        return Outcome(
            images=self._images,
            rows=len(ids),
            distinct=len(set(ids)),
            ok=statuses.count("ok"),
            submissions=self._submissions,
            deaths=dict(self._deaths),
            s3_requests=len(self._proxy.requests),
            s3_faults=self._proxy.faults_met(),
            read_again=sum(count - 1 for count in delivered.values()),
            kept=self._kept(),
        )

    def _kept(self) -> int:
        folder = open_folder(self._out)
        (manifest,) = [item.name for item in folder.list("_runs/") if item.name.endswith(".json")]
        return int(yaml.safe_load(folder.read(manifest))["inputs"]["resumed"])


def _wait_for_process(part: str) -> list[psutil.Process]:
    """Of the cluster that this process has started: nothing else is ever touched."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        found = [process for process in psutil.Process().children(recursive=True) if part in _command(process)]
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"no process {part!r}")


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _sigkill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)
