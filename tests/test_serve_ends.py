"""The service and its command on real Ray Serve: how they end, and beside whom they live."""

import os
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.ports import free
from pipelines.serve import ServeArgs, start, stop
from pipelines.settings import FrontSettings
from radet import Detector

from .bad_inputs import encoded, photo
from .client import Answer, ask, eventually, ready, under_way
from .conftest import RADET, as_a_user
from .ports import free_port
from .test_serve import APART, BUNDLED, CORES, LITTLE, TOGETHER

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def picture() -> bytes:
    return encoded(photo(), "JPEG", quality=90)


@pytest.mark.parametrize("how", [TOGETHER, TOGETHER | {"min_replicas": 2, "max_replicas": 2}, APART])
def test_a_stop_lets_requests_under_way_finish_and_refuses_new_ones(
    ray_session: None, how: dict[str, Any], picture: bytes
) -> None:
    stop(alone=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    start(ServeArgs(**LITTLE | how, front=FrontSettings(max_items=128)), host="127.0.0.1", port=port)
    eventually(lambda: ready(url))
    refused: list[Answer] = []

    def is_stopping() -> bool:
        refused.append(ask(f"{url}/v1/score", body=picture))
        return refused[-1].status == 503 and refused[-1].code == "not_ready"

    with ThreadPoolExecutor(1) as pool:
        batch = under_way(url, picture, 128)
        stopping = pool.submit(stop, alone=True)
        eventually(is_stopping)
        assert [item["error"] for item in batch] == [None] * 127
        stopping.result()
    assert {answer.status for answer in refused} <= {200, 503}


@pytest.fixture
def others(ray_session: None) -> Iterator[str]:
    """Where Serve listens on this cluster, for an application that is not ours."""
    from ray import serve
    from ray.serve.config import HTTPOptions

    stop(alone=True)
    port = free_port()
    serve.start(proxy_location="HeadOnly", http_options=HTTPOptions(host="127.0.0.1", port=port))
    yield f"127.0.0.1:{port}"
    stop(alone=True)


def run_other(route: str) -> None:
    from ray import serve

    @serve.deployment(ray_actor_options={"num_cpus": 0})
    class Other:
        async def __call__(self) -> str:
            return "somebody else's"

    serve.run(Other.bind(), name="other", route_prefix=route)


def on_this_cluster(port: str) -> list[str]:
    import ray

    return [RADET, "serve", "--address", ray.get_runtime_context().gcs_address, "--port", port]


@contextmanager
def serving(
    command: list[str], folder: Path | None = None, env: dict[str, str] | None = None
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The command once it is ready, and what it has said."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder, env=env)
    told = ""
    try:
        assert process.stderr is not None
        for line in process.stderr:
            told += line
            if line.startswith("Ready:"):
                break
        yield process, told
    finally:
        process.kill()
        process.wait()


def ended(process: "subprocess.Popen[str]") -> str:
    """By SIGTERM, and what it said meanwhile."""
    process.send_signal(signal.SIGTERM)
    return process.communicate(timeout=90)[1]


def test_on_a_cluster_other_applications_stay(others: str, picture: bytes) -> None:
    run_other("/other")
    with serving(on_this_cluster(others.partition(":")[2])) as (process, told):
        assert told.startswith("Starting")  # and with nothing of Ray's
        assert f"Ready: http://{others}/" in told
        assert ask(f"http://{others}/v1/score", body=picture).status == 200
        last = ended(process)
    assert process.returncode == 0, told + last
    assert ask(f"http://{others}/other", method="GET").body == b"somebody else's"
    assert ask(f"http://{others}/v1/score", body=picture).status == 404


def test_a_second_service_on_a_cluster_is_refused(others: str, picture: bytes, tmp_path: Path) -> None:
    """And the checkpoint of the first is found, wherever its command runs."""
    shutil.copytree(BUNDLED, tmp_path / "mine")
    command = on_this_cluster(others.partition(":")[2])
    with serving([*command, "--model", "mine"], tmp_path) as (first, told):
        assert "Ready:" in told
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 2
        assert "a service of radet runs on this cluster already" in done.stderr.splitlines()[-1]
        assert ask(f"http://{others}/v1/score", body=picture).status == 200
        ended(first)
    assert first.returncode == 0


@pytest.mark.parametrize(
    ("route", "port", "told"), [("/other", "1", "Serve runs on this cluster already, at {}:"), ("/", None, "'other'")]
)
def test_on_a_cluster_without_a_place_it_is_refused(others: str, route: str, port: str | None, told: str) -> None:
    run_other(route)
    command = on_this_cluster(port or others.partition(":")[2])
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2
    assert told.format(others) in done.stderr.splitlines()[-1]
    assert "Starting" not in done.stderr
    assert ask(f"http://{others}{route}", method="GET").body == b"somebody else's"


@pytest.mark.parametrize(("replicas", "haproxy"), [(1, False), (min(4, len(CORES)), True)])
def test_the_command_serves_until_it_is_stopped(picture: bytes, replicas: int, haproxy: bool) -> None:
    port = free_port()
    command = [RADET, "serve", "--port", str(port), "--replicas", str(replicas), *(["--haproxy"] if haproxy else [])]
    others = [socket.create_server(("127.0.0.1", port)) for port in free(8404, 9101, 8500)]  # another service's
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, **out, env=as_a_user(), text=True, start_new_session=True)
    url, told = f"http://127.0.0.1:{port}", ""
    try:
        assert process.stdout is not None
        for line in process.stdout:  # it answers before it says so, and a stop in between is told as one too early
            told += line
            if line.startswith("Ready:"):
                break
        eventually(lambda: ready(url), 180)
        answer = ask(f"{url}/v1/score", body=picture)
        (expected,) = Detector.from_pretrained("radet-lite").score([picture])
        assert answer.status == 200, answer.body
        assert answer.json()["p_generated"] == pytest.approx(expected.p_generated, abs=1e-5)
        children = psutil.Process(process.pid).children(recursive=True)
        balancers = [child for child in children if child.name() == "haproxy"]
        assert bool(balancers) == haproxy
        for balancer in balancers:
            (config,) = [word for word in balancer.cmdline() if word.endswith("haproxy.cfg")]
            assert stat.S_IMODE(Path(config).parent.parent.stat().st_mode) == 0o700
        kept_to = [child.cpu_affinity() for child in children if "Replica:radet:Service" in " ".join(child.cmdline())]
        fill = replicas == len(CORES)  # a machine that is theirs: then each has a core
        assert sorted(kept_to) == ([[core] for core in CORES] if fill else [CORES] * replicas)
        batch = under_way(url, picture, 64)
        if haproxy:
            process.send_signal(signal.SIGTERM)
        else:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of its processes
        assert [item["error"] for item in batch] == [None] * 63
        told += process.communicate(timeout=90)[0]
    finally:
        for other in others:
            other.close()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 0, told
    assert not haproxy or not Path(config).parent.parent.exists()
    assert [line.partition(" ")[0] for line in told.splitlines()] == ["Starting", "No", "Ready:", "Stopping:"]


def test_haproxy_is_the_clusters_choice() -> None:
    done = subprocess.run(
        [RADET, "serve", "--haproxy", "--address", "127.0.0.1:1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "RAY_SERVE_ENABLE_HA_PROXY=1" in done.stderr.replace("\n", " ")


@pytest.mark.parametrize("whom", ["raylet", "gcs_server"])
def test_a_command_whose_ray_is_gone_ends_and_says_so(whom: str) -> None:
    command = [RADET, "serve", "--port", str(free_port())]
    with serving(command, env=as_a_user()) as (process, told):
        (found,) = [child for child in psutil.Process(process.pid).children() if child.name() == whom]
        found.kill()
        last = process.communicate(timeout=120)[1]
    assert process.returncode == 1, told + last
    assert last.splitlines()[-1].startswith("radet: the service has ended: Ray's ")


def test_a_command_whose_serve_is_shut_down_ends_and_says_so(others: str) -> None:
    from ray import serve

    with serving(on_this_cluster(others.partition(":")[2])) as (process, _):
        serve.shutdown()
        last = process.communicate(timeout=120)[1]
    assert process.returncode == 1, last
    assert last == "radet: the service has ended: Serve is gone; start it again\n"
