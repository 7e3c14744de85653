import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import parquet, sources, tars
from pipelines.fetch import Fetcher
from pipelines.items import Entry, Item, Shard, resolve
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
    for listed in open_source(str(src), **options).shards(128):  # type: ignore[arg-type]
        shard = Shard(*json.loads(json.dumps(listed)))
        if shard.kind in ("uris", "unread"):
            found += shard.items()
        else:
            read = tars.read_items if shard.kind == "tar" else parquet.read_items
            found += [item for batch in read(shard.body, 2) for item in batch]
    return found


def entries(src: Path, **options: object) -> list[Entry]:
    return [entry for shard in open_source(str(src), **options).shards(128) for entry in shard.entries()]  # type: ignore[arg-type]


def test_csv_takes_the_usual_column_and_the_callers_ids(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('post,url\n7,"a b,c.jpg"\n8,s3://bucket/x.png\n')
    first, second = entries(tmp_path / "list.csv", ids="post")
    assert first == Entry("7", str(tmp_path / "a b,c.jpg"), str(tmp_path / "a b,c.jpg"))
    assert second == Entry("8", "s3://bucket/x.png", "s3://bucket/x.png")


def test_jsonl_lines_that_cannot_be_read_are_inputs_that_say_so(tmp_path: Path) -> None:
    file = tmp_path / "list.jsonl"
    file.write_text('{"uri": "a.jpg"}\n\n{broken\n{"uri": "", "post": 7}\n[1]\n')
    places = [f"{file}#3", f"{file}#4", f"{file}#5"]
    assert [entry.uri for entry in entries(file)] == [str(tmp_path / "a.jpg"), *places]
    (tmp_path / "list.jsonl").write_text('{"uri": "a.jpg", "post": 6}\n{"uri": "", "post": 7}\n')
    assert [entry[:2] for entry in entries(file, ids="post")] == [("6", str(tmp_path / "a.jpg")), ("7", f"{file}#2")]


@pytest.mark.parametrize(("given", "name"), [(0, "0"), (0.0, "0.0"), (False, "False"), ("", None), (None, None)])
def test_an_id_is_whatever_is_given_and_the_uri_where_nothing_is(tmp_path: Path, given: object, name: str) -> None:
    (tmp_path / "list.jsonl").write_text(json.dumps({"uri": "a.jpg", "post": given}))
    (entry,) = entries(tmp_path / "list.jsonl", ids="post")
    assert entry.id == (name or "a.jpg")
    for column in ({"uri": ["a.jpg"]}, {"image": [b"x"]}):
        pq.write_table(pa.table(column | {"post": [given]}), tmp_path / "a.parquet")
        (item,) = items(tmp_path / "a.parquet", ids="post")
        assert item.entry.id == (name or ("a.jpg" if "uri" in column else f"{tmp_path}/a.parquet#0"))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_same_relative_uri_beside_two_manifests_is_two_inputs(tmp_path: Path, kind: str) -> None:
    found = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "img.jpg").write_text(folder)
        if kind == "csv":
            (tmp_path / folder / "list.csv").write_text("uri\nimg.jpg\n/abs.jpg\ns3://b/k.jpg\n")
        else:
            pq.write_table(pa.table({"uri": ["img.jpg", "/abs.jpg", "s3://b/k.jpg"]}), tmp_path / folder / "a.parquet")
        found += entries(tmp_path / folder / ("list.csv" if kind == "csv" else "a.parquet"))
    assert [entry.id for entry in found] == ["img.jpg", "/abs.jpg", "s3://b/k.jpg"] * 2
    assert len({entry.key for entry in found}) == 4
    read = Fetcher(allow_http=False).read
    assert [read(entry.uri) for entry in found[::3]] == [b"one", b"two"], "as a report does, which knows no more"


@pytest.mark.parametrize("start", ["file://", "FILE://", "file:", "file://localhost"])
def test_urls_of_files_lead_to_them(tmp_path: Path, start: str) -> None:
    (tmp_path / "list.csv").write_text(f"uri\n{start}{tmp_path}/caf%E9%20%E2%82%AC.jpg\nfile:a.jpg\nfile://[x\n")
    first, *others = entries(tmp_path / "list.csv")
    assert first.location == f"{tmp_path}/caf\udce9 €.jpg"
    assert first.uri == f"{tmp_path}/caf\\xe9 €.jpg"
    assert [entry.location for entry in others] == [f"{tmp_path}/file:a.jpg", "file://[x"]


