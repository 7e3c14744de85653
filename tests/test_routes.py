"""Every endpoint and every error code over real HTTP, with the real detector."""

import base64
import hashlib
import io
import json
import logging
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.access import Doorkeeper
from pipelines.failures import http_status
from pipelines.model import Problem
from pipelines.monitor import Report
from radet import Detector
from radet.errors import FetchError, ImageError
from radet.score import Score

from .bad_inputs import encoded, photo, write_bad_inputs
from .client import ask, form
from .service import Service

EVIDENCE = ("logit", "p_generated", "drift_cosine", "drift_l2", "logit_semantic", "logit_discrepancy", "logit_lowlevel")


@pytest.fixture(scope="module")
def alone(picture: bytes) -> Score:
    return Detector.from_pretrained("radet-lite").score([picture])[0]


@pytest.fixture
def limited(here: Service) -> Iterator[Any]:
    """Changes the front's limits for one test."""

    def change(**limits: Any) -> None:
        here.front.reconfigure(limits)

    yield change
    here.front.reconfigure({})


def same_score(answer: dict[str, Any], expected: Score) -> None:
    for name in ("sha256", "phash", "status", "width", "height", "format", "bytes", "verdict", "model_id"):
        assert answer[name] == getattr(expected, name), name
    for name in EVIDENCE:
        assert answer[name] == pytest.approx(getattr(expected, name), abs=1e-5), name


@pytest.mark.parametrize("kind", ["raw", "curl", "multipart", "base64", "data uri"])
def test_every_form_of_a_picture_scores_as_the_detector_does_alone(
    here: Service, picture: bytes, alone: Score, kind: str
) -> None:
    text = base64.b64encode(picture).decode()
    url, headers = f"{here.url}/v1/score", {"X-Request-ID": "my-request.1"}
    if kind == "multipart":
        body, more = form(("file", "a.jpg", picture), ("external_id", None, b"post-17"))
        answer = ask(url, body=body, headers=headers | more)
    elif kind in {"base64", "data uri"}:
        image = text if kind == "base64" else f"data:image/jpeg;base64,{text}"
        answer = ask(url, body={"image": image, "external_id": "post-17"}, headers=headers)
    else:  # what curl sends when it is told nothing
        content = "image/jpeg" if kind == "raw" else "application/x-www-form-urlencoded"
        answer = ask(f"{url}?external_id=post-17", body=picture, headers=headers | {"Content-Type": content})
    assert answer.status == 200, answer.body
    found = answer.json()
    same_score(found, alone)
    assert (found["id"], found["external_id"], found["request_id"]) == ("post-17", "post-17", "my-request.1")
    assert found["schema_version"] == 2
    assert found["band"]["real_below"] < found["band"]["generated_above"]
    assert found["timings"]["total_ms"] >= found["timings"]["inference_ms"] > 0
    assert set(found) >= set(Score.__slots__)


def test_bad_inputs_have_the_codes_that_a_scoring_run_gives_them(here: Service, tmp_path: Path) -> None:
    expected = write_bad_inputs(tmp_path)

    def post(name: str) -> tuple[str, int, dict[str, Any]]:
        answer = ask(f"{here.url}/v1/score", body=(tmp_path / name).read_bytes(), headers={"Content-Type": "image/x"})
        return name, answer.status, answer.json()

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(post, expected))
    for name, status, told in answers:
        if expected[name] == "ok":
            assert (status, told.get("status")) == (200, "ok"), name
            continue
        assert told["error"]["code"] == expected[name], name
        assert set(told["error"]) == {"code", "message", "request_id"}
        assert status == http_status(ImageError(expected[name], ""))
        assert status in {400, 413, 415, 422}


