"""The HTTP reader against real servers of this process: what it reads, what it refuses, and that it never hangs."""

import contextlib
import datetime
import gc
import ipaddress
import pickle
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import urllib3.util.connection
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipelines import connections, http
from pipelines.http import HttpPolicy, HttpReader
from radet.errors import ConfigError, FetchError

BODY = bytes(range(256)) * 300


def test_reads_a_body_and_says_who_asks(serve, read):
    server = serve(ok(BODY))
    assert read(server.url("/a.png?q=1#f")) == BODY
    line, headers = server.requests[0]
    assert line == "GET /a.png?q=1 HTTP/1.1"
    assert headers["host"] == f"127.0.0.1:{server.port}"
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"].startswith("radet/")
    assert headers["user-agent"].endswith(" (+image scoring)")
    assert not {"cookie", "authorization", "proxy-authorization", "referer"} & set(headers)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n12C00\r\n" + BODY + b"\r\n0\r\nTrailer: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 76800\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nContent-Length: 76800\r\nContent-Encoding: identity\r\n\r\n" + BODY + b"and more",
    ],
    ids=["until close", "chunked", "continue", "more than announced"],
)
def test_every_framing(serve, read, answer):
    assert read(serve(answer).url()) == BODY


def test_an_empty_body_is_a_body(serve, read):
    assert read(serve(ok(b"")).url()) == b""


def test_no_proxy_cookie_or_netrc(serve, read, monkeypatch, tmp_path):
    trap = serve(ok(b"proxy"))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://user:password@127.0.0.1:{trap.port}")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    server = serve(ok(BODY, "Set-Cookie: a=b"))
    assert read(server.url()) == BODY
    assert read(server.url()) == BODY
    assert not trap.requests
    assert all(not {"cookie", "authorization"} & set(headers) for _, headers in server.requests)


# --- where it goes


def test_connects_to_the_address_that_was_checked(serve, monkeypatch):
    """DNS rebinding: public when checked, this machine when asked again. It is not asked again."""
    server = serve(ok(BODY))
    connected = []
    original = urllib3.util.connection.create_connection

    def create_connection(address, *args, **kwargs):
        connected.append(address)
        return original(("127.0.0.1", server.port), *args, **kwargs)

    monkeypatch.setattr(urllib3.util.connection, "create_connection", create_connection)
    answers = iter([["93.184.216.34"]])
    with reading(HttpPolicy(), resolve=lambda *_: next(answers, ["127.0.0.1"])) as reader:
        assert reader.read("http://rebind.example/a.png") == BODY
        assert connected == [("93.184.216.34", 80)]
        assert server.requests[0][1]["host"] == "rebind.example"
        assert refused(reader, "http://rebind.example/a.png").code == "blocked_address"
    assert len(connected) == 1


def test_one_look_up_a_hop_and_none_while_connecting(serve, monkeypatch):
    """Retries and redirects included; the system's resolver sees only numbers."""
    server = serve(status(503), redirect("/there"), ok(BODY))
    asked, system = [], []
    original = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        system.append(host)
        return original(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    def resolve(host, port):
        asked.append((host, port))
        return ["127.0.0.1"]

    trusted = frozenset({f"images.example:{server.port}"})
    with reading(HttpPolicy(trusted=trusted), resolve) as reader:
        assert reader.read(f"http://images.example:{server.port}/") == BODY
    assert asked == [("images.example", server.port)] * 2
    assert set(system) == {"127.0.0.1"}
    assert {headers["host"] for _, headers in server.requests} == {f"images.example:{server.port}"}


def test_nothing_is_sent_to_an_untrusted_port_of_this_machine(serve):
    server = serve(ok(BODY))
    with reading(HttpPolicy(ports=frozenset({80, server.port})), resolve=lambda *_: ["127.0.0.1"]) as reader:
        for host in ("127.0.0.1", "localhost", "images.example", "[::1]", "[::ffff:127.0.0.1]", "0x7f000001"):
            assert refused(reader, f"http://{host}:{server.port}/").code == "blocked_address"
    assert server.accepted == 0


def test_a_dead_address_costs_one_try(serve):
    server = serve(ok(BODY))
    policy = HttpPolicy(trusted=frozenset({f"images.example:{server.port}"}))
    with reading(policy, resolve=lambda *_: ["127.0.0.9", "127.0.0.1"]) as reader:
        assert reader.read(f"http://images.example:{server.port}/") == BODY


# --- redirects


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_follows_redirects(serve, read, code):
    other = serve(ok(BODY))
    server = serve(redirect("../c/d?e=%20", code), redirect(other.url("/é"), code))
    assert read(server.url("/a/b")) == BODY
    assert server.lines == ["GET /a/b HTTP/1.1", "GET /c/d?e=%20 HTTP/1.1"]
    assert other.lines == ["GET /%C3%A9 HTTP/1.1"]


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "//169.254.169.254/latest/meta-data/",
        "http://127.0.0.1/",
        "http://127.0.0.1:1/",
        "http://[::1]/",
        "http://[::1",
        "http://2130706433/",
        "http://inside.example/",
        "http://user:secret@images.example/",
        "http://images.example:6379/",
        "file:///etc/passwd",
        "file:/etc/passwd",
        "gopher://127.0.0.1:70/",
        "ftp://images.example/",
        "",
    ],
)
def test_a_redirect_to_a_blocked_place(serve, location):
    server = serve(redirect(location))
    policy = HttpPolicy(trusted=frozenset({f"127.0.0.1:{server.port}"}))
    with reading(policy, resolve=lambda *_: ["10.1.2.3"]) as reader:
        error = refused(reader, server.url())
    assert error.code == "bad_redirect"
    assert not error.transient
    assert "secret" not in str(error)
    assert "10.1.2.3" not in str(error)
    assert server.accepted == 1


