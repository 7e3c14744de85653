"""An HTTP proxy in front of the S3 server that keeps a log, and fails on purpose, in bursts, from a seed.

Requests are passed on with the Host header they came with, so signatures hold.

    503     an answer with S3's SlowDown, the request is not passed on
    cut     the request is passed on, its answer is lost half-way: the hard case for writes, which have happened
    stall   no answer for `stall_s` seconds, then the connection is closed
"""

import http.client
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, NamedTuple
from urllib.parse import urlsplit

_SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>by the test's proxy</Message></Error>"
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class Request(NamedTuple):
    """One that came in. `fault` is the one it met, "" for none."""

    method: str
    path: str
    fault: str


class Bursts:
    """Every `every` requests on average a burst of `length` begins, whose requests all meet one kind of fault.

    From the seed and the number of the request alone, so two runs with the same requests meet the same faults.
    """

    def __init__(self, *, seed: int, every: int, length: int, kinds: tuple[str, ...] = ("503", "cut")) -> None:
        self._random = random.Random(seed)
        self._every, self._length, self._kinds = every, length, kinds
        self._left, self._kind = 0, ""
        self._lock = threading.Lock()

    def __call__(self, _: "Request") -> str:
        with self._lock:
            if self._left == 0 and self._random.random() < 1 / self._every:
                self._left, self._kind = self._length, self._random.choice(self._kinds)
            if self._left == 0:
                return ""
            self._left -= 1
            return self._kind


class Proxy:
    """`endpoint` is for AWS_ENDPOINT_URL; `faults` may be set and cleared while it runs."""

    def __init__(self, upstream: str, *, stall_s: float = 40.0) -> None:
        self.faults: Callable[[Request], str] | None = None
        self.requests: list[Request] = []
        handler = type("Handler", (_Handler,), {"proxy": self, "upstream": urlsplit(upstream).netloc, "stall": stall_s})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True, name="s3-proxy").start()

    def count(self, method: str, part: str) -> int:
        """Requests of a method whose path contains `part`."""
        return sum(1 for request in self.requests if request.method == method and part in request.path)

    def faults_met(self) -> dict[str, int]:
        kinds = [request.fault for request in self.requests if request.fault]
        return {kind: kinds.count(kind) for kind in sorted(set(kinds))}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def proxy(upstream: str, **options: Any) -> Iterator[Proxy]:
    made = Proxy(upstream, **options)
    try:
        yield made
    finally:
        made.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: ClassVar[Proxy]
    upstream: ClassVar[str]
    stall: ClassVar[float]

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _serve(self) -> None:
        body = self._body()
        request = Request(self.command, self.path, "")
        fault = "" if self.proxy.faults is None else self.proxy.faults(request)
        self.proxy.requests.append(request._replace(fault=fault))
        if fault == "503":
            self._answer(503, [("Content-Type", "application/xml")], _SLOW_DOWN)
            return
        if fault == "stall":
            time.sleep(self.stall)
            self.close_connection = True
            return
        status, headers, data = self._passed_on(body)
        if fault == "cut":
            self._answer(status, headers, data, cut=True)
            self.close_connection = True
            return
        self._answer(status, headers, data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815 - the base class's names

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _passed_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP_BY_HOP | {"expect"}:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            data = answer.read()
            length = answer.getheader("Content-Length")
            headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP]
            if self.command == "HEAD" and length is not None:
                headers.append(("Content-Length", length))
            return answer.status, headers, data
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, *, cut: bool = False) -> None:
        try:
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            if self.command != "HEAD" and status != 204:
                self.send_header("Content-Length", str(len(data)))
            if cut and not data:
                return  # not even the header leaves: it is still in the buffer
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if cut else data)
        except OSError:
            self.close_connection = True  # the client has gone

    def log_message(self, *_: Any) -> None:
        pass