def test_a_batch_answers_in_order_with_a_result_or_an_error_each(here: Service, picture: bytes, alone: Score) -> None:
    text = base64.b64encode(picture).decode()
    items: list[dict[str, Any]] = [
        {"image": text, "external_id": "a"},
        {"image": text[: len(text) // 8 * 4], "external_id": "cut"},
        {"image": "???", "external_id": "no base64"},
        {"url": "http://169.254.169.254/latest/meta-data", "external_id": "inside"},
        {"external_id": "nothing"},
        {"image": text},
    ]
    wanted = ["ok", "truncated", "bad_request", "blocked_address", "bad_request", "ok"]
    answer = ask(f"{here.url}/v1/score:batch", body={"items": items})
    assert answer.status == 200
    found = answer.json()["items"]
    lines = ask(f"{here.url}/v1/score:batch", body={"items": items}, headers={"Accept": "application/x-ndjson"})
    assert lines.headers["content-type"].startswith("application/x-ndjson")
    streamed = [json.loads(line) for line in lines.body.splitlines()]
    for told in (found, streamed):
        assert [item["index"] for item in told] == list(range(6))
        assert [item["external_id"] for item in told] == [item.get("external_id") for item in items]
        assert [item["error"]["code"] if item["error"] else "ok" for item in told] == wanted
        same_score(told[0]["result"], alone)
        same_score(told[5]["result"], alone)
        assert told[5]["result"]["uri"] == "#5"


def test_a_batch_of_files_takes_their_names_for_ids(here: Service, picture: bytes) -> None:
    body, headers = form(("file", "one.jpg", picture), ("file", "two.png", b"no picture"))
    found = ask(f"{here.url}/v1/score:batch", body=body, headers=headers).json()["items"]
    assert [(item["external_id"], bool(item["result"])) for item in found] == [("one.jpg", True), ("two.png", False)]


def test_alone_and_under_concurrent_load_the_score_is_the_same(here: Service, photographs: list[Image.Image]) -> None:
    files = [encoded(picture.resize((260 + 7 * n, 240)), "JPEG") for n, picture in enumerate(photographs)]
    alone = Detector.from_pretrained("radet-lite").score(files)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda data: ask(f"{here.url}/v1/score", body=data).json(), files * 3))
    for answer, expected in zip(answers, alone * 3, strict=True):
        same_score(answer, expected)


def test_explanations_as_json_and_as_a_picture(here: Service, picture: bytes, alone: Score) -> None:
    url = f"{here.url}/v1/explain"
    found = ask(f"{url}?images=true&side=96&external_id=x", body=picture).json()
    same_score(found["score"], alone)
    assert found["score"]["id"] == found["external_id"] == "x"
    assert found["sentences"]
    assert 0 <= found["percentile"] <= 1
    total = sum(found["contributions"].values()) + found["bias"]
    assert total == pytest.approx(found["score"]["logit"], abs=1e-4)
    for name in ("crop", "heat"):
        png = base64.b64decode(found["images"][name].partition(",")[2])
        assert Image.open(io.BytesIO(png)).size == (96, 96)
    drawn = ask(f"{url}?side=64", body=picture, headers={"Accept": "image/png"})
    assert drawn.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(drawn.body)).size == (64, 64)
    assert "images" not in ask(url, body=picture).json()
    assert ask(url, body=b"no picture").code == "not_an_image"
    assert ask(f"{url}?side=5000", body=picture).code == "bad_request"


def test_state(here: Service, alone: Score) -> None:
    model = ask(f"{here.url}/v1/model", method="GET").json()
    assert model["model_id"] == model["checkpoint_id"] == alone.model_id
    assert (model["calibrated"], model["url_input"], model["schema_version"]) == (True, False, 2)
    assert len(model["thresholds"]) == 3
    assert ask(f"{here.url}/healthz", method="GET").status == 200
    ready = ask(f"{here.url}/readyz", method="GET")
    assert (ready.status, ready.json()["ready"]) == (200, True)
    assert all(check["ok"] for check in ready.json()["checks"].values())


def test_metrics_count_what_was_done(here: Service, picture: bytes) -> None:
    def counted() -> dict[str, float]:
        here.run(here.scorer._report())
        text = ask(f"{here.url}/metrics", method="GET").body.decode()
        return {name: float(value) for name, value in re.findall(r"^(radet\S+) (\S+)$", text, re.MULTILINE)}

    before = counted()
    ask(f"{here.url}/v1/score", body=picture)
    ask(f"{here.url}/v1/score", body=b"no picture")
    after = counted()

    def grew(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert grew('radet_requests_total{code="ok",route="/v1/score"}') == 1
    assert grew('radet_requests_total{code="not_an_image",route="/v1/score"}') == 1
    assert grew('radet_images_total{status="ok"}') == 1
    assert grew("radet_batch_size_count") == grew("radet_inference_seconds_count") == 1
    assert grew("radet_score_count") == 1
    assert grew("radet_decode_seconds_count") == 2
    assert after['radet_replicas{kind="scorer"}'] == after['radet_replicas{kind="front"}'] == 1
    assert [name for name in after if name.startswith("radet_self_test_ok")]


@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [("/nothing", "GET", 404, "no_such_page"), ("/v1/score", "GET", 405, "method_not_allowed")],
)
def test_wrong_places(here: Service, path: str, method: str, status: int, code: str) -> None:
    answer = ask(here.url + path, method=method)
    assert (answer.status, answer.code) == (status, code)
    assert answer.json()["error"]["message"].endswith("see /docs")


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        (b"{", "application/json", "no valid JSON"),
        (b"[]", "application/json", 'write {"image": BASE64} or {"url":'),
        (b'{"image": "aGk=", "url": "https://a.org/"}', "application/json", "either"),
        (b'{"image": 5}', "application/json", "image"),
        (b'{"picture": "aGk="}', "application/json", 'picture: no such field; write {"image": BASE64}'),
        (b'{"image": "a", "external_id": "%s"}' % (b"x" * 300), "application/json", "external_id"),
        (b"[" * 100_000, "application/json", ""),
        (b"", "multipart/form-data", "multipart"),
        (b"--b\r\n", "multipart/form-data; boundary=b", ""),
        (
            b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--b--',
            "multipart/form-data; boundary=b",
            "file",
        ),
    ],
)
def test_bodies_that_cannot_be_read_are_bad_requests(here: Service, body: bytes, kind: str, says: str) -> None:
    answer = ask(f"{here.url}/v1/score", body=body, headers={"Content-Type": kind})
    assert (answer.status, answer.code) == (400, "bad_request"), answer.body
    assert says in answer.json()["error"]["message"]


