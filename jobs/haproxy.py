"""HAProxy of one service on this machine, kept apart from other users and other services.

Left alone, Ray writes its configuration below /tmp/haproxy-serve, for good, with an admin socket that every user of the
machine may write to: whoever does can send a service's pictures elsewhere. And its ports are the same for all: a second
service waits for them for ever.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from jobs.ports import free

_FILES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
}
_PORTS = {
    "RAY_SERVE_HAPROXY_STATS_PORT": 8404,
    "RAY_SERVE_HAPROXY_METRICS_PORT": 9101,
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": 8500,
}


@contextmanager
def apart() -> Iterator[None]:
    """For a Ray that is started meanwhile; what is set in the environment already stays."""
    # Not below TMPDIR: Ray adds a node's id, and a socket's path has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="radet-haproxy-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ours = {name: os.path.join(folder, file) for name, file in _FILES.items()}
        ours |= {name: str(port) for name, port in zip(_PORTS, free(*_PORTS.values()), strict=True)}
        missing = {name: value for name, value in ours.items() if name not in os.environ}
        os.environ.update(missing)
        try:
            yield
        finally:
            for name in missing:
                del os.environ[name]
