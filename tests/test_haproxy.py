"""Ports and files of `radet serve` on this machine."""

import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from jobs.haproxy import apart
from jobs.ports import free, place, require_free
from radet.errors import ConfigError

from .conftest import RADET

_OURS = ("RAY_SERVE_HAPROXY_", "RAY_SERVE_FALLBACK_")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(_OURS)]:
        monkeypatch.delenv(name)


def ours() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_OURS)}


def test_a_port_that_cannot_be_had_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1:{port}: Address already in use; see --port"):
            require_free("127.0.0.1", port)
    require_free("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"cannot listen at 203\.0\.113\.1:8000: Can"):
        require_free("203.0.113.1", 8000)  # an address for documentation
    with pytest.raises(ConfigError, match=r"cannot listen at nowhere\.invalid:8000"):
        require_free("nowhere.invalid", 8000)
    with pytest.raises(ConfigError, match="cannot listen at"):
        require_free("a" * 70 + ".invalid", 8000)  # no name at all


def test_an_address_of_ipv6_stands_in_brackets() -> None:
    assert (place("::1", 8123), place("127.0.0.1", 8123)) == ("[::1]:8123", "127.0.0.1:8123")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot listen at \[::1\]:{port}: Address already in use"):
            require_free("::1", port)


def test_a_taken_port_gives_way_to_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:  # on one interface, which is enough
        port = taken.getsockname()[1]
        first, second = free(port, port)
        assert len({port, first, second}) == 3
    assert free(port) == [port]


def test_admin_socket_and_configuration_are_the_users_own() -> None:
    with apart():
        files = [Path(value) for name, value in ours().items() if not name.endswith("_PORT")]
        (folder,) = {path for path in files if path.is_dir()}
        assert all(folder in (path, path.parent) for path in files)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        node = "f" * 56  # Ray adds it
        assert len(str(folder / node / "admin.sock")) < 108 - len(".12345.tmp")  # HAProxy's own suffix while it binds
        (folder / node).mkdir()
        (folder / node / "haproxy.cfg").touch()
        ports = [int(value) for name, value in ours().items() if name.endswith("_PORT")]
        assert len(set(ports)) == len(ports) == 3
    assert not folder.exists()
    assert ours() == {}


def test_an_operators_own_settings_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_STATS_PORT", "1234")
    with apart():
        assert os.environ["RAY_SERVE_HAPROXY_STATS_PORT"] == "1234"
    assert ours() == {"RAY_SERVE_HAPROXY_STATS_PORT": "1234"}


def test_a_host_of_ipv6_is_refused() -> None:
    """Ray gives HAProxy addresses that it cannot read: the service would never be ready."""
    command = [RADET, "serve", "--haproxy", "--host", "::1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 2
    assert "HAProxy mode has no IPv6" in done.stderr