def test_caps(here: Service, picture: bytes, limited: Any) -> None:
    limited(max_bytes=4096, max_pixels=1000, max_request_bytes=200_000, max_items=2)
    one, many = f"{here.url}/v1/score", f"{here.url}/v1/score:batch"
    assert (ask(one, body=picture).status, ask(one, body=picture).code) == (413, "too_large_bytes")
    assert ask(one, body={"image": base64.b64encode(picture).decode()}).code == "too_large_bytes"
    assert ask(one, body=b'{"image": "%s"}' % (b"A" * 300_000), headers={"Content-Type": "application/json"}).code == (
        "too_large_bytes"
    )
    small = encoded(photo(64, 64), "JPEG")
    assert (ask(one, body=small).status, ask(one, body=small).code) == (413, "too_many_pixels")
    assert ask(f"{here.url}/v1/explain", body=small).code == "too_many_pixels"
    answer = ask(many, body={"items": [{"image": "aGk="}] * 3})
    assert (answer.status, answer.code) == (413, "too_many_items")
    body, headers = form(*[("file", "a.jpg", b"x")] * 9)
    assert ask(many, body=body, headers=headers).json()["error"]["message"] == answer.json()["error"]["message"]
    assert ask(many, body={"items": []}).code == "bad_request"


def test_a_body_that_drips_is_cut_off(here: Service, limited: Any) -> None:
    limited(body_timeout_s=0.3)
    host, port = here.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1000\r\n\r\nab")
        answer = sock.makefile("rb").read()
    assert b"408" in answer.split(b"\r\n", 1)[0]
    assert b"body_timeout" in answer


