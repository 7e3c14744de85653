import tempfile
from pathlib import Path

import pytest

from pipelines.coordinator import Coordinator, Request


def test_nothing_is_left_on_disk_however_a_run_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch, corpus = tmp_path / "scratch", tmp_path / "corpus"
    scratch.mkdir()
    corpus.mkdir()
    for number in range(10_000):  # more than what the index keeps in memory
        (corpus / f"{number:05d}.jpg").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    request = Request(run="r", src=str(corpus), out=str(tmp_path / "out"), model_id="0" * 16, block=64)
    coordinator = Coordinator(request)
    assert list(scratch.iterdir()) == []  # while it runs, too: it may be killed at any moment
    coordinator.start()
    first = 0
    while shards := coordinator.shards(first, 16):
        first += len(shards)
    assert coordinator.progress().counts.new == 10_000
    assert list(scratch.iterdir()) == []
