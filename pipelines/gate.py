"""The gate in front of every HTTP read: a URL that a stranger wrote in, the addresses that may be connected to out.

http or https, no credentials, an allowed port, one DNS look-up, and EVERY address that it returns must be public.
The reader then connects to one of these very addresses, so a DNS answer that changes afterwards changes nothing.
"""

import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import zip_longest
from threading import Thread

from urllib3.exceptions import HTTPError
from urllib3.util import Url, parse_url

from radet.errors import FetchError

Resolve = Callable[[str, int], list[str]]

_MAX_URL = 8192
_DEFAULT_PORTS = {"http": 80, "https": 443}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HOSTNAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")

_NAT64 = ip_network("64:ff9b::/96")
_GLOBAL_IPV6 = ip_network("2000::/3")
# A list of our own, for ipaddress.is_global differs between the patch releases of Python 3.11.
_NOT_PUBLIC = tuple(
    map(
        ip_network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
            *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
            *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
            "168.63.129.16/32",  # Azure's metadata server: a public address that only its own machines reach
            *("2001::/23", "2002::/16"),  # Teredo and 6to4 can carry any IPv4 address
            *("2001:db8::/32", "3fff::/20"),
        ),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One checked stop of a read: the only addresses that a connection for it may use."""

    scheme: str
    host: str
    port: int
    target: str
    addresses: tuple[str, ...]

    @property
    def site(self) -> str:
        """What error messages may name: no path, no query, no credentials."""
        return f"{self.scheme}://{self.host}"

    @property
    def netloc(self) -> str:
        """The Host header."""
        return self.host if self.port == _DEFAULT_PORTS[self.scheme] else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The base of relative redirects."""
        return f"{self.scheme}://{self.netloc}{self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Checks URLs. `trusted` holds "host:port" pairs that skip the port and address check, and nothing else."""

    ports: frozenset[int]
    trusted: frozenset[str]
    resolve: Resolve

    def check(self, url: str, deadline: float) -> Hop:
        """The stop that a URL names, or FetchError `blocked_address`, `unreachable` or `timeout`."""
        # The one parser: what it takes for the host is what is checked, connected to and named in the request.
        parsed = _parse(url)
        scheme, host = str(parsed.scheme), str(parsed.host).lower().removesuffix(".")
        if not _is_host(host):
            raise FetchError("blocked_address", f"{scheme}: the host is no name and no address in its usual spelling")
        site = f"{scheme}://{host}"
        if parsed.auth is not None:
            raise FetchError("blocked_address", f"{site}: credentials in a URL are not allowed")
        port = _DEFAULT_PORTS[scheme] if parsed.port is None else parsed.port
        trusted = f"{host}:{port}" in self.trusted
        if not trusted and port not in self.ports:
            raise FetchError("blocked_address", f"{site}: port {port} is not allowed")
        literal = host.strip("[]")
        addresses = [literal] if _is_ip(literal) else self._look_up(site, host, port, deadline)
        if not trusted and not all(map(is_public, addresses)):
            # It does not say which: the message may reach a stranger, and would map the network's inside for him.
            raise FetchError("blocked_address", f"{site}: the host has an address that is not public")
        return Hop(scheme=scheme, host=host, port=port, target=parsed.request_uri, addresses=_alternating(addresses))

    def _look_up(self, site: str, host: str, port: int, deadline: float) -> list[str]:
        # getaddrinfo knows no timeout. In a thread of its own it can be left behind, and dies with the process.
        future: Future[list[str]] = Future()

        def work() -> None:
            try:
                future.set_result(self.resolve(host, port))
            except BaseException as error:  # noqa: BLE001  future.result() raises it again
                future.set_exception(error)

        Thread(target=work, name="radet-resolve", daemon=True).start()
        try:
            addresses = future.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError as error:
            raise FetchError("timeout", f"{site}: the name was not resolved in time") from error
        except (OSError, ValueError) as error:
            raise FetchError("unreachable", f"{site}: the name cannot be resolved") from error
        if not addresses:
            raise FetchError("unreachable", f"{site}: the name has no address")
        return addresses


def is_public(address: str) -> bool:
    """Whether an IP address, as a resolver spells it, is the same host from everywhere on the internet."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address):
        if ip.scope_id is not None:
            return False
        # DNS64 answers so for public IPv4 hosts on IPv6-only networks; what counts is the address inside.
        if ip in _NAT64:
            ip = IPv4Address(int(ip) & 0xFFFF_FFFF)
        elif ip not in _GLOBAL_IPV6:
            return False
    return not any(ip in block for block in _NOT_PUBLIC)


def resolve_host(host: str, port: int) -> list[str]:
    """All addresses of a host, in the system's order of preference."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _parse(url: str) -> Url:
    try:
        if len(url) <= _MAX_URL and not _CONTROL.search(url):
            parsed = parse_url(url)
            if parsed.scheme in _DEFAULT_PORTS and parsed.host:
                return parsed
    except (HTTPError, ValueError) as error:
        raise FetchError("blocked_address", "not a valid URL") from error
    raise FetchError("blocked_address", "not an http:// or https:// URL")


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_host(host: str) -> bool:
    """A plain name or a canonical address. 0x7f000001, 127.1 and 0177.0.0.1 are names to some, addresses to others."""
    if host.startswith("["):
        return _is_ip(host[1:-1])
    if not _HOSTNAME.fullmatch(host):
        return False
    return _is_ip(host) or not _NUMERIC_LABEL.fullmatch(host.rpartition(".")[2])


def _alternating(addresses: list[str]) -> tuple[str, ...]:
    """IPv6 and IPv4 by turns, the system's first choice first: a dead family must not use up all attempts."""
    first = [address for address in addresses if (":" in address) == (":" in addresses[0])]
    other = [address for address in addresses if address not in first]
    return tuple(address for pair in zip_longest(first, other) for address in pair if address)
