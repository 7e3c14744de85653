"""Parquet files of any schema and size: what a run reads of them, and what it says of those that it cannot read."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import parquet
from pipelines.cells import Cell
from pipelines.items import BATCH_BYTES, Item, Shard
from pipelines.parquet import choose_columns
from pipelines.sources import open_source
from radet.errors import ConfigError, FetchError

from .test_sources import entries, items

PICTURES = [b"1", b"2", b"3"]


def told(item: Item) -> str:
    assert item.error is not None
    return f"{item.error.code}: {item.error.message}"


def by_file(found: list[Item]) -> dict[str, list[Item]]:
    files: dict[str, list[Item]] = {}
    for item in found:
        files.setdefault(Path(item.entry.uri.partition("#")[0]).name, []).append(item)
    return files


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (pa.table({"picture": PICTURES}), "has no column 'image'"),
        (pa.table([PICTURES, PICTURES], names=["image", "image"]), "has more than one column 'image'"),
        (pa.table({"image": [1, 2, 3]}), "has int64 in its column 'image', where image bytes should be"),
        (pa.table({"image": [{"path": "a"}]}), "has struct<path: string> in its column 'image'"),
        (pa.table({"uri": ["a.jpg", "b.jpg"]}), "has no column 'image'"),
    ],
)
def test_a_file_of_another_schema_is_one_row_that_says_so(tmp_path: Path, other: pa.Table, reason: str) -> None:
    """Whichever is listed first."""
    good, odd = ("k.parquet", "m.parquet", "n.parquet"), ("a.parquet", "z.parquet")
    for name in good + odd:
        pq.write_table(pa.table({"image": PICTURES}) if name in good else other, tmp_path / name, row_group_size=1)
    found = by_file(items(tmp_path))
    for name in good:
        assert [item.data for item in found[name]] == PICTURES
    for name in odd:
        (item,) = found[name]
        assert told(item).startswith("corrupt: ")
        assert reason in told(item)


def test_a_file_of_another_schema_among_uris_is_one_row_too(tmp_path: Path) -> None:
    for name, column in (("a", "uri"), ("b", "uri"), ("c", "link")):
        pq.write_table(pa.table({column: ["/x.jpg", "/y.jpg"]}), tmp_path / f"{name}.parquet")
    found = items(tmp_path)
    assert sorted(item.entry.uri for item in found if item.error is None) == ["/x.jpg", "/x.jpg", "/y.jpg", "/y.jpg"]
    (wrong,) = (item for item in found if item.error is not None)
    assert wrong.entry.uri == f"{tmp_path}/c.parquet#0"
    assert "has no column 'uri'" in told(wrong)


@pytest.mark.parametrize("first", ["ab", "cd"])  # in one of these they are listed first
def test_of_two_kinds_of_files_those_with_image_bytes_are_read(tmp_path: Path, first: str) -> None:
    for name in "abcd":
        table = pa.table({"url": ["/x.jpg"]} if name in first else {"image": [b"1"]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    assert {item.data for item in items(tmp_path) if item.error is None} == {b"1"}


def test_one_file_alone_is_refused_for_what_it_has_not(tmp_path: Path) -> None:
    pq.write_table(pa.table([PICTURES, PICTURES], names=["image", "image"]), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="has more than one column 'image'"):
        open_source(str(tmp_path))
    pq.write_table(pa.table({"n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="has no column named"):
        open_source(str(tmp_path))


def test_a_name_beside_the_bytes_may_be_missing_or_of_any_type(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": PICTURES, "url": ["a", "b", "c"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": PICTURES}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"image": PICTURES, "url": [1, 2, 3]}), tmp_path / "c.parquet")
    found = items(tmp_path)
    assert [item.data for item in found] == PICTURES * 3
    places = {f"{tmp_path}/{name}.parquet#{row}" for name in "abc" for row in range(3)}
    assert {item.entry.id for item in found} == places


def test_rows_with_bytes_are_inputs_of_their_own_whatever_they_are_called(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": PICTURES, "filename": ["frame.jpg"] * 3}), tmp_path / "a.parquet")
    found = items(tmp_path / "a.parquet")
    assert [item.entry.uri for item in found] == ["frame.jpg"] * 3
    assert [item.entry.id for item in found] == [f"{tmp_path}/a.parquet#{row}" for row in range(3)]


@pytest.mark.parametrize("kind", [pa.string_view(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_uris_of_any_kind_of_text(tmp_path: Path, kind: pa.DataType) -> None:
    uris = pa.array(["/a.jpg", None, "/a.jpg"], pa.string()).cast(kind)
    pq.write_table(pa.table({"uri": uris}), tmp_path / "a.parquet")
    assert [entry.uri for entry in entries(tmp_path)] == ["/a.jpg", f"{tmp_path}/a.parquet#1", "/a.jpg"]


def test_categories_that_are_no_utf8_are_a_row_that_says_so(tmp_path: Path) -> None:
    """Arrow, which reads such text where it is no category, does not read these."""
    names = pa.Array.from_buffers(pa.string(), 1, pa.array([b"/caf\xe9.jpg"]).buffers())
    uris = pa.DictionaryArray.from_arrays(pa.array([0, None, 0], pa.int8()), names)
    pq.write_table(pa.table({"uri": uris}), tmp_path / "a.parquet")
    (item,) = items(tmp_path)
    assert told(item).startswith("corrupt: ")


@pytest.mark.parametrize("kind", [pa.binary_view(), pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())])
def test_bytes_of_any_kind(tmp_path: Path, kind: pa.DataType) -> None:
    pictures = pa.array([b"1", None, b"1"], pa.binary()).cast(kind)
    pq.write_table(pa.table({"image": pictures, "label": [0, 1, 0]}), tmp_path / "a.parquet")
    assert [item.data for item in items(tmp_path)] == [b"1", b"", b"1"]
    assert Cell(f"{tmp_path}/a.parquet", "v", "image", 0, 2).read() == b"1"


def test_a_path_without_its_picture_is_told_apart_from_an_empty_one(tmp_path: Path) -> None:
    """As Hugging Face's datasets are saved that only point at their files."""
    pictures = [{"bytes": b"1", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, {"bytes": None, "path": None}]
    pq.write_table(
        pa.table({"image": pa.array(pictures, pa.struct({"bytes": pa.binary(), "path": pa.string()}))}),
        tmp_path / "a.parquet",
    )
    there, apart, empty = items(tmp_path)
    assert (there.data, empty.data) == (b"1", b"")
    assert told(apart).startswith("not_found: the row has no bytes but the path 'b.jpg': ")


def test_a_file_of_nulls_alone_is_one_of_empty_pictures(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": PICTURES}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": pa.nulls(2)}), tmp_path / "b.parquet")
    assert [item.data for item in items(tmp_path)] in ([*PICTURES, b"", b""], [b"", b"", *PICTURES])


