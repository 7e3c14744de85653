import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import parquet, tars
from pipelines.items import Entry, Item
from pipelines.sources import open_source
from radet.errors import ConfigError


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def items(src: Path, **options: str) -> list[Item]:
    found = []
    for shard in open_source(str(src), **options).shards(128):  # type: ignore[arg-type]
        read = {"tar": tars.read_items, "parquet": parquet.read_items}[shard.kind]
        found += [item for batch in read(json.loads(json.dumps(shard.body)), 2) for item in batch]
    return found


def entries(src: Path, **options: object) -> list[Entry]:
    return [entry for shard in open_source(str(src), **options).shards(128) for entry in shard.entries()]  # type: ignore[arg-type]


def test_csv_takes_the_usual_column_and_the_callers_ids(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('post,url\n7,"a b,c.jpg"\n8,s3://bucket/x.png\n')
    first, second = entries(tmp_path / "list.csv", ids="post")
    assert first == Entry("7", "a b,c.jpg", str(tmp_path / "a b,c.jpg"))
    assert second == Entry("8", "s3://bucket/x.png", "s3://bucket/x.png")


def test_jsonl_lines_that_cannot_be_read_are_inputs_that_say_so(tmp_path: Path) -> None:
    file = tmp_path / "list.jsonl"
    file.write_text('{"uri": "a.jpg"}\n\n{broken\n{"uri": ""}\n[1]\n')
    assert [entry.uri for entry in entries(file)] == ["a.jpg", f"{file}#3", f"{file}#4", f"{file}#5"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "has no rows"),
        ("name,when\na,b\n", {}, "--column"),
        ("uri\na.jpg\n", {"ids": "post"}, "has no column 'post'"),
        ("uri\nhttps://example.org/a.jpg\n", {}, "--allow-http"),
    ],
)
def test_a_manifest_that_cannot_work_is_refused_with_the_mend(
    tmp_path: Path, text: str, options: dict[str, str], message: str
) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        open_source(str(tmp_path / "list.csv"), **options)  # type: ignore[arg-type]


def test_parquet_rows_with_bytes_in_any_of_the_usual_shapes(tmp_path: Path) -> None:
    plain = pa.table({"image": [b"1", b"2", None], "key": ["a", "b", "c"]})
    pq.write_table(plain, tmp_path / "plain.parquet", row_group_size=2)
    found = items(tmp_path / "plain.parquet", ids="key")
    uri = str(tmp_path / "plain.parquet")
    assert [(i.entry.id, i.entry.uri, i.data) for i in found] == [
        ("a", f"{uri}#0", b"1"),
        ("b", f"{uri}#1", b"2"),
        ("c", f"{uri}#2", b""),
    ]
    nested = pa.table({"image": [{"bytes": b"1", "path": "x.jpg"}], "url": ["https://example.org/x.jpg"]})
    pq.write_table(nested, tmp_path / "nested.parquet")
    (item,) = items(tmp_path / "nested.parquet")
    assert (item.entry.uri, item.data) == ("https://example.org/x.jpg", b"1")


def test_parquet_rows_with_uris(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a.jpg", "/b.jpg"]}), tmp_path / "u.parquet")
    found = items(tmp_path / "u.parquet")
    assert [(i.entry.uri, i.entry.location, i.data) for i in found] == [
        ("a.jpg", str(tmp_path / "a.jpg"), None),
        ("/b.jpg", "/b.jpg", None),
    ]


def test_a_damaged_parquet_file_is_one_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"1"]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 not really")
    statuses = [item.error.code if item.error else "ok" for item in items(tmp_path)]
    assert sorted(statuses) == ["corrupt", "ok"]


def test_tars_take_every_image_suffix_and_ids_from_the_json_beside(tmp_path: Path) -> None:
    members = {
        "a/1.webp": b"w",
        "a/1.json": b'{"post": 77}',
        "a/2.json": b'{"post": "x"}',
        "a/2.PNG": b"p",
        "a/3.txt": b"t",
        "a/4.jpg": b"j",
    }
    write_tar(tmp_path / "s.tar", members)
    uri = str(tmp_path / "s.tar")
    assert [(i.entry.id, i.entry.uri, i.data) for i in items(tmp_path, ids="post")] == [
        ("77", f"{uri}#a/1.webp", b"w"),
        ("x", f"{uri}#a/2.PNG", b"p"),
        (f"{uri}#a/4.jpg", f"{uri}#a/4.jpg", b"j"),
    ]


def test_a_tar_that_ends_early_keeps_what_came_before_and_says_so(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", {f"{n}.jpg": b"x" * 4000 for n in range(5)})
    whole = (tmp_path / "s.tar").read_bytes()
    (tmp_path / "s.tar").write_bytes(whole[: 3 * 4608 + 1000])
    found = items(tmp_path)
    assert [i.error.code if i.error else i.data for i in found] == [b"x" * 4000] * 3 + ["truncated"]
    assert found[-1].entry.uri == str(tmp_path / "s.tar")


def test_other_files_are_counted_and_left_alone(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.txt", "c.TXT", "d", "e.json"):
        (tmp_path / name).write_bytes(b"x")
    source = open_source(str(tmp_path))
    assert len(list(source.entries())) == 2
    assert source.ignored == {".txt": 2, ".json": 1}


def test_an_empty_folder_and_a_bare_web_address_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is empty"):
        open_source(str(tmp_path))
    with pytest.raises(ConfigError, match="manifest"):
        open_source("https://example.org/a.jpg")
