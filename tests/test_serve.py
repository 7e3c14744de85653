"""The service on real Ray Serve, over real HTTP: parity, refusals, scaling, kills, rollouts."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import urllib3
import yaml
from PIL import Image

from pipelines.score import ScoreJob, Watcher
from pipelines.score import score as run
from pipelines.serve import APP, ServeArgs, problems, start, stop
from pipelines.sink import read_scores
from radet import Detector

from .bad_inputs import encoded, photo
from .client import ask, eventually, load
from .contract.test_golden_scores import images as golden_images
from .ports import free_port
from .test_routes import EVIDENCE

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(1200)]

ROOT = Path(__file__).parent.parent
BUNDLED = ROOT / "radet" / "weights" / "radet-lite"
TOGETHER: dict[str, Any] = {}
APART = {"fronts": 1}  # as on GPUs
CORES = sorted(os.sched_getaffinity(0))
LITTLE = {"cpus": 0.2, "upscale_delay_s": 1.0, "downscale_delay_s": 2.0}


@pytest.fixture(scope="module", params=[TOGETHER, APART])
def how(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


@pytest.fixture(scope="module")
def url(ray_session: None, how: dict[str, Any]) -> Iterator[str]:
    port = free_port()
    start(ServeArgs(**LITTLE, **how), host="127.0.0.1", port=port)
    deploy(how)  # the same again, from the file
    yield f"http://127.0.0.1:{port}"
    stop(alone=True)


@pytest.fixture(scope="module")
def picture() -> bytes:
    return encoded(photo(), "JPEG", quality=90)


def deploy(how: dict[str, Any], *, front: dict[str, Any] = {}, scorer: dict[str, Any] = {}, **args: Any) -> None:  # noqa: B006
    """What `serve deploy` does with the file in cluster/, with these changes. Raises RuntimeError where it fails."""
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    file = "serve-gpu.yaml" if how is APART else "serve.yaml"
    app = yaml.safe_load((ROOT / "cluster" / file).read_text())["applications"][0]
    app["args"] |= LITTLE | {"gpus": 0, "front_cpus": 0, "max_replicas": 1} | how | args
    for deployment in app["deployments"]:
        config = deployment["user_config"]
        for part, changes in {"Front": front, "Scorer": {"max_batch_size": 2} | scorer}.items():
            found = config if part == deployment["name"] else config.get(part.lower())
            if found is not None:
                found |= changes
    _get_global_client().deploy_apps(ServeDeploySchema(applications=[app]))
    time.sleep(2)  # until the controller has taken it up
    while (status := serve.status().applications[APP]).status not in ("RUNNING", "DEPLOY_FAILED"):
        time.sleep(0.3)
    if status.status == "DEPLOY_FAILED":
        raise RuntimeError(status.message)


def scorers() -> list[psutil.Process]:
    return replicas("Scorer|Service")


def replicas(deployments: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it ends just now
            if any(re.search(rf"ServeReplica:\w+:({deployments})\b", part) for part in process.cmdline()):
                found.append(process)
    return found


def test_golden_pictures_score_the_same_alone_in_a_batch_under_load_and_in_parquet(url: str, tmp_path: Path) -> None:
    pictures = golden_images()
    scores = Detector.from_pretrained("radet-lite").score(list(pictures.values()))
    files = {name: f"{number}.png" for number, name in enumerate(pictures)}
    (tmp_path / "src").mkdir()
    for name, data in pictures.items():
        (tmp_path / "src" / files[name]).write_bytes(data)
    run(ScoreJob(src=str(tmp_path / "src"), out=str(tmp_path / "out")), Watcher())
    rows = {Path(row["id"]).name: row for row in read_scores(str(tmp_path / "out")).to_pylist()}
    with ThreadPoolExecutor(6) as pool:
        single = list(pool.map(lambda data: ask(f"{url}/v1/score", body=data), pictures.values()))
    items = [{"image": base64.b64encode(data).decode(), "external_id": name} for name, data in pictures.items()]
    with load(url, pictures["rocket.jpg"], workers=3):
        batch = ask(f"{url}/v1/score:batch", body={"items": items}).json()["items"]
    for name, score, alone, item in zip(pictures, scores, single, batch, strict=True):
        assert alone.status == 200, alone.body
        assert item["error"] is None, item
        for field in EVIDENCE:
            expected = getattr(score, field)
            for told in (alone.json()[field], item["result"][field], rows[files[name]][field]):
                assert told == pytest.approx(expected, abs=1e-5), (name, field)
        assert alone.json()["model_id"] == rows[files[name]]["model_id"]


def test_originals_score_as_the_detector_does(url: str, originals: Path) -> None:
    files = sorted(path for path in originals.rglob("*") if path.suffix in {".jpg", ".jpeg", ".png", ".webp"})[::40][
        :16
    ]
    expected = Detector.from_pretrained("radet-lite").score(files)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda path: ask(f"{url}/v1/score", body=path.read_bytes()).json(), files))
    for answer, score in zip(found, expected, strict=True):
        assert answer["sha256"] == score.sha256
        for field in EVIDENCE:
            assert answer[field] == pytest.approx(getattr(score, field), abs=1e-5)


def test_overload_is_refused_at_once_and_nothing_else_fails(url: str, picture: bytes) -> None:
    with load(url, picture, workers=40) as answers:
        time.sleep(15)
    counts = Counter(answer.status for answer in answers)
    assert set(counts) <= {200, 503}, counts
    assert counts[200] > 0
    assert counts[503] > 0
    for answer in answers:
        if answer.status == 503:
            assert answer.code == "overloaded"
            assert int(answer.headers["retry-after"]) >= 1
    waits = [answer.json()["timings"]["queue_ms"] for answer in answers if answer.status == 200]
    batches = ask(f"{url}/metrics", method="GET").body.decode()
    assert max(waits) < 30_000
    assert 'radet_requests_total{code="overloaded",route="/v1/score"}' in batches


def test_explanations_are_of_the_score_and_few_at_a_time(url: str, picture: bytes) -> None:
    score = ask(f"{url}/v1/score", body=picture).json()
    found = ask(f"{url}/v1/explain", body=picture, headers={"X-Request-ID": "Root=1-67891233-abc"})
    told = found.json()
    assert found.headers["x-request-id"] == told["request_id"] == "Root=1-67891233-abc"
    for field in EVIDENCE:
        assert told["score"][field] == pytest.approx(score[field], abs=1e-5), field
    assert sum(told["contributions"].values()) + told["bias"] == pytest.approx(score["logit"], abs=1e-4)
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: ask(f"{url}/v1/explain", body=picture), range(24)))
    counts = Counter(answer.status for answer in answers)
    assert set(counts) == {200, 503}, counts
    assert counts[200] >= 4


def test_callers_who_leave_before_their_answer_are_cancelled(url: str, picture: bytes) -> None:
    def counts() -> Counter[str]:
        told = ask(f"{url}/metrics", method="GET").body.decode()
        found = re.findall(r'^radet_requests_total\{code="(\w+)",route="/v1/score"\} (\S+)$', told, re.MULTILINE)
        return Counter({code: int(float(value)) for code, value in found})

    host, port = url.removeprefix("http://").split(":")
    before = counts()
    head = f"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: {len(picture)}\r\n\r\n".encode()
    callers = [socket.create_connection((host, int(port))) for _ in range(20)]
    for caller in callers:
        caller.sendall(head + picture[:5000])
    time.sleep(1)
    for caller in callers:
        caller.close()
    eventually(lambda: counts()["cancelled"] - before["cancelled"] == len(callers), 30)
    assert counts() - before == {"cancelled": len(callers)}


def test_a_killed_scorer_comes_back_and_costs_what_was_in_it(url: str, how: dict[str, Any], picture: bytes) -> None:
    with load(url, picture, workers=3) as answers:
        eventually(lambda: len(answers) > 5)
        (victim,) = scorers()
        os.kill(victim.pid, signal.SIGKILL)
        before = len(answers)
        eventually(lambda: sum(answer.status == 200 for answer in answers[before:]) > 10, 180)
    counts = Counter(answer.status for answer in answers)
    if how is APART:
        # In flight: tried again. Until a new scorer runs: waiting, then refused. Never anything else.
        assert set(counts) <= {200, 503}, counts
        assert all(answer.code in {"overloaded", "not_ready"} for answer in answers if answer.status == 503)
    else:
        assert counts.total() - counts[200] - counts[503] <= 3, counts
    eventually(lambda: ask(f"{url}/readyz", method="GET").status == 200)


def test_new_limits_and_thresholds_need_no_restart(url: str, how: dict[str, Any], picture: bytes) -> None:
    before = {process.pid for process in scorers()}
    band = {"real_below": 0.0, "generated_above": 0.001}
    deploy(how, front={"max_bytes": 4096}, scorer={"band": band})
    eventually(lambda: ask(f"{url}/v1/score", body=picture).status == 413)
    eventually(lambda: ask(f"{url}/v1/score", body=encoded(photo(40, 40), "JPEG")).json()["band"] == band)
    assert {process.pid for process in scorers()} == before
    deploy(how)
    eventually(lambda: ask(f"{url}/v1/score", body=picture).status == 200)


def test_settings_that_cannot_be_leave_the_ones_before(url: str, how: dict[str, Any], picture: bytes) -> None:
    """Serve would stop whatever scores."""
    before = {process.pid for process in scorers()}

    def refused() -> int:
        told = ask(f"{url}/metrics", method="GET").body.decode()
        return len(re.findall(r"^radet_settings_refused\{.*\} 1", told, re.MULTILINE))

    with load(url, picture, workers=1) as answers:
        for part, key, value in (
            ("front", "max_bites", 1),
            ("scorer", "band", {"real_below": 0.9, "generated_above": 0.1}),
            ("scorer", "max_batch_size", 999),
        ):
            deploy(how, **{part: {key: value}})
            eventually(lambda: refused() == 1)
            deploy(how)
            eventually(lambda: refused() == 0)
    assert {answer.status for answer in answers} == {200}
    assert {process.pid for process in scorers()} == before


def test_settings_that_cannot_be_are_told_where_nobody_is_left_who_has_others(
    url: str, how: dict[str, Any], picture: bytes
) -> None:
    """Serve would start one after the other, and requests would wait."""

    def told() -> bool:
        with suppress(urllib3.exceptions.HTTPError):
            return "max_bites" in ask(f"{url}/readyz", method="GET").body.decode()
        return False

    deploy(how, front={"max_bites": 1})
    (front,) = replicas("Front|Service")
    front.kill()
    eventually(told)
    refused = ask(f"{url}/v1/score", body=picture)
    assert (refused.status, refused.code) == (503, "not_ready")
    deploy(how)
    eventually(lambda: ask(f"{url}/v1/score", body=picture).status == 200)


def test_scales_up_under_load_and_down_again(url: str, how: dict[str, Any], picture: bytes) -> None:
    deploy(how, min_replicas=1, max_replicas=2)
    eventually(lambda: len(scorers()) == 1)
    with load(url, picture, workers=16) as answers:
        eventually(lambda: len(scorers()) == 2, 180)
        eventually(lambda: b'radet_replicas{kind="scorer"} 2.0' in ask(f"{url}/metrics", method="GET").body)
    eventually(lambda: len(scorers()) == 1, 180)
    assert {answer.status for answer in answers} <= {200, 503}


def test_one_caller_with_batches_gets_a_second_replica(url: str, how: dict[str, Any], picture: bytes) -> None:
    """What one replica has no room for is asked of all of them, and counts as load."""
    deploy(how, min_replicas=1, max_replicas=2)
    eventually(lambda: len(scorers()) == 1, 180)
    batch = {"items": [{"image": base64.b64encode(picture).decode()}] * 24}
    (expected,) = Detector.from_pretrained("radet-lite").score([picture])

    def twice_as_many() -> bool:
        answer = ask(f"{url}/v1/score:batch", body=batch)
        assert answer.status == 200, answer.body
        for item in answer.json()["items"]:
            assert item["result"]["p_generated"] == pytest.approx(expected.p_generated, abs=1e-5), item
        return len(scorers()) == 2

    eventually(twice_as_many, 180)
    eventually(lambda: b'radet_replicas{kind="scorer"} 2.0' in ask(f"{url}/metrics", method="GET").body)
    assert twice_as_many()
    eventually(lambda: len(scorers()) == 1, 180)


def test_a_new_model_is_rolled_out_under_load_with_no_failed_request(
    url: str, how: dict[str, Any], picture: bytes, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(BUNDLED, other)
    config = json.loads((other / "config.json").read_text())
    config["verdict"] |= {"real_below": 0.0, "generated_above": 0.5}
    (other / "config.json").write_text(json.dumps(config))
    old = ask(f"{url}/v1/model", method="GET").json()["model_id"]
    with load(url, picture, workers=2) as answers:
        eventually(lambda: len(answers) > 5)
        deploy(how, model=str(other))
        eventually(lambda: answers[-1].json()["model_id"] != old)
        time.sleep(3)
    assert Counter(answer.status for answer in answers) == {200: len(answers)}
    ids = [answer.json()["model_id"] for answer in answers]
    assert set(ids) == {old, ask(f"{url}/v1/model", method="GET").json()["model_id"]}


def test_a_broken_checkpoint_never_takes_over(url: str, how: dict[str, Any], picture: bytes, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(BUNDLED, broken)
    golden = json.loads((broken / "golden.json").read_text())
    golden["logit"] = [value + 1 for value in golden["logit"]]
    (broken / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(RuntimeError), load(url, picture, workers=1) as answers:
        deploy(how, model=str(broken))
    assert {answer.status for answer in answers} == {200}
    assert "numeric_selftest_failed" in {problem.code for problem in problems()}
    assert ask(f"{url}/readyz", method="GET").status == 200
    deploy(how)


@pytest.mark.parametrize("how", [TOGETHER, APART])
def test_readiness_says_what_is_missing(ray_session: None, how: dict[str, Any], tmp_path: Path) -> None:
    stop(alone=True)
    broken = tmp_path / "broken"
    shutil.copytree(BUNDLED, broken)
    (broken / "model.safetensors").write_bytes(b"no tensors")
    port = free_port()
    with pytest.raises(RuntimeError):
        start(ServeArgs(model=str(broken), **LITTLE, **how), host="127.0.0.1", port=port)
    url = f"http://127.0.0.1:{port}"
    told = ask(f"{url}/readyz", method="GET")
    assert told.status == 503
    assert "weights_mismatch" in told.json()["checks"]["weights"]["detail"]
    refused = ask(f"{url}/v1/score", body=encoded(Image.new("RGB", (64, 64)), "PNG"))
    assert (refused.status, refused.code) == (503, "not_ready")
    if how is TOGETHER:  # it tries again by itself
        shutil.copytree(BUNDLED, broken, dirs_exist_ok=True)
        eventually(lambda: ask(f"{url}/readyz", method="GET").status == 200, 120)
    stop(alone=True)
