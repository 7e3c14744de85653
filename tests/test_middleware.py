"""Around a request: its id, its code, and what is logged where it fails."""

import asyncio
import base64
import json
import logging
import socket
import time
from typing import Any

import pytest

from pipelines.routes import build_app

from .client import ask, form
from .service import Service


def counted(here: Service) -> dict[tuple[str, str], float]:
    """Requests by route and code."""
    time.sleep(0.05)  # an answer is counted when it has been sent
    found = next((family.samples for family in here.front.meters.snapshot() if family.name == "radet_requests"), [])
    return {(dict(labels)["route"], dict(labels)["code"]): value for _, labels, value in found}


def grown(here: Service, before: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """What has been counted since, once it has."""
    for _ in range(200):
        after = counted(here)
        new = {key: value - before.get(key, 0.0) for key, value in after.items() if value != before.get(key, 0.0)}
        if new:
            return new
    return {}


def sent(here: Service, head: bytes, body: bytes) -> socket.socket:
    host, port = here.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(head + b"Host: x\r\n\r\n" + body)
    return connection


def test_a_caller_who_leaves_before_his_body_has_come_is_cancelled(here: Service) -> None:
    before = counted(here)
    sent(here, b"POST /v1/score HTTP/1.1\r\nContent-Length: 1000\r\n", b"ab").close()
    assert grown(here, before) == {("/v1/score", "cancelled"): 1}


def test_a_caller_who_leaves_within_a_stream_is_cancelled(here: Service) -> None:
    items = json.dumps({"items": [{"image": "aGk="}] * 63 + [{"url": "http://a.example/"}]}).encode()
    before, held = counted(here), asyncio.Event()

    async def hold(*_: Any, **options: Any) -> None:
        await held.wait()

    score, here.front.score = here.front.score, hold  # type: ignore[method-assign,assignment]
    try:
        head = b"POST /v1/score:batch HTTP/1.1\r\nAccept: application/x-ndjson\r\nContent-Type: application/json\r\n"
        caller = sent(here, head + b"Content-Length: %d\r\n" % len(items), items)
        assert b"200 OK" in caller.recv(4096)
        caller.close()
        assert grown(here, before) == {("/v1/score:batch", "cancelled"): 1}
    finally:
        here.front.score = score  # type: ignore[method-assign]


def test_a_request_that_is_called_off_is_cancelled(here: Service, picture: bytes) -> None:
    """As Serve does when a caller has left, or after its own time."""
    app, before = build_app(here.front), counted(here)
    headers = [(b"content-length", b"%d" % len(picture))]
    scope = {"type": "http", "method": "POST", "path": "/v1/score", "query_string": b"", "headers": headers}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": picture, "more_body": False}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    async def run() -> None:
        request = asyncio.create_task(app(scope, receive, send))
        while not here.front._requests:
            await asyncio.sleep(0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    here.run(run())
    assert grown(here, before) == {("/v1/score", "cancelled"): 1}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_fault_is_logged_by_type_and_place_without_its_words(
    here: Service, picture: bytes, streamed: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any, **options: Any) -> None:
        raise UnicodeError("sentinel-id")

    monkeypatch.setattr(here.front, "score", broken)
    before = counted(here)
    with caplog.at_level(logging.DEBUG):
        if streamed:
            body = b'{"items": [{"image": "aGk="}]}'
            head = (
                b"POST /v1/score:batch HTTP/1.1\r\nAccept: application/x-ndjson\r\nContent-Type: application/json\r\n"
            )
            with sent(here, head + b"Content-Length: %d\r\n" % len(body), body) as caller:
                while caller.recv(4096):
                    pass
        else:
            answer = ask(f"{here.url}/v1/score", body=picture)
            assert (answer.status, answer.code) == (500, "internal")
        route = "/v1/score:batch" if streamed else "/v1/score"
        assert grown(here, before) == {(route, "internal"): 1}
        time.sleep(0.2)  # the server's own line
    formatter = logging.Formatter()
    text = "\n".join(map(formatter.format, caplog.records))
    assert "UnicodeError" in text
    assert "in broken" in text
    assert "sentinel" not in text


@pytest.mark.parametrize("path", ["score", "explain", "score:batch"])
def test_without_memory_for_it_a_request_may_be_sent_again(
    here: Service, picture: bytes, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("radet.rows.decode_picture", _without_memory)
    one = {"image": base64.b64encode(picture).decode()}
    if path == "score:batch":
        told = ask(f"{here.url}/v1/{path}", body={"items": [one, {"image": ""}]}).json()["items"]
        assert [item["error"]["code"] for item in told] == ["overloaded", "empty"]
        return
    answer = ask(f"{here.url}/v1/{path}", body=one)
    assert (answer.status, answer.code) == (503, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1
    monkeypatch.undo()
    monkeypatch.setattr("starlette.formparsers.MultiPartParser.parse", _without_memory)
    body, headers = form(("file", "a.jpg", picture))
    assert ask(f"{here.url}/v1/{path}", body=body, headers=headers).code == "overloaded"


def _without_memory(*_: Any, **options: Any) -> Any:
    raise MemoryError


@pytest.mark.parametrize("given", ["Root=1-67891233-abc", "00-4bf9/2f:a+b;c_d.e", "x" * 256])
def test_an_id_of_the_callers_is_kept(here: Service, picture: bytes, given: str) -> None:
    for body in (picture, b"no picture"):
        told = ask(f"{here.url}/v1/score", body=body, headers={"X-Request-ID": given}).json()
        assert (told.get("error") or told)["request_id"] == given


@pytest.mark.parametrize("given", [None, "two words", "<b>", "x" * 257])
def test_an_id_of_ours_is_in_the_header_too(here: Service, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-ID": given}
    answer = ask(f"{here.url}/v1/score", body=b"no picture", headers=headers)
    assert answer.headers["x-request-id"] == answer.json()["error"]["request_id"] != given


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/model", "/metrics", "/", "/docs"])
def test_what_can_be_read_can_be_asked_for_its_headers(here: Service, path: str) -> None:
    whole, head = (ask(here.url + path, method=method) for method in ("GET", "HEAD"))
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]
    assert ask(f"{here.url}/v1/score", method="HEAD").status == 405


def test_a_slash_too_many_leads_nowhere(here: Service, picture: bytes) -> None:
    answer = ask(f"{here.url}/v1/score/", body=picture, headers={"Host": "elsewhere.example"})
    assert (answer.status, answer.code) == (404, "no_such_page")
    assert "location" not in answer.headers
