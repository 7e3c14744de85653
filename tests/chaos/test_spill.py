"""A node without any room to spill to: what is in flight is bounded, so a run never asks for it."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from pipelines.plan import Plan
from pipelines.sink import read_scores

from ..corpus import write_corpus
from ..nodes import Nodes, radet

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(600)]

COUNT = 18 * Plan.of({"CPU": 2}, None).block
STORE = 80 << 20  # about the least that Ray takes


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """64 KiB, all of them taken."""
    folder = tmp_path / "spill"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only who may mount can have a disk that is full")
    try:
        (folder / "filled").write_bytes(bytes(60 << 10))
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_run_needs_no_room_to_spill_to(full_disk: Path, tmp_path: Path, photographs: list[Image.Image]) -> None:
    write_corpus(tmp_path / "corpus", COUNT, photographs, side=48)
    out = str(tmp_path / "out")
    nodes = Nodes(tmp_path / "nodes")
    try:
        nodes.add("full", cpus=2, object_store_memory=STORE, object_spilling_directory=str(full_disk))
        done = radet("score", str(tmp_path / "corpus"), "--out", out, "--address", nodes.address)
    finally:
        nodes.close()
    assert done.returncode == 0, done.stderr
    rows = read_scores(out, columns=["id", "status"])
    assert rows["status"].to_pylist() == ["ok"] * COUNT
    (manifest,) = (Path(out) / "_runs").glob("*.json")
    assert json.loads(manifest.read_text())["rows"] == COUNT
    assert COUNT * 224 * 224 * 3 > 2 * STORE, "the crops of this run would not have fitted"