@pytest.mark.parametrize(
    ("uri", "manifest", "location"),
    [
        ("./a/b.jpg", "s3://bucket/lists/x.csv", "s3://bucket/lists/a/b.jpg"),
        ("./b.jpg", "s3://bucket/x.csv", "s3://bucket/b.jpg"),
        ("../../../a/./b.jpg", "s3://bucket/lists/x.csv", "s3://bucket/a/b.jpg"),
        ("a//b..jpg", "s3://bucket/lists/x.csv", "s3://bucket/lists/a//b..jpg"),
        ("./a.jpg", "/lists/x.csv", "/lists/a.jpg"),
    ],
)
def test_a_list_that_find_has_written_leads_to_objects(uri: str, manifest: str, location: str) -> None:
    assert resolve(uri, manifest) == location


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
        (str(tmp_path / "a.jpg"), str(tmp_path / "a.jpg"), None),
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


def test_what_lies_beside_parquet_files_is_counted_once_though_they_are_listed_twice(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    pq.write_table(pa.table({"image": [b"1"]}), tmp_path / "a.parquet")
    source = open_source(str(tmp_path))
    assert len(list(source.shards(64))) == 1
    assert source.ignored == {".txt": 1}


def test_pictures_that_come_after_very_many_other_files_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_PEEK", 1)
    for name in ("a.txt", "b.txt", "c.jpg"):
        (tmp_path / name).touch()
    assert len(list(open_source(str(tmp_path)).entries())) == 1


def test_parquet_with_web_addresses_is_refused_unless_they_may_be_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["https://example.org/a.jpg"]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="lists web addresses: allow reading them with --allow-http"):
        open_source(str(tmp_path))
    (entry,) = entries(tmp_path, allow_http=True)
    assert entry.uri == "https://example.org/a.jpg"


def test_several_sources_are_read_one_after_another_each_as_what_it_is(tmp_path: Path) -> None:
    for name in ("photos/a.jpg", "photos/b.txt", "photos/out/c.jpg", "d.jpg", "e.txt", "more/h.jpg", "more/i.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "list.csv").write_text("uri\nf.jpg\n")
    write_tar(tmp_path / "g.tar", {"a.jpg": b"1"})
    names = ("photos", "d.jpg", "list.csv", "g.tar", "more")
    source = open_source(tuple(str(tmp_path / name) for name in names), but=str(tmp_path / "photos" / "out"))
    assert [Path(entry.uri).name for entry in source.entries()] == ["a.jpg", "d.jpg", "h.jpg"]
    assert [shard.kind for shard in source.shards(64)] == ["uris", "tar"]
    assert source.ignored == {".txt": 2}
    assert source.description == f"images under {tmp_path}/photos and 4 more"
    with pytest.raises(ConfigError, match=r"nothing in .*/e\.txt is named like a picture"):
        open_source((str(tmp_path / "photos"), str(tmp_path / "e.txt")))


@pytest.mark.parametrize("suffix", [".jpg", ".tar", ".parquet"])
def test_a_folder_of_the_output_is_no_input(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "out").mkdir()
    for folder in (tmp_path, tmp_path / "out"):
        if suffix == ".parquet":
            pq.write_table(pa.table({"image": [b"1"]}), folder / "a.parquet")
        elif suffix == ".tar":
            write_tar(folder / "a.tar", {"a.jpg": b"1"})
        else:
            (folder / "a.jpg").write_bytes(b"1")
    source = open_source(str(tmp_path), but=str(tmp_path / "out"))
    assert len([*source.entries(), *source.shards(64)]) == 1
    with pytest.raises(ConfigError, match="is empty"):
        open_source(str(tmp_path / "out"), but=str(tmp_path / "out"))


def test_of_very_many_suffixes_the_first_are_told(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"a.{number}").touch()
    (tmp_path / "b.jpg").touch()
    source = open_source(str(tmp_path))
    assert len(list(source.entries())) == 1
    assert len(source.ignored) == 101
    assert sum(source.ignored.values()) == 300


@pytest.mark.parametrize("name", ["urls.txt", "urls.csv.gz", "list.json"])
def test_a_source_of_other_files_alone_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("https://example.org/a.jpg")
    for src in (tmp_path / name, tmp_path):
        with pytest.raises(ConfigError, match=rf"nothing in {src} .* there is only \.\w+; a list of uris is a \.csv"):
            open_source(str(src))


def test_an_empty_folder_and_a_bare_web_address_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is empty"):
        open_source(str(tmp_path))
    with pytest.raises(ConfigError, match="manifest"):
        open_source("https://example.org/a.jpg")
