"""What a run does where a process that reads its inputs dies of one of them: of a decoder's fault, or of memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import pipelines.load
from pipelines.coordinator import Coordinator, Request
from pipelines.load import Loader
from pipelines.schema import unpack
from radet.crop import CropPolicy
from radet.images import Limits
from radet.rows import see

from .corpus import write_corpus


class Death(BaseException):
    """The process ends here; Ray starts the task again in another one."""


def run(src: Path, out: Path, limit: int | None = None) -> Iterator[tuple[int, dict[str, str]]]:
    """For each shard: how often it died, and status by file name; the loaders of a run without Ray between."""
    coordinator = Coordinator(Request(run="r", src=str(src), out=str(out), model_id="m", block=4, limit=limit))
    coordinator.start()
    policy = CropPolicy(resize=224, size=224)
    loader = Loader(desk=coordinator, policy=policy, allow_http=False, block=4, limited=limit is not None)
    first = 0
    while shards := coordinator.shards(first, 1):
        ((number, payload),) = shards
        first += 1
        for deaths in range(20):
            try:
                tables = [unpack(row) for row in loader.load(number, payload)]
            except Death:
                continue
            rows = [row for table in tables for row in table.to_pylist()]
            yield deaths, {row["uri"].rpartition("/")[2]: row["status"] for row in rows}
            break
        else:
            raise AssertionError("it dies for ever")


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> set[bytes]:
    """Contents whose decoding ends the process."""
    contents: set[bytes] = set()

    def dies(data: bytes, policy: CropPolicy, limits: Limits) -> Any:
        if data in contents:
            raise Death
        return see(data, policy, limits)

    monkeypatch.setattr(pipelines.load, "see", dies)
    return contents


def test_a_picture_whose_decoding_kills_is_a_row_and_its_neighbours_are_scored(
    tmp_path: Path, photographs: list[Image.Image], deadly: set[bytes]
) -> None:
    write_corpus(tmp_path / "in", 10, photographs)
    files = sorted((tmp_path / "in").rglob("*.*"))
    names = [file.name for file in files]
    deadly.add(files[5].read_bytes())
    shards = list(run(tmp_path / "in", tmp_path / "out"))
    assert sorted(deaths for deaths, _ in shards) == [0, 0, 5]
    statuses = {name: status for _, rows in shards for name, status in rows.items()}
    assert statuses == dict.fromkeys(names, "ok") | {names[5]: "corrupt"}


def test_a_container_whose_reading_kills_is_a_row(
    tmp_path: Path, photographs: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "pictures", 4, photographs)
    data = [path.read_bytes() for path in (tmp_path / "pictures").rglob("*.*")]
    for name in ("a", "b"):
        (tmp_path / "in").mkdir(exist_ok=True)
        pq.write_table(pa.table({"image": data}), tmp_path / "in" / f"{name}.parquet")
    read = pipelines.load.parquet.read_items

    def dies(body: dict[str, Any], batch_rows: int) -> Any:
        if body["file"].endswith("b.parquet"):
            raise Death
        yield from read(body, batch_rows)

    monkeypatch.setattr(pipelines.load.parquet, "read_items", dies)
    (one, scored), (five, dead) = sorted(run(tmp_path / "in", tmp_path / "out"), key=lambda shard: shard[0])
    assert (one, list(scored.values())) == (0, ["ok"] * 4)
    assert (five, dead) == (5, {"b.parquet": "corrupt"})


def test_a_node_that_is_lost_now_and_then_is_not_the_pictures_fault(
    tmp_path: Path, photographs: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "in", 4, photographs)
    seen: list[bytes] = []

    def dies(data: bytes, policy: CropPolicy, limits: Limits) -> Any:
        seen.append(data)
        if len(seen) in (1, 3, 6, 7, 10):  # five deaths, of which no picture has two while it is watched
            raise Death
        return see(data, policy, limits)

    monkeypatch.setattr(pipelines.load, "see", dies)
    ((deaths, rows),) = run(tmp_path / "in", tmp_path / "out")
    assert (deaths, set(rows.values())) == (5, {"ok"})


def test_a_limit_opens_no_more_archives_than_it_needs(
    tmp_path: Path, photographs: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "pictures", 12, photographs)
    data = [path.read_bytes() for path in (tmp_path / "pictures").rglob("*.*")]
    (tmp_path / "in").mkdir()
    for name in "abc":
        pq.write_table(pa.table({"image": data}), tmp_path / "in" / f"{name}.parquet")
    batches: list[str] = []
    read = pipelines.load.parquet.read_items

    def counted(body: dict[str, Any], batch_rows: int) -> Any:
        for items in read(body, batch_rows):
            batches.append(Path(body["file"]).name)
            yield items

    monkeypatch.setattr(pipelines.load.parquet, "read_items", counted)
    rows = [rows for _, rows in run(tmp_path / "in", tmp_path / "out", limit=3)]
    assert [len(row) for row in rows if row] == [3]
    assert (len(batches), len(set(batches))) == (2, 1), "a second batch tells that nothing more is wanted"


def test_a_picture_for_which_there_is_no_room_is_tried_again(
    tmp_path: Path, photographs: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "in", 2, photographs)
    needs_room = sorted((tmp_path / "in").rglob("*.*"))[0]

    def see_little(data: bytes, policy: CropPolicy, limits: Limits) -> Any:
        if data == needs_room.read_bytes():
            raise MemoryError
        return see(data, policy, limits)

    monkeypatch.setattr(pipelines.load, "see", see_little)
    coordinator = Coordinator(
        Request(run="r", src=str(tmp_path / "in"), out=str(tmp_path / "o"), model_id="m", block=4)
    )
    coordinator.start()
    loader = Loader(desk=coordinator, policy=CropPolicy(resize=224, size=224), allow_http=False, block=4)
    ((number, payload),) = coordinator.shards(0, 1)
    (batch,) = loader.load(number, payload)
    rows = {row["uri"]: (row["status"], row["_retry"]) for row in unpack(batch).to_pylist()}
    assert rows.pop(str(needs_room)) == ("unreachable", True)
    assert list(rows.values()) == [("ok", False)]