def test_columns_of_pictures_are_inputs_apart(tmp_path: Path) -> None:
    rows = {"post": ["p", "q"], "url": ["u", "u"], "before": [b"1", b"2"], "after": [b"3", b"4"]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    place = f"{tmp_path}/a.parquet#"
    keys, names = set(), set()
    for column in ("before", "after"):
        for ids in (None, "post"):
            options: dict[str, Any] = {"column": column, "ids": ids}
            found = items(tmp_path / "a.parquet", **options)
            assert [item.data for item in found] == rows[column]
            assert [item.entry.uri for item in found] == [f"{place}0:{column}", f"{place}1:{column}"]
            assert [item.entry.id for item in found] == (rows["post"] if ids else [item.entry.uri for item in found])
            keys |= {item.entry.key for item in found}
            names |= {shard.container[0] for shard in open_source(str(tmp_path), **options).shards(64)}
    assert (len(keys), len(names)) == (8, 4)


def test_uris_are_listed_in_shards_of_a_size(tmp_path: Path) -> None:
    uris = [f"s3://bucket/{number}.jpg" for number in range(1000)]
    pq.write_table(pa.table({"uri": uris, "post": range(1000)}), tmp_path / "a.parquet")
    shards = list(open_source(str(tmp_path), ids="post").shards(64))
    assert {shard.kind for shard in shards} == {"uris"}
    assert [shard.inputs for shard in shards] == [64] * 15 + [40]
    found = [entry for shard in shards for entry in shard.entries()]
    assert [entry.location for entry in found] == uris
    assert [entry.id for entry in found] == [str(number) for number in range(1000)]


def damaged(file: Path, table: pa.Table) -> None:
    """Its second row group cannot be read."""
    pq.write_table(table, file, row_group_size=2, compression="none", use_dictionary=False)
    start = pq.ParquetFile(file).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(file.read_bytes())
    data[start : start + 30] = b"\xff" * 30
    file.write_bytes(data)


@pytest.mark.parametrize("column", ["uri", "image"])
def test_a_file_that_breaks_off_has_what_came_before_and_a_row_that_says_so(tmp_path: Path, column: str) -> None:
    values = [f"/{number}.jpg" for number in range(4)]
    damaged(tmp_path / "a.parquet", pa.table({column: values if column == "uri" else list(map(str.encode, values))}))
    found = items(tmp_path / "a.parquet")
    assert [item.error.code if item.error else "ok" for item in found] == ["ok", "ok", "corrupt"]
    assert found[-1].entry.uri == f"{tmp_path}/a.parquet#2"
    assert found[-1].entry.version is not None  # so that it is a row again when the file has changed


@pytest.mark.parametrize("listed", [parquet.row_groups, lambda body: parquet.uris(body, 8)])
def test_a_file_that_cannot_be_had_is_a_row_that_is_tried_again(
    tmp_path: Path, listed: Callable[[dict[str, Any]], Iterator[Shard]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(location: str) -> pq.ParquetFile:
        raise PermissionError(f"no permission for {location}")  # as s3fs does it, without a number of the system's

    monkeypatch.setattr(parquet, "open_file", refuse)
    body = {"file": "a", "uri_of_file": "a", "version": "v", "bytes": "i", "uri": "i", "ids": None, "column": None}
    (shard,) = listed(body)
    (item,) = Shard(*json.loads(json.dumps(shard))).items()
    assert isinstance(item.error, FetchError)
    assert (item.entry.uri, item.error.code, item.error.transient) == ("a#0", "forbidden", True)
    assert shard.container == ("", None)
    assert shard.inputs == 1


def test_rows_read_at_once_are_so_many_as_fit(tmp_path: Path) -> None:
    size = BATCH_BYTES // 8
    pictures = pa.array([bytes([number]) * size for number in range(20)], pa.binary())
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": pictures}), file, use_dictionary=False, compression="zstd")
    body = {"file": str(file), "uri_of_file": "a", "version": "v", "bytes": "image", "uri": None, "ids": None}
    (shard,) = parquet.row_groups(body | {"column": None})
    assert {len(batch) for batch in parquet.read_items(shard.body, 64)} <= {4, 6, 7, 8}
    assert [len(batch) for batch in parquet.read_items(shard.body, 3)] == [3] * 6 + [2]


def test_a_large_row_group_is_not_in_memory_as_a_whole(tmp_path: Path) -> None:
    file, whole = tmp_path / "a.parquet", 300 << 20
    schema = pa.schema([("image", pa.binary())])
    with pq.ParquetWriter(file, schema, compression="none", use_dictionary=False, write_batch_size=16) as writer:
        writer.write_table(pa.table({"image": [os.urandom(100 << 10) for _ in range(whole // (100 << 10))]}, schema))
    (shard,) = open_source(str(file)).shards(64)
    process, stop, peak = psutil.Process(), threading.Event(), 0
    pa.default_memory_pool().release_unused()
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.002):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    rows = sum(len(batch) for batch in parquet.read_items(shard.body, 64))
    stop.set()
    watcher.join()
    assert rows == whole // (100 << 10)
    assert peak - before < whole // 2


def test_a_column_of_something_else_is_told_as_what_it_is(tmp_path: Path) -> None:
    pq.write_table(pa.table({"images": [PICTURES], "url": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"has list<.*> in its column 'images', where image bytes or uris should be"):
        open_source(str(tmp_path), column="images")


@pytest.mark.parametrize("name", ["a", "z"])
def test_a_file_that_cannot_be_had_among_others_is_a_row(tmp_path: Path, name: str) -> None:
    for other in "klm":
        pq.write_table(pa.table({"image": [b"1"]}), tmp_path / f"{other}.parquet")
    (tmp_path / f"{name}.parquet").symlink_to("nowhere")
    assert sorted(item.error.code if item.error else "ok" for item in items(tmp_path)) == [
        "not_found",
        "ok",
        "ok",
        "ok",
    ]
    with pytest.raises(ConfigError, match=r"parquet: could not be read: .*No such file"):
        choose_columns(str(tmp_path / f"{name}.parquet"), ids=None, column=None)
