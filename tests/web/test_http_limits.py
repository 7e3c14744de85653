"""What the HTTP reader refuses to wait for, to hold, or to trust; and many reads at once."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines import connections
from pipelines.http import HttpPolicy
from radet.errors import ConfigError

from .conftest import BODY, chunked, eventually, ok, reading, redirect, refused, silent

# --- limits


def test_announced_oversize_is_not_read(serve, read):
    def announce(sock):
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n")
        silent(sock)

    start = time.monotonic()
    error = read(serve(announce).url(), max_bytes=1000)
    assert (error.code, error.transient) == ("too_large_bytes", False)
    assert time.monotonic() - start < 2.5
    assert read(serve(ok(b"x" * 1000)).url(), max_bytes=1000) == b"x" * 1000


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 4096),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", b"x" * 4096),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1000\r\n%b\r\n" % (b"x" * 4096),
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 1000),
    ],
)
def test_unannounced_oversize_stops_at_the_cap(serve, read, head, piece):
    """The server would send for ever; it must be cut off near the cap."""
    sent = 0

    def pour(sock):
        nonlocal sent
        sock.sendall(head)
        while True:
            sent += sock.send(piece)

    assert read(serve(pour).url(), max_bytes=300_000).code == "too_large_bytes"
    assert sent < 20_000_000


@pytest.mark.parametrize("framing", ["announced", "until close", "chunked"])
def test_the_cap_is_exact(serve, read, framing):
    answer = {"announced": ok, "until close": lambda body: b"HTTP/1.1 200 OK\r\n\r\n" + body, "chunked": chunked}[
        framing
    ]
    assert read(serve(answer(b"x" * 1000)).url(), max_bytes=1000) == b"x" * 1000
    assert read(serve(answer(b"x" * 1001)).url(), max_bytes=1000).code == "too_large_bytes"


def test_a_negative_chunk_size_does_not_lift_the_cap(serve, read):
    """http.client reads to the end of the stream after it, all into memory."""
    sent = 0

    def pour(sock):
        nonlocal sent
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n")
        while sent < 200_000_000:
            sent += sock.send(b"x" * 65536)

    assert read(serve(pour).url(), max_bytes=1000, attempts=1).code == "too_large_bytes"
    assert sent < 20_000_000


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "gzip, identity"])
def test_a_compressed_body_is_refused(serve, read, encoding):
    error = read(serve(ok(b"\x1f\x8b", f"Content-Encoding: {encoding}")).url())
    assert (error.code, error.transient) == ("http_status", False)


@pytest.mark.parametrize("encoding", ["Identity ", ""])
def test_a_body_that_is_said_not_to_be_compressed_is_read(serve, read, encoding):
    assert read(serve(ok(BODY, f"Content-Encoding: {encoding}")).url()) == BODY


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nX-Slow: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFF\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
    ids=["status line", "header", "body", "chunk size", "chunk", "until close"],
)
def test_a_slow_drip_ends_at_the_deadline(serve, read, head):
    def drip(sock):
        sock.sendall(head)
        for _ in range(100):
            sock.sendall(b"0")
            time.sleep(0.05)

    start = time.monotonic()
    error = read(serve(drip).url(), total_timeout_s=0.5)
    assert (error.code, error.transient) == ("timeout", True)
    assert 0.4 < time.monotonic() - start < 3


def test_a_silent_server_ends_at_the_deadline(serve, read):
    start = time.monotonic()
    assert read(serve(silent).url(), total_timeout_s=0.4).code == "timeout"
    assert time.monotonic() - start < 2.5


@pytest.mark.parametrize("limits", [{"total_timeout_s": 0.5}, {"connect_timeout_s": 0.3, "attempts": 1}])
def test_a_silent_handshake_ends_in_time(serve, read, limits):
    server = serve(silent, greet=False)
    start = time.monotonic()
    assert read(server.url(scheme="https"), **limits).code == "timeout"
    assert time.monotonic() - start < 2.5


# --- TLS


def test_https_checks_the_name_not_the_address(serve, certificate, monkeypatch):
    names = []
    server = serve(ok(BODY), certificate=certificate("images.example"), names=names)
    monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
    trusted = frozenset({f"images.example:{server.port}", f"other.example:{server.port}"})
    with reading(HttpPolicy(trusted=trusted), resolve=lambda *_: ["127.0.0.1"]) as reader:
        assert reader.read(f"https://images.example:{server.port}/") == BODY
        assert names == ["images.example"]
        error = refused(reader, f"https://other.example:{server.port}/")
    assert (error.code, error.transient) == ("unreachable", False)
    assert "certificate" in str(error)
    assert len(server.requests) == 1


def test_a_self_signed_certificate_is_refused(serve, certificate, read):
    server = serve(ok(BODY), certificate=certificate("127.0.0.1"))
    error = read(server.url(scheme="https"))
    assert (error.code, error.transient) == ("unreachable", False)
    assert not server.requests
    assert server.accepted == 1


def test_https_slow_drip_and_downgrade(serve, certificate, monkeypatch):
    def drip(sock):
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(100):
            sock.sendall(b"x")
            time.sleep(0.05)

    plain = serve(ok(BODY))
    server = serve(redirect(plain.url()), drip, certificate=certificate("127.0.0.1"))
    monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
    trusted = frozenset({f"127.0.0.1:{server.port}", f"127.0.0.1:{plain.port}"})
    with reading(HttpPolicy(trusted=trusted, total_timeout_s=0.6)) as reader:
        assert refused(reader, server.url(scheme="https")).code == "bad_redirect"
        assert not plain.requests
        start = time.monotonic()
        assert refused(reader, server.url(scheme="https")).code == "timeout"
        assert time.monotonic() - start < 3


# --- many reads


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_sixteen_threads_share_connections(serve, certificate, monkeypatch, scheme):
    pem = certificate("127.0.0.1")
    server = serve(ok(BODY), keep_alive=True, certificate=pem if scheme == "https" else None)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    policy = HttpPolicy(trusted=frozenset({f"127.0.0.1:{server.port}"}))
    with reading(policy) as reader, ThreadPoolExecutor(16) as pool:
        bodies = list(pool.map(reader.read, [server.url(f"/{i}", scheme) for i in range(320)]))
    assert bodies == [BODY] * 320
    assert sorted(server.lines) == sorted(f"GET /{i} HTTP/1.1" for i in range(320))
    assert server.accepted <= 16


def test_a_connection_serves_only_the_address_it_was_checked_for(serve):
    server = serve(ok(BODY), keep_alive=True)
    policy = HttpPolicy(trusted=frozenset({f"a.example:{server.port}"}))
    addresses = ["127.0.0.1"]
    with reading(policy, resolve=lambda *_: addresses) as reader:
        url = f"http://a.example:{server.port}/"
        assert reader.read(url) == reader.read(url) == BODY
        assert server.accepted == 1
        addresses[:] = ["127.0.0.2"]
        assert refused(reader, url).code == "unreachable"


def test_idle_connections_are_few_and_closed(serve, monkeypatch):
    monkeypatch.setattr(connections, "_IDLE_CONNECTIONS", 2)
    servers = [serve(ok(BODY), keep_alive=True) for _ in range(4)]
    policy = HttpPolicy(trusted=frozenset(f"127.0.0.1:{server.port}" for server in servers))
    with reading(policy) as reader:
        for server in servers:
            reader.read(server.url())
        eventually(lambda: sum(server.open for server in servers) == 2)
        reader.close()
        eventually(lambda: not any(server.open for server in servers))
        assert reader.read(servers[0].url()) == BODY
        eventually(lambda: not any(server.open for server in servers))


def test_a_connection_that_the_server_closed_is_not_used_again(serve, read):
    server = serve(ok(BODY))
    policy = HttpPolicy(trusted=frozenset({f"127.0.0.1:{server.port}"}), attempts=1)
    with reading(policy) as reader:
        for _ in range(3):
            assert reader.read(server.url()) == BODY
            eventually(lambda: not server.open)


def test_drivers_import_it_without_ray_and_torch():
    code = "import sys, pipelines.http; assert not {'ray', 'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def test_policy_from_the_environment(monkeypatch):
    monkeypatch.delenv("RADET_HTTP_TRUSTED", raising=False)
    assert HttpPolicy.from_environment() == HttpPolicy()
    monkeypatch.setenv("RADET_HTTP_TRUSTED", " Images.internal:8080,, [::1]:80 ")
    assert HttpPolicy.from_environment().trusted == {"images.internal:8080", "[::1]:80"}
    for bad in ("images.internal", "http://images.internal:80", "*:80", "a:b"):
        monkeypatch.setenv("RADET_HTTP_TRUSTED", bad)
        with pytest.raises(ConfigError):
            HttpPolicy.from_environment()
    with pytest.raises(ConfigError):
        HttpPolicy(attempts=0)
