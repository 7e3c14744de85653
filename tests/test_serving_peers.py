"""The benchmark of the endpoint beside others leaves nothing behind."""

import sys
from pathlib import Path

import psutil
import pytest

from benchmarks import serving_peers

from .ports import free_port

_STUBBORN = """
import http.server, pathlib, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def test_a_service_that_does_not_stop_is_ended_with_all_of_its_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    port, told = free_port(), tmp_path / "child"
    monkeypatch.setattr(serving_peers, "_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(serving_peers, "_ENDS_S", 0.5)
    with serving_peers.running([sys.executable, "-c", _STUBBORN, str(told), str(port)], "/"):
        child = psutil.Process(int(told.read_text()))
    gone, _ = psutil.wait_procs([child], timeout=10)
    assert gone == [child]