@pytest.mark.parametrize("limits", [{"max_in_flight": 1}, {"max_in_flight_bytes": 1024}])
def test_too_many_requests_at_once_are_refused_at_once(
    here: Service, picture: bytes, limited: Any, limits: dict[str, int]
) -> None:
    limited(**limits)
    host, port = here.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:  # holds the only place
        sock.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nab")
        deadline = threading.Event()
        while not here.front._requests:
            deadline.wait(0.05)
        answer = ask(f"{here.url}/v1/score", body=picture)
    assert (answer.status, answer.code) == (503, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1
    for _ in range(100):  # the place is free again once the connection is gone
        if ask(f"{here.url}/v1/score", body=picture).status == 200:
            break
        deadline.wait(0.05)
    else:
        raise AssertionError
    while here.front._requests:  # its answer is there a moment before its place is free
        deadline.wait(0.05)
    assert here.front._bytes == 0


def test_where_there_are_keys_nothing_but_health_is_told_without_one(
    here: Service, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RADET_API_KEYS", f"a:{hashlib.sha256(b'key').hexdigest()}")
    monkeypatch.setattr(here.front, "door", Doorkeeper())
    wrong: list[dict[str, str]] = [{}, {"Authorization": "Bearer other"}, {"Authorization": "key"}, {"X-API-Key": ""}]
    for path, methods in ask(f"{here.url}/openapi.json", method="GET").json()["paths"].items():
        (method,) = methods
        send = partial(ask, here.url + path, method=method.upper(), body=picture if method == "post" else None)
        answers = [send(headers=headers) for headers in wrong]
        if path in {"/healthz", "/readyz"}:
            assert [answer.status for answer in answers] == [200] * 4
            continue
        assert [(answer.status, answer.code) for answer in answers] == [(401, "unauthorized")] * 4, path
        assert answers[0].headers["www-authenticate"] == "Bearer"
        for headers in ({"Authorization": "Bearer key"}, {"X-API-Key": "key"}):
            assert send(headers=headers).status == (400 if path.endswith("batch") else 200), path


def test_pictures_that_the_service_could_not_take_cost_no_rate(
    here: Service, picture: bytes, limited: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RADET_API_KEYS", f"a:{hashlib.sha256(b'key').hexdigest()}:2")
    monkeypatch.setattr(here.front, "door", Doorkeeper())
    key = {"Authorization": "Bearer key"}
    items = {"items": [{"image": base64.b64encode(picture).decode()}] * 2}
    limited(score_timeout_s=1e-6)
    for _ in range(2):
        for path in ("score", "explain"):
            refused = ask(f"{here.url}/v1/{path}", body=picture, headers=key)
            assert (refused.status, refused.code) == (503, "overloaded")
        for kind in ("application/json", "application/x-ndjson"):
            batch = ask(f"{here.url}/v1/score:batch", body=items, headers=key | {"Accept": kind})
            assert (batch.status, batch.body.count(b"overloaded")) == (200, 2)
    limited()
    answers = [ask(f"{here.url}/v1/score", body=body, headers=key).status for body in (b"broken", picture, picture)]
    assert answers == [415, 200, 429], "one that it took and that was at fault counts"
    assert ask(f"{here.url}/v1/explain", body=picture, headers=key).status == 429
    monkeypatch.setattr(here.front, "door", Doorkeeper())
    answers = [ask(f"{here.url}/v1/score:batch", body=items, headers=key).status for _ in range(2)]
    assert answers == [200, 429], "a batch counts its pictures"


def test_a_band_of_the_operators_own_is_another_model_id(here: Service, picture: bytes, alone: Score) -> None:
    here.run(here.scorer.reconfigure({"band": {"real_below": 0.0, "generated_above": 0.001}}))
    try:
        found = ask(f"{here.url}/v1/score", body=picture).json()
        model = ask(f"{here.url}/v1/model", method="GET").json()
    finally:
        here.run(here.scorer.reconfigure({}))
    assert found["verdict"] == "generated"
    assert found["p_generated"] == pytest.approx(alone.p_generated, abs=1e-5)
    assert found["band"] == {"real_below": 0.0, "generated_above": 0.001}
    assert found["model_id"] == model["model_id"] != alone.model_id
    assert model["checkpoint_id"] == alone.model_id
    same_score(ask(f"{here.url}/v1/score", body=picture).json(), alone)


def test_the_page_and_the_documentation_ask_no_other_host(here: Service) -> None:
    for path in ("/", "/app.js", "/style.css", "/icon.svg", "/docs", "/docs.js", "/swagger-ui.css"):
        answer = ask(here.url + path, method="GET")
        assert answer.status == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        hosts = set(re.findall(rb"(?:src|href|url\()=?[\"']?(https?://[^\"')]+)", answer.body))
        assert not hosts, (path, hosts)
    assert b"<noscript>" in ask(f"{here.url}/", method="GET").body
    document = ask(f"{here.url}/openapi.json", method="GET").json()
    assert set(document["paths"]) == {
        *("/v1/score", "/v1/score:batch", "/v1/explain", "/v1/model", "/healthz", "/readyz", "/metrics")
    }
    example = document["paths"]["/v1/score"]["post"]["responses"]["200"]["content"]["application/json"]["example"]
    assert set(example) >= set(Score.__slots__) - {"error"}  # FastAPI leaves nulls out of examples


def test_nothing_that_was_sent_is_logged(here: Service, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        ask(f"{here.url}/v1/score?external_id=sentinel-id", body=b"sentinel-body")
        ask(f"{here.url}/v1/score", body={"url": "https://sentinel-host.example/sentinel-path"})
    assert "sentinel" not in "".join(
        record.getMessage() for record in caplog.records if record.name != "urllib3.connectionpool"
    )


def test_the_monitor_away_costs_metrics_and_no_score(here: Service, picture: bytes) -> None:
    here.monitor.away = True
    try:
        assert ask(f"{here.url}/v1/score", body=picture).status == 200
        assert ask(f"{here.url}/readyz", method="GET").status == 200  # it heard of the scorer lately
        assert ask(f"{here.url}/metrics", method="GET").code == "not_ready"
    finally:
        here.monitor.away = False


def test_readiness_tells_of_replicas_that_could_not_start_beside_the_ones_that_score(here: Service) -> None:
    problem = Problem(code="weights_mismatch", message="no tensors")
    here.run(here.monitor.report(Report(replica="new", kind="scorer", problem=problem)))
    try:
        told = ask(f"{here.url}/readyz", method="GET")
    finally:
        del here.monitor.monitor._live["new"]
    assert told.status == 200
    assert "could not start lately: weights_mismatch: no tensors" in told.json()["checks"]["weights"]["detail"]
    assert "could not" not in ask(f"{here.url}/readyz", method="GET").body.decode()


def test_every_code_has_a_status() -> None:
    for kind in (ImageError, FetchError):
        for code in kind.codes:
            assert http_status(kind(code, "")) in {400, 413, 415, 422}