def test_a_redirect_without_location(serve, read):
    assert read(serve(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n").url()).code == "bad_redirect"


def test_a_redirect_loop_ends(serve, read):
    server = serve(redirect("/"))
    error = read(server.url(), max_redirects=3)
    assert error.code == "bad_redirect"
    assert len(server.requests) == 4
    assert read(serve(redirect("/"), ok(BODY)).url(), max_redirects=1) == BODY
    assert read(serve(redirect("/"), ok(BODY)).url(), max_redirects=0).code == "bad_redirect"


# --- statuses, retries


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (404, ("not_found", False, 1)),
        (410, ("not_found", False, 1)),
        (401, ("forbidden", False, 1)),
        (403, ("forbidden", False, 1)),
        (204, ("http_status", False, 1)),
        (206, ("http_status", False, 1)),
        (304, ("http_status", False, 1)),
        (300, ("http_status", False, 1)),
        (418, ("http_status", False, 1)),
        (429, ("http_status", True, 3)),
        (500, ("http_status", True, 3)),
        (503, ("http_status", True, 3)),
        (599, ("http_status", True, 3)),
    ],
)
def test_statuses(serve, read, code, expected):
    name, transient, requests = expected
    server = serve(status(code))
    error = read(server.url("/a?token=secret"))
    assert (error.code, error.transient) == (name, transient)
    assert len(server.requests) == requests
    assert str(error) == f"http://127.0.0.1: HTTP status {code}"
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.code, copy.transient) == (FetchError, name, transient)


def test_503_then_ok(serve, read):
    assert read(serve(status(503), status(429), ok(BODY)).url()) == BODY
    assert read(serve(status(503), ok(BODY)).url(), attempts=1).code == "http_status"


@pytest.mark.parametrize(
    ("value", "least", "cap"),
    [("1", 1, 5), ("9999", 0.4, 0.4), ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 5), ("soon", 0, 5), ("9" * 5000, 0, 5)],
)
def test_retry_after_is_honoured_up_to_a_cap(serve, read, value, least, cap):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http, "_RETRY_AFTER_CAP_S", cap)
        start = time.monotonic()
        assert read(serve(status(503, f"Retry-After: {value}"), ok(BODY)).url()) == BODY
    assert least <= time.monotonic() - start < least + 2


def test_tries_are_apart(serve, read, monkeypatch):
    monkeypatch.setattr(http, "_BACKOFF_S", 0.2)
    start = time.monotonic()
    read(serve(status(503)).url())
    assert 0.3 <= time.monotonic() - start < 3


def test_no_pause_beyond_the_deadline(serve, read):
    server = serve(status(503, "Retry-After: 4"))
    start = time.monotonic()
    assert read(server.url(), total_timeout_s=1.0).code == "http_status"
    assert time.monotonic() - start < 0.9
    assert len(server.requests) == 1


# --- the network


