"""Bodies over real HTTP: what is refused before it is parsed, and whose id a picture has."""

import base64
import codecs
import json
import socket
import tempfile
import time
from contextlib import ExitStack
from typing import Any

import pytest

from .client import ask, form
from .service import Service

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("item", [b"{}", b"0", b"[]", b'{"image":"aGk="}'])
def test_a_small_body_of_a_million_values_is_refused_unread(here: Service, item: bytes) -> None:
    body = b'{"items":[' + b",".join([item] * ((3 << 20) // (len(item) + 1))) + b"]}"
    begun = time.perf_counter()
    answer = ask(f"{here.url}/v1/score:batch", body=body, headers=JSON)
    assert (answer.status, answer.code) == (413, "too_many_items")
    assert time.perf_counter() - begun < 2, "parsed, it takes three to ten seconds"
    answer = ask(f"{here.url}/v1/score", body=body, headers=JSON)
    assert (answer.status, answer.code) == (400, "bad_request")
    assert "more than one picture" in answer.json()["error"]["message"]


def test_deep_and_wrong_bodies_are_told_apart_from_long_ones(here: Service) -> None:
    for body in (b'{"items":' + b"[" * 5000, b'{"items":[' + b"0," * 4000 + b"0]}"):
        assert ask(f"{here.url}/v1/score:batch", body=body, headers=JSON).code == "bad_request"
    told = ask(f"{here.url}/v1/score:batch", body=b'["aGk="]', headers=JSON).json()["error"]["message"]
    assert 'write {"items": [{"image": BASE64}' in told


def test_what_a_full_batch_may_hold_passes(here: Service) -> None:
    """Addresses and ids with commas and braces in them, and one as long as it may be."""
    items = [{"url": f"http://10.0.0.1/w_100,h_100,{'{x},' * 8}a.jpg", "external_id": '{"post": [17, 18]}'}] * 63
    items.append({"url": f"http://10.0.0.1/{',' * 8000}"})
    told = ask(f"{here.url}/v1/score:batch", body={"items": items}).json()["items"]
    assert [item["error"]["code"] for item in told] == ["blocked_address"] * 64
    assert ask(f"{here.url}/v1/score", body=items[-1]).code == "blocked_address"


def scored(here: Service, body: Any, headers: dict[str, str], query: str = "") -> Any:
    answer = ask(f"{here.url}/v1/score{query}", body=body, headers=headers)
    assert answer.status == 200, answer.body
    return answer.json()


def test_a_forms_own_id_comes_before_the_querys_and_that_before_the_files_name(here: Service, picture: bytes) -> None:
    own, headers = form(("file", "a.jpg", picture), ("external_id", None, b"own"))
    assert scored(here, own, headers, "?external_id=asked")["external_id"] == "own"
    named, headers = form(("file", "a.jpg", picture))
    assert scored(here, named, headers, "?external_id=asked")["external_id"] == "asked"
    assert scored(here, named, headers)["external_id"] == "a.jpg"


def test_an_id_that_is_too_long_is_an_error_wherever_it_stands(here: Service, picture: bytes) -> None:
    long = "x" * 257
    body, headers = form(("file", "a.jpg", picture), ("external_id", None, long.encode()))
    for path in ("score", "score:batch", "explain"):
        answer = ask(f"{here.url}/v1/{path}", body=body, headers=headers)
        assert (answer.status, answer.code) == (400, "bad_request"), path
        assert "256" in answer.json()["error"]["message"]
    assert ask(f"{here.url}/v1/score?external_id={long}", body=picture).code == "bad_request"
    body, headers = form(("file", "a.jpg", picture), ("external_id", None, long[1:].encode()))
    assert scored(here, body, headers)["id"] == long[1:]


def test_the_callers_charset_is_not_taken(here: Service, picture: bytes) -> None:
    """In UTF-7 this name is half of a character, which no answer can hold."""
    body, headers = form(("file", "a+2AA-ü.jpg", picture))
    boundary = headers["Content-Type"].partition("boundary=")[2]
    headers = {"Content-Type": f"multipart/form-data; charset=utf-7; boundary={boundary}"}
    assert scored(here, body, headers)["external_id"] == "a+2AA-ü.jpg"
    told = ask(f"{here.url}/v1/score:batch", body=body, headers=headers).json()["items"]
    assert [item["external_id"] for item in told] == ["a+2AA-ü.jpg"]
    smuggled = rf'multipart/form-data; boundary="{boundary}\"; charset=utf-7; x=\"y"'
    assert ask(f"{here.url}/v1/score", body=body, headers={"Content-Type": smuggled}).code == "bad_request"


def test_no_file_of_a_form_is_written_to_a_disk(here: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", written.append)
    body, headers = form(*(("file", f"{name}.jpg", b"\xff" * 3_000_000) for name in "abc"))
    assert ask(f"{here.url}/v1/score:batch", body=body, headers=headers).status == 200
    assert not written


@pytest.mark.parametrize("kind", ["lines", "url-safe", "unpadded"])
def test_base64_in_every_spelling(here: Service, picture: bytes, kind: str) -> None:
    while len(picture) % 3 == 0 or not {"+", "/"} <= set(base64.b64encode(picture).decode()):
        picture += b"\0"  # what lies behind a picture's end is ignored
    text = {
        "lines": base64.encodebytes(picture).decode().replace("\n", "\r\n"),
        "url-safe": base64.urlsafe_b64encode(picture).decode(),
        "unpadded": base64.b64encode(picture).decode().rstrip("="),
    }[kind]
    plain = scored(here, {"image": base64.b64encode(picture).decode()}, {})
    assert scored(here, {"image": text}, {})["sha256"] == plain["sha256"]
    assert scored(here, {"image": f"data:image/jpeg;base64,{text}"}, {})["sha256"] == plain["sha256"]
    assert ask(f"{here.url}/v1/score", body={"image": f"{text}ü"}).code == "bad_request"


def test_json_may_start_with_a_byte_order_mark(here: Service, picture: bytes) -> None:
    one = {"image": base64.b64encode(picture).decode()}
    assert scored(here, codecs.BOM_UTF8 + json.dumps(one).encode(), JSON)["status"] == "ok"
    many = codecs.BOM_UTF8 + json.dumps({"items": [one]}).encode()
    assert ask(f"{here.url}/v1/score:batch", body=many, headers=JSON).status == 200


def test_no_picture_of_a_form_that_breaks_off_is_lost_in_silence(here: Service, picture: bytes) -> None:
    body, headers = form(("file", "a.jpg", picture), ("file", "b.jpg", picture))
    for cut in (3, 40, len(picture) // 2):
        answer = ask(f"{here.url}/v1/score:batch", body=body[:-cut], headers=headers)
        assert (answer.status, answer.code) == (400, "bad_request")
        assert "breaks off" in answer.json()["error"]["message"]
    answer = ask(f"{here.url}/v1/score:batch", body=body + b"and more", headers=headers)
    assert [item["error"] for item in answer.json()["items"]] == [None, None]


def test_json_that_is_not_called_so_is_told_from_what_is_no_picture(here: Service) -> None:
    """`curl -d` calls it a form."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = ask(f"{here.url}/v1/score", body=b'{"url": "https://example.org/a.jpg"}', headers=headers)
    assert (answer.status, answer.code) == (400, "bad_request")
    assert "Content-Type: application/json" in answer.json()["error"]["message"]


def test_uploads_of_unknown_length_leave_room_for_others(here: Service, picture: bytes) -> None:
    host, port = here.url.removeprefix("http://").split(":")
    head = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    with ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=10)).sendall(head)
        while here.front._requests < 12:
            time.sleep(0.02)
        assert ask(f"{here.url}/v1/score", body=picture).status == 200


def test_a_body_of_unknown_length_is_cut_off_at_the_cap(here: Service) -> None:
    host, port = here.url.removeprefix("http://").split(":")
    head = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    here.front.reconfigure({"max_bytes": 4096, "body_timeout_s": 5})
    try:
        with socket.create_connection((host, int(port)), timeout=20) as sending:
            sending.sendall(head + b"1388\r\n" + bytes(5000) + b"\r\n")  # and it has not ended
            answer = sending.makefile("rb").read()
    finally:
        here.front.reconfigure({})
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"too_large_bytes" in answer


def test_a_picture_that_curl_has_shortened_says_so(here: Service, picture: bytes) -> None:
    """`curl -d @FILE` leaves out line ends and zeros."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    stripped = picture.translate(None, b"\r\n\0")
    told = ask(f"{here.url}/v1/score", body=stripped, headers=headers)
    assert told.status == 400
    assert "--data-binary" in told.json()["error"]["message"]
    assert ask(f"{here.url}/v1/score", body=picture, headers=headers).status == 200
