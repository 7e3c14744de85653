"""Real Ray clusters of several nodes on this machine, whose head takes jobs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pipelines.s3

from .conftest import RADET, ROOT
from .ports import free_ports

_STORE_BYTES = 1 << 28


class Nodes:
    """A head without CPUs, as in cluster/, and workers that share nothing but S3: each has a home of its own."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        port, agent = free_ports(2)
        self.dashboard = f"http://127.0.0.1:{port}"
        self._folder = folder
        self._cluster = Cluster()
        with self._home("head"):
            self._cluster.add_node(
                num_cpus=0,
                object_store_memory=_STORE_BYTES,
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                dashboard_port=port,
                dashboard_agent_listen_port=agent,
            )
        self.address: str = self._cluster.address

    def add(self, name: str, *, cpus: int = 1, **more: Any) -> Any:
        """A worker node; its caches are below its `home`. `more`: of Ray's, as for `ray start`."""
        with self._home(name):
            return self._cluster.add_node(**{"num_cpus": cpus, "object_store_memory": _STORE_BYTES, **more})

    def kill(self, node: Any) -> None:
        """All of its processes at once, as when a machine is lost."""
        self._cluster.remove_node(node, allow_graceful=False)

    def home(self, name: str) -> Path:
        return self._folder / name

    def close(self) -> None:
        self._cluster.shutdown()

    @contextmanager
    def _home(self, name: str) -> Iterator[None]:
        """Nodes take the environment as it is when they start."""
        before = os.environ.copy()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        os.environ |= {"XDG_CACHE_HOME": str(self.home(name)), "PATH": path, "PYTHONPATH": str(ROOT)}
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def radet(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """The command, in a process of its own; an empty variable is none."""
    variables = {name: value for name, value in (os.environ | env).items() if value}
    return subprocess.run([RADET, *arguments], env=variables, capture_output=True, text=True, check=False, timeout=400)


def upload(folder: Path, url: str) -> str:
    """Every file of a folder to S3; `url` again."""
    for path in folder.rglob("*"):
        if path.is_file():
            pipelines.s3.put(f"{url}/{path.relative_to(folder)}", path.read_bytes())
    return url