def test_refused_connection(read):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    error = read(f"http://127.0.0.1:{port}/?token=secret")
    assert (error.code, error.transient) == ("unreachable", True)
    assert "secret" not in str(error)


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"])
def test_reset(serve, read, sent):
    def reset(sock):
        sock.sendall(sent)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    server = serve(reset)
    error = read(server.url())
    assert (error.code, error.transient) == ("unreachable", True)
    assert server.accepted == 3
    assert read(serve(reset, ok(BODY)).url()) == BODY


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70000 + b"\r\n\r\n",
    ],
    ids=lambda answer: repr(answer[:60]),
)
def test_truncated_and_malformed_answers(serve, read, answer):
    server = serve(answer)
    error = read(server.url())
    assert (error.code, error.transient) == ("unreachable", True)
    assert server.accepted == 3


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


# --- the servers


class AnyPort(frozenset):
    """Trusts each port of this machine, for a redirect may lead from one server of a test to the next."""

    def __contains__(self, pair):
        return pair.startswith("127.0.0.1:")


def reading(policy, resolve=http.resolve_host):
    return contextlib.closing(HttpReader(policy, resolve))


def refused(reader, url):
    with pytest.raises(FetchError) as caught:
        reader.read(url)
    return caught.value


def eventually(condition):
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def ok(body, *headers):
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(body):
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def status(code, *headers):
    return "\r\n".join([f"HTTP/1.1 {code} X", "Content-Length: 0", *headers, "", ""]).encode()


def redirect(location, code=302):
    return status(code, f"Location: {location}")


def silent(sock):
    sock.settimeout(3)
    while sock.recv(4096):
        pass


class Server:
    """Answers the n-th request with the n-th answer (bytes, or what writes to the socket), the last one repeated."""

    def __init__(self, *answers, certificate=None, names=None, keep_alive=False, greet=True):
        self.answers, self.certificate, self.keep_alive, self.greet = answers, certificate, keep_alive, greet
        self.requests, self.accepted, self.open = [], 0, 0
        self.lock, self.threads = threading.Lock(), []
        self.tls = None
        if certificate is not None:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(certificate)
            self.tls.sni_callback = lambda _sock, name, _context: None if names is None else names.append(name)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.start(self.accept)

    @property
    def lines(self):
        return [line for line, _ in self.requests]

    def url(self, path="/", scheme="http"):
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def start(self, target, *args):
        thread = threading.Thread(target=target, args=args)
        self.threads.append(thread)
        thread.start()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                self.accepted += 1
                self.open += 1
            self.start(self.talk, sock)

    def talk(self, sock):
        try:
            if self.tls is not None:
                sock.settimeout(5)
                sock = self.tls.wrap_socket(sock, server_side=True)
            with sock.makefile("rb") as stream:
                while self.answer(sock, stream) and self.keep_alive:
                    pass
        except OSError:
            pass
        finally:
            sock.close()
            with self.lock:
                self.open -= 1

    def answer(self, sock, stream):
        lines = []
        while self.greet and (line := stream.readline().decode().strip()):
            lines.append(line)
        if self.greet and not lines:
            return False
        with self.lock:
            turn = self.answers[min(len(self.requests), len(self.answers) - 1)]
            headers = dict(line.lower().split(": ", 1) for line in lines[1:])
            self.requests.append((lines[0] if lines else "", headers))
        if callable(turn):
            turn(sock)
        else:
            sock.sendall(turn)
        return True

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(http, "_BACKOFF_S", 0.01)


@pytest.fixture
def serve():
    servers = []

    def make(*answers, **options):
        servers.append(Server(*answers, **options))
        return servers[-1]

    yield make
    for server in servers:
        server.close()
    gc.collect()  # a socket that was left open is a ResourceWarning here, and so a failure of this very test


@pytest.fixture
def read():
    """One read of a trusted URL: the body, or the FetchError."""

    def one(url, **limits):
        with reading(HttpPolicy(trusted=AnyPort(), **limits)) as reader:
            try:
                return reader.read(url)
            except FetchError as error:
                return error

    return one


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A self-signed certificate for one name or address, as a PEM file with its key."""

    def make(name):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        try:
            alternative = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            alternative = x509.DNSName(name)
        now = datetime.datetime.now(datetime.UTC)
        built = (
            x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        path = tmp_path_factory.mktemp("tls") / "certificate.pem"
        path.write_bytes(
            built.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return path

    return make
