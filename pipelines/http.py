"""Safe HTTP(S) reads: bytes from a URL that a stranger wrote, never from this network's inside.

The URL and every redirect pass the same gate (gate.py), and the connection goes to an address that it checked.
Environment proxies, cookies and netrc play no part. One deadline holds for the whole read: look-ups, redirects,
retries and a server that drips.

What is refused, and as what: the URL itself `blocked_address`; a redirect to such a place, from https to http,
without a target or one too many `bad_redirect`; a certificate that does not verify `unreachable`, not transient;
a compressed body, though identity was asked, `http_status`: nothing is ever decompressed here.
"""

import itertools
import os
import random
import re
import ssl
import time
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import urljoin

from urllib3.exceptions import HTTPError, InvalidHeader, NewConnectionError
from urllib3.exceptions import TimeoutError as UrllibTimeout
from urllib3.response import HTTPResponse
from urllib3.util import Retry

from pipelines.connections import Connections
from pipelines.gate import Gate, Hop, Resolve, resolve_host
from radet.errors import ConfigError, FetchError

_CHUNK = 1 << 16
_BACKOFF_S = 0.2
_RETRY_AFTER_CAP_S = 5.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ERROR_BY_STATUS = {401: "forbidden", 403: "forbidden", 404: "not_found", 410: "not_found"}
_TRUSTED = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+):[0-9]{1,5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpPolicy:
    """What a read may cost and where it may go. `trusted`: "host:port" pairs that skip the address and port check."""

    max_bytes: int = 64 << 20
    total_timeout_s: float = 30.0
    connect_timeout_s: float = 5.0
    max_redirects: int = 3
    attempts: int = 3  # per hop
    ports: frozenset[int] = frozenset({80, 443})
    trusted: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigError(f"attempts must be at least 1, not {self.attempts}")
        for pair in self.trusted:
            if not _TRUSTED.fullmatch(pair):
                raise ConfigError(f"a trusted HTTP server is written host:port, in lower case, not {pair!r}")

    @classmethod
    def from_environment(cls) -> "HttpPolicy":
        """The defaults, with the trusted servers of RADET_HTTP_TRUSTED ("images.internal:8080,10.0.0.7:80")."""
        pairs = os.environ.get("RADET_HTTP_TRUSTED", "").split(",")
        return cls(trusted=frozenset(pair.strip().lower() for pair in pairs if pair.strip()))


class _BusyError(FetchError):
    """429 or 5xx, with the pause that the server asked for."""

    wait_s = 0.0


class HttpReader:
    """Reads URLs under one policy, from any number of threads; idle connections are kept and used again."""

    def __init__(self, policy: HttpPolicy, resolve: Resolve = resolve_host) -> None:
        self._policy = policy
        self._gate = Gate(ports=policy.ports, trusted=policy.trusted, resolve=resolve)
        self._connections = Connections(
            connect_timeout_s=policy.connect_timeout_s, max_wire_bytes=2 * policy.max_bytes + (1 << 20)
        )

    def read(self, url: str) -> bytes:
        """The body behind a URL. Raises FetchError and nothing else."""
        deadline = time.monotonic() + self._policy.total_timeout_s
        hop = self._gate.check(url, deadline)
        for redirects in itertools.count():
            answer = self._get(hop, deadline)
            if isinstance(answer, bytes):
                return answer
            if redirects == self._policy.max_redirects:
                break
            hop = self._follow(hop, answer, deadline)
        raise FetchError("bad_redirect", f"{hop.site}: more than {self._policy.max_redirects} redirects")

    def close(self) -> None:
        """Close the idle connections. Reads that still run finish, and keep none open after themselves."""
        self._connections.close()

    def _follow(self, hop: Hop, location: str, deadline: float) -> Hop:
        try:
            target = self._gate.check(urljoin(hop.url, location), deadline)
        except ValueError as error:
            raise FetchError("bad_redirect", f"{hop.site}: a redirect to no valid URL") from error
        except FetchError as error:
            if error.code != "blocked_address":
                raise
            raise FetchError("bad_redirect", f"{hop.site}: a redirect to a blocked place: {error}") from error
        if hop.scheme == "https" and target.scheme == "http":
            raise FetchError("bad_redirect", f"{hop.site}: a redirect from https to http")
        return target

    def _get(self, hop: Hop, deadline: float) -> bytes | str:
        """The body, or where a redirect leads. Each try takes the next address: a dead one costs one try."""
        attempt = 0
        while True:
            try:
                return self._try(hop, hop.addresses[attempt % len(hop.addresses)], deadline)
            except FetchError as error:
                pause = _BACKOFF_S * 2**attempt * random.uniform(0.5, 1.5)  # noqa: S311  jitter is no secret
                if isinstance(error, _BusyError):
                    pause = max(pause, error.wait_s)
                attempt += 1
                if not error.transient or attempt == self._policy.attempts or time.monotonic() + pause >= deadline:
                    raise
            time.sleep(pause)

    def _try(self, hop: Hop, address: str, deadline: float) -> bytes | str:
        headers = {"User-Agent": _USER_AGENT, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}
        try:
            with self._connections.get(hop, address, headers, deadline) as response:
                return self._answer(hop, response)
        except OverflowError as error:
            raise self._too_large(hop) from error
        except (HTTPError, HTTPException, OSError, ValueError) as error:
            raise _network_error(hop.site, error) from error

    def _answer(self, hop: Hop, response: HTTPResponse) -> bytes | str:
        status, location = response.status, response.headers.get("Location")
        if status == 200:
            return self._body(hop, response)
        if status in _REDIRECTS:
            if not location:
                raise FetchError("bad_redirect", f"{hop.site}: a redirect without a target")
            # http.client reads headers as latin-1; servers that do not escape write UTF-8.
            return location.encode("latin-1", "replace").decode("utf-8", "replace")
        if status == 429 or status >= 500:
            busy = _BusyError("http_status", f"{hop.site}: HTTP status {status}", transient=True)
            busy.wait_s = _retry_after(response.headers.get("Retry-After", ""))
            raise busy
        code = _ERROR_BY_STATUS.get(status, "http_status")
        raise FetchError(code, f"{hop.site}: HTTP status {status}", transient=False)

    def _body(self, hop: Hop, response: HTTPResponse) -> bytes:
        if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
            raise FetchError("http_status", f"{hop.site}: the body is compressed, though identity was asked")
        if (response.length_remaining or 0) > self._policy.max_bytes:
            raise self._too_large(hop)
        body = bytearray()
        while chunk := response.read(_CHUNK):
            body += chunk
            if len(body) > self._policy.max_bytes:
                raise self._too_large(hop)
        if not body and response.length_remaining is None and not response.chunked:
            # To http.client a connection that breaks within the header is an answer with no length and no body.
            raise FetchError("unreachable", f"{hop.site}: the answer ended before its body")
        return bytes(body)

    def _too_large(self, hop: Hop) -> FetchError:
        return FetchError("too_large_bytes", f"{hop.site}: more than {self._policy.max_bytes} bytes")


def _user_agent() -> str:
    try:
        return f"radet/{version('radet')} (+image scoring)"
    except PackageNotFoundError:  # a source tree on the path
        return "radet/dev (+image scoring)"


_USER_AGENT = _user_agent()


def _retry_after(value: str) -> float:
    try:
        return min(Retry().parse_retry_after(value), _RETRY_AFTER_CAP_S)
    except (InvalidHeader, ValueError, OverflowError):
        return 0.0


def _network_error(site: str, error: Exception) -> FetchError:
    # urllib3 derives "connection refused" from its timeouts.
    if isinstance(error, (TimeoutError, UrllibTimeout)) and not isinstance(error, NewConnectionError):
        return FetchError("timeout", f"{site}: no complete answer in time")
    if isinstance(error, ssl.SSLCertVerificationError):
        return FetchError("unreachable", f"{site}: the certificate does not verify", transient=False)
    return FetchError("unreachable", f"{site}: the connection failed ({type(error).__name__})")
