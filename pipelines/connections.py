"""Connections to checked addresses, one GET at a time, each under a deadline that no server can stretch."""

import http.client
import io
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.response import HTTPResponse

from pipelines.gate import Hop

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_IDLE_CONNECTIONS = 64


class Connections:
    """Thread-safe. A connection whose answer was read to its end is kept, and used again for the same checked address.

    Built on urllib3's connections instead of its pools, for those take a host name where this needs an address, and
    a timeout for each read where this needs one for all.
    """

    def __init__(self, *, connect_timeout_s: float, max_wire_bytes: int) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._max_wire_bytes = max_wire_bytes
        self._tls = ssl.create_default_context()
        self._lock = Lock()
        self._idle: list[tuple[tuple[str, ...], HTTPConnection]] = []
        self._closed = False

    @contextmanager
    def get(self, hop: Hop, address: str, headers: Mapping[str, str], deadline: float) -> Iterator[HTTPResponse]:
        """The answer to one GET, its body unread.

        Raises what urllib3, http.client and sockets raise, and OverflowError beyond `max_wire_bytes`.
        """
        key = (hop.scheme, hop.netloc, address)
        connection = self._take(key) or self._new(hop, address)
        with ExitStack() as opened:
            opened.callback(connection.close)
            response = self._send(connection, hop, headers, deadline, opened)
            yield response
            if response.closed and not connection.is_closed:
                opened.pop_all()
                self._keep(key, connection)

    def close(self) -> None:
        """Close the idle connections; those in use are closed when their answer ends."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def _new(self, hop: Hop, address: str) -> HTTPConnection:
        if hop.scheme == "http":
            return HTTPConnection(address, hop.port)
        return HTTPSConnection(address, hop.port, ssl_context=self._tls, server_hostname=hop.host.strip("[]"))

    def _send(
        self, connection: HTTPConnection, hop: Hop, headers: Mapping[str, str], deadline: float, opened: ExitStack
    ) -> HTTPResponse:
        def respond(sock: socket.socket, **options: Any) -> http.client.HTTPResponse:
            response = _DeadlineResponse(sock, deadline=deadline, allowance=self._max_wire_bytes, **options)
            opened.callback(response.close)  # urllib3 forgets it when it finds fault with the header
            return response

        if connection.is_closed:
            # Half of what is left for each of the TCP and the TLS handshake, which share this one setting.
            connection.timeout = min(self._connect_timeout_s, _left(deadline) / 2)
            connection.connect()
        connection.timeout = _left(deadline)
        connection.response_class = respond  # type: ignore[assignment]
        connection.request(
            "GET", hop.target, headers={"Host": hop.netloc, **headers}, preload_content=False, decode_content=False
        )
        return connection.getresponse()

    def _take(self, key: tuple[str, ...]) -> HTTPConnection | None:
        with self._lock:
            index = next((i for i, (other, _) in enumerate(self._idle) if other == key), None)
            connection = None if index is None else self._idle.pop(index)[1]
        if connection is None or connection.is_connected:
            return connection
        connection.close()
        return None

    def _keep(self, key: tuple[str, ...], connection: HTTPConnection) -> None:
        with self._lock:
            self._idle.append((key, connection))
            limit = 0 if self._closed else _IDLE_CONNECTIONS
            surplus = self._idle[: max(0, len(self._idle) - limit)]
            del self._idle[: len(surplus)]
        for _, old in surplus:
            old.close()


class _DeadlineFile(io.RawIOBase):
    """A socket's raw file in which every read gets only the time and the bytes that are left.

    A timeout of the socket starts anew with every byte received, so alone it never ends a slow drip; and http.client
    reads without limit after a negative chunk size.
    """

    def __init__(self, sock: socket.socket, deadline: float, allowance: int) -> None:
        self._sock, self._deadline, self._allowance = sock, deadline, allowance
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        self._sock.settimeout(_left(self._deadline))
        count = self._raw.readinto(buffer)
        self._allowance -= count or 0
        if self._allowance < 0:
            raise OverflowError("far more bytes on the wire than the body may have")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _DeadlineResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *, deadline: float, allowance: int, **options: Any) -> None:
        super().__init__(sock, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_DeadlineFile(sock, deadline, allowance))


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no time left")
    return left
