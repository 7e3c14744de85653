"""Ports of this machine: what would be found out ten seconds later, before anything starts."""

import socket

from radet.errors import ConfigError


def require_free(host: str, port: int) -> None:
    """Raises ConfigError where nothing can listen at HOST:PORT."""
    try:
        _bound(host, port).close()
    except (OSError, UnicodeError) as error:  # UnicodeError: the host can be no name
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen at {place(host, port)}: {why}; see --port and --host") from None


def place(host: str, port: int) -> str:
    """As a url has it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def free(*preferred: int) -> list[int]:
    """For each the port itself, where it is free on every network interface, else another one that is."""
    everywhere = "0.0.0.0"  # noqa: S104 - whoever asks will listen there
    held: list[socket.socket] = []
    try:
        for port in preferred:
            try:
                held.append(_bound(everywhere, port))
            except OSError:
                held.append(_bound(everywhere, 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have just ended hold no port
        found.bind(place)
    except BaseException:
        found.close()
        raise
    return found
