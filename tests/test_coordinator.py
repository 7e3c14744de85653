import json
import tarfile
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.coordinator import Coordinator, Request
from pipelines.items import Shard
from radet.errors import ConfigError


def test_nothing_is_left_on_disk_however_a_run_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch, corpus = tmp_path / "scratch", tmp_path / "corpus"
    scratch.mkdir()
    corpus.mkdir()
    for number in range(1200):  # more than are listed at once
        (corpus / f"{number:05d}.jpg").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    request = Request(run="r", src=str(corpus), out=str(tmp_path / "out"), model_id="0" * 16, block=64)
    coordinator = Coordinator(request)
    assert list(scratch.iterdir()) == []  # while it runs, too: it may be killed at any moment
    coordinator.start()
    first = 0
    while shards := coordinator.shards(first, 16):
        first += len(shards)
    assert coordinator.progress().counts.new == 1200
    assert list(scratch.iterdir()) == []


def _opened(src: Path, out: Path, limit: int | None = None) -> Coordinator:
    request = Request(run="r", src=str(src), out=str(out), model_id="0" * 16, block=64, limit=limit)
    coordinator = Coordinator(request)
    coordinator.start()
    first = 0
    while shards := coordinator.shards(first, 16):
        first += len(shards)
    return coordinator


@pytest.mark.parametrize("limit", [None, 120])
def test_lines_of_a_manifest_are_ahead_until_they_are_met(tmp_path: Path, limit: int | None) -> None:
    (tmp_path / "m.csv").write_text("uri\n" + "".join(f"{number}.jpg\n" for number in range(150)))
    coordinator = _opened(tmp_path / "m.csv", tmp_path / "out", limit)
    total = limit or 150
    assert (coordinator.progress().ahead, coordinator.progress().listing) == (total, False)
    keys = [(bytes([number]) * 16, None) for number in range(64)]
    for _ in range(2):  # the second time by a task that is tried again
        coordinator.admit(1, 0, keys)
        progress = coordinator.progress()
        assert (progress.counts.new, progress.ahead) == (64, total - 64)


def test_rows_of_parquet_are_known_and_those_of_a_tar_are_not(tmp_path: Path) -> None:
    (tmp_path / "parquet").mkdir()
    pq.write_table(pa.table({"image": [b"x"] * 100}), tmp_path / "parquet" / "a.parquet", row_group_size=60)
    progress = _opened(tmp_path / "parquet", tmp_path / "out1").progress()
    assert (progress.ahead, progress.listing) == (100, False)
    (tmp_path / "tars").mkdir()
    for name in "ab":
        with tarfile.open(tmp_path / "tars" / f"{name}.tar", "w"):
            pass
    coordinator = _opened(tmp_path / "tars", tmp_path / "out2")
    shards = [Shard(*json.loads(payload)) for _, payload in coordinator.shards(0, 2)]
    for shard in shards:
        assert coordinator.progress().listing
        for _ in range(2):
            coordinator.finish_container(shard.container[0], "v", 0)
    assert not coordinator.progress().listing


def test_a_listing_that_fails_is_not_taken_for_its_end(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("uri\n" + "a.jpg\n" * 100 + '"b".jpg\n')
    with pytest.raises(ConfigError, match=r"m\.csv, line 102: "):
        _opened(tmp_path / "m.csv", tmp_path / "out")
