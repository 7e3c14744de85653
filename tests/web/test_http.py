"""The HTTP reader against real servers of this process: what it reads, what it refuses, and that it never hangs."""

import pickle
import socket
import struct
import time

import pytest
import urllib3.util.connection

from pipelines import http
from pipelines.http import HttpPolicy
from radet.errors import FetchError

from .conftest import BODY, ok, reading, redirect, refused, status


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


def test_a_redirect_to_a_name_that_does_not_resolve_now_may_lead_somewhere_tomorrow(serve):
    def resolve(*_):
        raise OSError("no answer")

    server = serve(redirect("http://images.example/a.png"))
    with reading(HttpPolicy(trusted=frozenset({f"127.0.0.1:{server.port}"})), resolve=resolve) as reader:
        error = refused(reader, server.url())
    assert (error.code, error.transient) == ("unreachable", True)


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
