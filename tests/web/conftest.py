"""Servers that misbehave in every way that the HTTP reader has to stand."""

import contextlib
import datetime
import gc
import ipaddress
import socket
import ssl
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipelines import http
from pipelines.http import HttpPolicy, HttpReader
from radet.errors import FetchError

BODY = bytes(range(256)) * 300


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
