"""A small HTTP client for tests: status, headers and body, whatever the status."""

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, NamedTuple

import urllib3

_POOL = urllib3.PoolManager(maxsize=64, retries=False, timeout=urllib3.Timeout(connect=10, read=120))


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json()["error"]["code"])


def ask(url: str, *, method: str = "POST", body: Any = None, headers: dict[str, str] | None = None) -> Answer:
    """`body`: bytes as they are, anything else as JSON."""
    headers = dict(headers or {})
    if body is not None and not isinstance(body, bytes):
        body, headers = json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
    found = _POOL.request(method, url, body=body, headers=headers)
    return Answer(found.status, {name.lower(): value for name, value in found.headers.items()}, found.data)


def form(*parts: tuple[str, str | None, bytes]) -> tuple[bytes, dict[str, str]]:
    """A multipart body of (field, file name or None, content), and its header."""
    fields = [(name, content if file is None else (file, content)) for name, file, content in parts]
    body, kind = urllib3.encode_multipart_formdata(fields)
    return body, {"Content-Type": kind}


@contextmanager
def load(url: str, body: bytes, workers: int) -> Iterator[list[Answer]]:
    """Requests without a pause by so many clients, while the block runs. Status 0: the connection broke."""
    answers: list[Answer] = []
    done = Event()

    def client() -> None:
        while not done.is_set():
            try:
                answers.append(ask(f"{url}/v1/score", body=body))
            except urllib3.exceptions.HTTPError as error:
                answers.append(Answer(0, {}, str(error).encode()))

    threads = [Thread(target=client) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        done.set()
        for thread in threads:
            thread.join(60)


def eventually(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.3)


def ready(url: str) -> bool:
    try:
        return ask(f"{url}/readyz", method="GET").status == 200
    except urllib3.exceptions.HTTPError:
        return False


def under_way(url: str, picture: bytes, size: int) -> Iterator[dict[str, Any]]:
    """What is still to come of a batch, whose first answer is there."""
    items = [{"image": base64.b64encode(picture).decode()}] * size
    headers = {"Content-Type": "application/json", "Accept": "application/x-ndjson"}
    answer = urllib3.request(
        "POST", f"{url}/v1/score:batch", body=json.dumps({"items": items}), headers=headers, preload_content=False
    )
    assert answer.status == 200, answer.data
    answer.auto_close = False  # which would take the end from those who read by lines
    lines = (json.loads(line) for line in io.BufferedReader(answer))
    assert next(lines)["error"] is None
    return lines
