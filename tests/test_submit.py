"""`radet submit` to the head of a real cluster of several nodes, whose only common ground is S3."""

import itertools
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
import yaml
from PIL import Image

import pipelines.s3
from pipelines.sink import read_scores
from pipelines.storage import open_folder
from radet import Detector

from .conftest import RADET, ROOT
from .corpus import write_corpus
from .nodes import Nodes, radet, upload
from .ports import free_ports
from .s3_proxy import Proxy, proxy
from .s3_server import S3Server

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.slow]

COUNT = 200
_names = itertools.count()


@pytest.fixture(scope="module")
def watched(s3: S3Server) -> Iterator[Proxy]:
    """The S3 server, with a log of what is asked of it."""
    with proxy(s3.endpoint) as made:
        yield made


@pytest.fixture(scope="module")
def nodes(watched: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    before = os.environ["AWS_ENDPOINT_URL"]
    os.environ["AWS_ENDPOINT_URL"] = watched.endpoint
    made = Nodes(tmp_path_factory.mktemp("nodes"))
    for name in ("node1", "node2"):
        made.add(name, cpus=1)
    os.environ["AWS_ENDPOINT_URL"] = before
    yield made
    made.close()


@pytest.fixture(scope="module")
def corpus(s3: S3Server, tmp_path_factory: pytest.TempPathFactory, photographs: list[Image.Image]) -> str:
    """COUNT pictures in S3."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, COUNT, photographs)
    return upload(folder, s3.url(f"submit-{os.getpid()}/corpus"))


@pytest.fixture
def job(tmp_path: Path, corpus: str, s3: S3Server) -> Path:
    """A job file for the corpus, with a name and an output of its own."""
    name = f"score-{os.getpid()}-{next(_names)}"
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump({"name": name, "score": {"src": corpus, "out": s3.url(f"submit/{name}")}}))
    return file


def parts(file: Path) -> tuple[str, str]:
    data = yaml.safe_load(file.read_text())
    return data["name"], data["score"]["out"]


def test_score_from_s3_to_s3_on_two_nodes_with_a_model_in_s3(
    nodes: Nodes, watched: Proxy, job: Path, s3: S3Server, tmp_path: Path
) -> None:
    model = upload(ROOT / "radet" / "weights" / "radet-lite", s3.url(f"submit-{os.getpid()}/model"))
    before = watched.count("GET", "/model/model.safetensors")
    done = radet("submit", str(job), "--address", nodes.dashboard, "--set", f"score.model={model}", "--set", "run=1")
    assert done.returncode == 0, done.stdout + done.stderr
    name, out = parts(job)
    assert f"Submitted {name}-1" in done.stderr
    assert f"{COUNT:,} rows by radet-lite" in done.stdout  # the job's own log
    rows = read_scores(out, verify=True)
    assert rows.num_rows == COUNT == len(set(rows["id"].to_pylist()))
    assert set(rows["status"].to_pylist()) == {"ok"}
    assert set(rows["model_id"].to_pylist()) == {Detector.from_pretrained("radet-lite").model_id}
    fetched = {name for name in ("head", "node1", "node2") if list(nodes.home(name).glob("radet/*/config.json"))}
    assert fetched == {"head", "node1", "node2"}, "both workers scored, and the head read the config"
    assert watched.count("GET", "/model/model.safetensors") - before == 3, "once a node"

    again = radet("submit", str(job), "--address", nodes.dashboard, "--set", f"score.model={model}", "--set", "run=1")
    assert again.returncode == 0
    assert "has succeeded already, nothing is sent" in again.stderr
    command = ["submit", str(job), "--address", nodes.dashboard, "--set", "run=1", "--set", f"score.model={model}"]
    (tmp_path / "code").mkdir()
    for more, other in (
        ("score.limit=1", "another command"),
        ("env=[RADET_X=1]", "other files, or another env"),
        (f"working_dir={tmp_path / 'code'}", "other files, or another env"),
    ):
        done = radet(*command, "--set", more, "--set", "include=[.]")
        assert done.returncode == 2
        assert f"{name}-1 has succeeded already, with {other}: for this give --set run=" in done.stderr


def test_the_same_job_is_followed_cancelled_and_taken_up_again(nodes: Nodes, job: Path) -> None:
    name, out = parts(job)
    command = ["submit", str(job), "--address", nodes.dashboard, "--set", "run=1", "--set", "score.workers=1"]
    sent = radet(*command, "--no-wait")
    assert sent.returncode == 0, sent.stderr
    second = subprocess.Popen(
        [RADET, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    other = radet(*command, "--set", "score.limit=1", "--no-wait")
    assert other.returncode == 2
    assert "at work with another command" in other.stderr
    wait_for_staged(out, 1)
    assert "stopping" in radet("jobs", "cancel", f"{name}-1", "--address", nodes.dashboard).stderr
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 1
    assert f"{name}-1 is at work already, nothing is sent" in errors
    assert f"{name}-1 stopped" in errors
    staged = sum(1 for _ in open_folder(out).list("_staging/"))
    assert staged, "what was scored is kept"

    done = radet(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{name}-1 has ended before: stopped" in done.stderr
    assert "Resuming" in done.stdout
    assert sorted(read_scores(out)["status"].to_pylist()) == ["ok"] * COUNT
    listed = radet("jobs", "status", "--address", nodes.dashboard).stdout
    assert f"{name}-1-2" in listed
    assert "rows by radet-lite" in radet("jobs", "logs", f"{name}-1-2", "--address", nodes.dashboard).stdout
    assert "no job 'x'" in radet("jobs", "logs", "x", "--address", nodes.dashboard).stderr


def wait_for_staged(out: str, blocks: int) -> None:
    deadline = time.monotonic() + 200
    while sum(1 for _ in open_folder(out).list("_staging/")) < blocks:
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.1)


def test_the_jobs_exit_code_is_the_commands(nodes: Nodes, job: Path) -> None:
    done = radet("submit", str(job), "--address", nodes.dashboard, "--set", "score.src=s3://nobucket/x")
    assert done.returncode == 2
    assert "nobucket" in done.stdout
    assert "failed" in done.stderr


def test_nights_through_one_job_file(
    nodes: Nodes, s3: S3Server, photographs: list[Image.Image], tmp_path: Path
) -> None:
    """The second night scores what is new or changed and is compared with the first; too many failures end the third
    with an exit code of their own, and lose nothing."""
    corpus, out = (s3.url(f"nights-{os.getpid()}/{name}") for name in ("corpus", "scores"))
    write_corpus(tmp_path / "first", 130, photographs)
    upload(tmp_path / "first", corpus)
    file = tmp_path / "nightly.yaml"
    score = {"src": corpus, "out": out, "max_failed": 0.05}
    file.write_text(yaml.safe_dump({"name": f"nightly-{os.getpid()}", "score": score}))

    def night(run: int) -> "subprocess.CompletedProcess[str]":
        return radet("submit", str(file), "--address", nodes.dashboard, "--set", f"run={run}")

    first = night(1)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "130 rows by radet-lite" in first.stdout
    assert "Against the run before" not in first.stdout

    old = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*.jpg"))
    for path in old[:10]:  # changed
        pipelines.s3.put(f"{corpus}/{path}", (tmp_path / "first" / path).read_bytes() + b"x")
    bucket, _, prefix = corpus.removeprefix("s3://").partition("/")
    for path in old[10:15]:  # removed
        pipelines.s3.client().delete_object(Bucket=bucket, Key=f"{prefix}/{path}")
    write_corpus(tmp_path / "second", 110, photographs[::-1])
    upload(tmp_path / "second", f"{corpus}/second")
    second = night(2)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "120 rows by radet-lite" in second.stdout
    assert "115 unchanged since an earlier run" in second.stdout
    assert "Against the run before, 130 then 120 rows" in second.stdout

    for number in range(9):
        pipelines.s3.put(f"{corpus}/third/{number}.jpg", b"<html>not found</html>")
    third = night(3)
    assert third.returncode == 3, third.stdout + third.stderr
    assert "9 of 9 inputs have no score (100.0%), more than --max-failed 5.0%" in third.stdout
    again = night(4)
    assert again.returncode == 3, "a job that is sent again finds nothing new, and is no better for that"
    rows = read_scores(out, verify=True)
    assert rows.num_rows == 130 + 110 + 9
    assert sorted(set(rows["status"].to_pylist())) == ["not_an_image", "ok"]


def test_code_travels_with_a_job_where_it_is_asked_to(nodes: Nodes, job: Path, tmp_path: Path) -> None:
    """A working_dir stands before what the node has installed, in the driver and in the workers."""
    root = tmp_path / "code"
    root.mkdir()
    (root / "jobs").mkdir()
    (root / "jobs" / "__init__.py").touch()
    (root / "jobs" / "cli.py").write_text(
        "import sys, ray, json\n"
        "def main():\n"
        "    ray.init('auto', log_to_driver=False)\n"
        "    @ray.remote(num_cpus=1)\n"
        "    def where():\n"
        "        import jobs\n"
        "        return jobs.__file__\n"
        "    print(json.dumps([__file__, ray.get(where.remote()), sys.argv[1:]]))\n"
        "    sys.exit(7)\n"
    )
    options = [f"working_dir={root}", "include=[jobs]", "env=[RADET_X=1]"]
    sets = [part for option in options for part in ("--set", option)]
    done = radet("submit", str(job), "--address", nodes.dashboard, *sets)
    assert done.returncode == 7, done.stdout + done.stderr
    driver, worker, arguments = json.loads(done.stdout.strip().splitlines()[-1])
    assert "working_dir_files" in driver
    assert "working_dir_files" in worker
    assert arguments[0] == "score"


@pytest.mark.slow
def test_nodes_started_by_hand_and_a_token(corpus: str, s3: S3Server, tmp_path: Path) -> None:
    """`ray start` processes, as on machines of one's own; the head asks for a token, the submitter has it in a file."""
    dashboard, gcs, *agents = free_ports(4)
    token = "0123456789abcdef0123456789abcdef"
    path = f"{Path(RADET).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "PATH": path, "PYTHONPATH": str(ROOT)}
    common = ["--block", "--object-store-memory=100000000", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
    head = ["--head", "--num-cpus=0", f"--port={gcs}", f"--dashboard-port={dashboard}", "--include-dashboard=true"]
    worker = [f"--address=127.0.0.1:{gcs}", "--num-cpus=1"]
    ray = str(Path(RADET).with_name("ray"))
    started: list[subprocess.Popen[bytes]] = []
    log = (tmp_path / "log").open("wb")
    try:
        for role, agent in zip((head, worker), agents, strict=True):
            command = [ray, "start", *role, *common, f"--dashboard-agent-listen-port={agent}"]
            started.append(subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True))
            wait_for_head(f"http://127.0.0.1:{dashboard}")
        file = tmp_path / "job.yaml"
        score = {"src": corpus, "out": s3.url(f"token-{os.getpid()}"), "limit": 70}
        file.write_text(yaml.safe_dump({"name": "token", "score": score}))
        command = ["submit", str(file), "--address", f"http://127.0.0.1:{dashboard}"]
        refused = radet(*command)
        assert refused.returncode == 2
        assert "wants a token" in refused.stderr
        direct = ["score", corpus, "--out", str(tmp_path / "out"), "--address", f"127.0.0.1:{gcs}"]
        for wrong in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token[::-1]}):
            refused = radet(*direct, **wrong)
            assert refused.returncode == 2
            assert "RAY_AUTH_TOKEN" in refused.stderr
        (tmp_path / "token").write_text(token + "\n")
        mode = {"RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
        done = radet(*command, **mode)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "70 rows by radet-lite" in done.stdout
        assert token not in done.stdout + done.stderr
    finally:
        for process in reversed(started):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait(20)
        log.close()


def wait_for_head(address: str) -> None:
    until = time.monotonic() + 240
    while time.monotonic() < until:
        try:
            if requests.get(f"{address}/api/version", timeout=5).status_code in (200, 401):
                return
        except requests.RequestException:
            pass
        time.sleep(0.5)
    raise AssertionError(f"no head at {address}")
