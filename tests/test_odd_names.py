"""Names that are no names, text that is not UTF-8, containers that break off: each a row, and the run goes on."""

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from s3fs import S3FileSystem

from pipelines import parquet, tars
from pipelines.items import Item, Shard
from pipelines.labelled import list_labelled
from pipelines.load import Loader
from pipelines.manifests import first_line, lines
from pipelines.s3 import client, put
from pipelines.schema import unpack
from pipelines.sources import open_source
from radet.crop import CropPolicy
from radet.errors import ConfigError, FetchError, ImageError, ModelError

from . import test_load
from .bad_inputs import encoded
from .s3_proxy import Proxy, proxy
from .s3_server import S3Server
from .test_cli import radet, refused
from .test_sources import write_tar

NOT_UTF8 = b"caf\xe9.jpg"
NAMES = [
    "\0",
    "a\0b.jpg",
    "x" * 5000,
    "\ud800.jpg",
    "s3://",
    "s3:///key",
    "s3://bucket",
    "s3://b/\ud800",
    "http://[::1",
    "~x",
]


class Desk(test_load.Desk):
    """Remembers which containers were read to their end."""

    def __init__(self) -> None:
        self.finished: list[str] = []

    def finish_container(self, name: str, version: str, inputs: int) -> None:
        self.finished.append(name)


def loaded(src: str, desk: Desk, **options: str) -> list[tuple[str, str, str]]:
    """id, uri and status of each row, as the loaders of a run write them."""
    loader = Loader(desk=desk, policy=CropPolicy(resize=224, size=224), allow_http=True, block=64)
    shards = open_source(src, allow_http=True, **options).shards(64)  # type: ignore[arg-type]
    tables = [unpack(row) for number, shard in enumerate(shards) for row in loader.load(number, json.dumps(shard))]
    return [tuple(row.values()) for table in tables for row in table.select(["id", "uri", "status"]).to_pylist()]


@pytest.fixture(scope="module")
def picture() -> bytes:
    return encoded(Image.new("RGB", (32, 32), "red"), "JPEG")


def test_every_uri_of_a_manifest_has_a_row_whatever_it_is(tmp_path: Path, picture: bytes) -> None:
    (tmp_path / "good.jpg").write_bytes(picture)
    text = "\n".join(json.dumps({"uri": uri}) for uri in [*NAMES, None, 5, ["x"], "good.jpg"])
    (tmp_path / "list.jsonl").write_text(text)
    rows = loaded(str(tmp_path / "list.jsonl"), Desk())
    forget_clients()
    assert len(rows) == len(NAMES) + 4
    assert {status for *_, status in rows[:-1]} == {"not_found", "blocked_address"}
    assert rows[-1] == ("good.jpg", str(tmp_path / "good.jpg"), "ok")


def test_names_that_are_not_utf8_lead_to_their_files(tmp_path: Path, picture: bytes) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + NOT_UTF8)).write_bytes(picture)
    (tmp_path / "list.csv").write_bytes(b"\xef\xbb\xbfuri,label\n" + NOT_UTF8 + b",real\n")
    assert loaded(str(tmp_path / "list.csv"), Desk()) == [("caf\\xe9.jpg", f"{tmp_path}/caf\\xe9.jpg", "ok")]
    assert first_line(str(tmp_path / "list.csv"))["label"] == "real"


def test_a_tars_members_may_have_any_name(tmp_path: Path, picture: bytes) -> None:
    write_tar(tmp_path / "s.tar", {os.fsdecode(NOT_UTF8): picture, "a.jpg": picture, "a.json": b'{"post": "\\ud800"}'})
    uri, desk = str(tmp_path / "s.tar"), Desk()
    assert loaded(uri, desk, ids="post") == [
        (f"{uri}#caf\\xe9.jpg", f"{uri}#caf\\xe9.jpg", "ok"),
        ("\\xed\\xa0\\x80", f"{uri}#a.jpg", "ok"),
    ]
    assert len(desk.finished) == 1


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_text_of_parquet_may_be_no_utf8(tmp_path: Path, picture: bytes, kind: pa.DataType) -> None:
    (tmp_path / "good.jpg").write_bytes(picture)
    raw = pa.array([b"good.jpg", NOT_UTF8, None], pa.binary() if kind == pa.string() else pa.large_binary())
    text = pa.Array.from_buffers(kind, 3, raw.buffers())
    folder = tmp_path / "rows"
    folder.mkdir()
    pq.write_table(pa.table({"uri": text, "label": ["real", "fake", "real"]}), folder / "a.parquet")
    where = str(folder / "a.parquet")
    (tmp_path / "rows" / "good.jpg").write_bytes(picture)
    assert loaded(where, Desk()) == [
        ("good.jpg", f"{folder}/good.jpg", "ok"),
        ("caf\\xe9.jpg", f"{folder}/caf\\xe9.jpg", "not_found"),
        (f"{where}#2", f"{where}#2", "not_found"),
    ]
    labelled = list_labelled(where)
    assert [os.path.basename(os.fsencode(location)) for location in labelled.locations] == [NOT_UTF8, b"good.jpg"]
    assert labelled.skipped == 1


def odd_folder(above: Path) -> Path:
    found = Path(os.fsdecode(os.fsencode(above) + b"/caf\xe9"))
    found.mkdir(parents=True)
    return found


def test_generators_are_named_as_text(tmp_path: Path, picture: bytes) -> None:
    tree = odd_folder(tmp_path)
    for label in ("0_real", "1_fake"):
        (tree / label).mkdir()
        (tree / label / "a.jpg").write_bytes(picture)
    assert set(list_labelled(str(tmp_path)).sources) == {"caf\\xe9"}


def test_a_picture_of_any_name_can_be_told_of(tmp_path: Path, picture: bytes) -> None:
    path = odd_folder(tmp_path) / "a.jpg"
    path.write_bytes(picture)
    done = radet("explain", str(path), "--out", str(tmp_path / "out"), PYTHONIOENCODING="utf-8:strict")
    assert done.returncode == 0, done.stderr
    assert "/caf\\udce9/a.jpg" in done.stdout


@pytest.mark.ray
def test_a_command_that_ray_cannot_hold_is_told_with_the_mend(tmp_path: Path, picture: bytes) -> None:
    (odd_folder(tmp_path / "src") / "a.jpg").write_bytes(picture)
    (odd,) = (tmp_path / "src").iterdir()
    line = refused("score", str(odd), "--out", str(tmp_path / "out"))
    assert "a command that is not UTF-8: name what is in its way by a link" in line
    (tmp_path / "plain").symlink_to(odd)
    assert radet("score", str(tmp_path / "plain"), "--out", str(tmp_path / "out")).returncode == 0


def test_a_manifest_in_another_encoding_or_with_an_open_quote_is_told(tmp_path: Path) -> None:
    (tmp_path / "excel.csv").write_text("uri\na.jpg\n", encoding="utf-16")
    with pytest.raises(ConfigError, match=r"excel\.csv is UTF-16: save it as UTF-8"):
        open_source(str(tmp_path / "excel.csv"))
    (tmp_path / "open.csv").write_text('uri\n"' + "x\n" * (9 << 20))
    with pytest.raises(ConfigError, match=r"open\.csv, line 2: field larger .* is a quote left open\?"):
        open_source(str(tmp_path / "open.csv"))
    (tmp_path / "long.csv").write_text(f"uri,text\na.jpg,{'x' * 200_000}\n")  # a page's text beside its picture
    assert [row["uri"] for _, row in lines(str(tmp_path / "long.csv"))] == ["a.jpg"]


def test_labels_that_cannot_be_read_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text('{"uri":"a","label":1}\n{broken\n{"uri":"b","label":0}\n{"uri":"c"}\n')
    found = list_labelled(str(tmp_path / "list.jsonl"))
    assert (len(found.locations), found.skipped) == (2, 2)


def test_a_parquet_file_that_is_none_is_told_before_training(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(os.urandom(1000))
    with pytest.raises(ConfigError, match="is no Parquet file that can be read"):
        list_labelled(str(tmp_path))


@pytest.mark.parametrize(
    "error",
    [ModelError("weights_missing", "m"), ImageError("empty", "m"), FetchError("timeout", "m"), ConfigError("m")],
)
def test_errors_travel_though_ray_data_writes_into_their_arguments(error: Exception) -> None:
    error.args = (f"{error.args[0]}\nFailed to apply UDF transform after 1/1 attempts", *error.args[1:])
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), found.code, found.message) == (type(error), error.code, "m")  # type: ignore[attr-defined]


def forget_clients() -> None:
    """They keep the endpoint that they were made for."""
    client.cache_clear()
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def between(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxy(s3.endpoint) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
        forget_clients()
        yield made
    forget_clients()


@pytest.mark.s3
@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_container_that_s3_does_not_give_is_opened_again_next_time(
    s3: S3Server, between: Proxy, tmp_path: Path, kind: str, picture: bytes
) -> None:
    file, url = tmp_path / f"a.{kind}", s3.url(f"odd-{os.getpid()}/a.{kind}")
    pictures = {f"{n}.jpg": picture + os.urandom(100) for n in range(3)}
    if kind == "tar":
        write_tar(file, pictures)
    else:
        pq.write_table(pa.table({"image": list(pictures.values())}), file)
    put(url, file.read_bytes())
    (shard,) = open_source(url).shards(64)
    desk = Desk()
    loader = Loader(desk=desk, policy=CropPolicy(resize=224, size=224), allow_http=False, block=64)

    def statuses() -> set[tuple[str, bool]]:
        rows = [row for told in loader.load(0, json.dumps(shard)) for row in unpack(told).to_pylist()]
        return {(row["status"], row["_retry"]) for row in rows}

    between.faults = lambda request: "cut" if request.method == "GET" and "odd-" in request.path else ""
    assert statuses() == {("unreachable", True)}
    assert desk.finished == []
    between.faults = None
    assert statuses() == {("ok", False)}
    assert len(desk.finished) == 1


def test_what_a_container_holds_is_read_once(tmp_path: Path) -> None:
    """Broken contents do not mend themselves."""
    (tmp_path / "a.tar").write_bytes(b"no tar" * 1000)
    desk = Desk()
    assert [status for *_, status in loaded(str(tmp_path / "a.tar"), desk)] == ["truncated"]
    assert len(desk.finished) == 1


def test_a_parquet_file_with_a_broken_footer_is_a_row(tmp_path: Path, picture: bytes) -> None:
    """Arrow then raises an OSError, as for a disk that fails, but one without a number."""
    for name in ("a", "b"):
        pq.write_table(pa.table({"image": [picture]}), tmp_path / f"{name}.parquet")
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    footer = int.from_bytes(data[-8:-4], "little")
    data[-8 - footer : -8] = b"\xff" * footer
    (tmp_path / "a.parquet").write_bytes(data)
    assert not parquet.is_parquet(str(tmp_path / "a.parquet"))
    desk = Desk()
    assert sorted(status for *_, status in loaded(str(tmp_path), desk)) == ["corrupt", "ok"]
    assert len(desk.finished) == 1


@pytest.mark.s3
def test_a_manifest_on_s3_is_read_alike(s3: S3Server) -> None:
    forget_clients()
    url = s3.url(f"odd-{os.getpid()}/list.csv")
    put(url, b"\xef\xbb\xbfuri,label\n" + NOT_UTF8 + b",real\n")
    assert first_line(url) == {"uri": "caf\udce9.jpg", "label": "real"}
    with pytest.raises(ConfigError, match=r"cannot read .*none\.csv"):
        first_line(url.replace("list", "none"))


@pytest.mark.parametrize("reader", [tars, parquet])
def test_a_container_that_is_gone_is_no_broken_one(tmp_path: Path, reader: object) -> None:
    file = str(tmp_path / "gone")
    columns = {"ids": None, "bytes": "image", "uri": None, "column": None}
    body = {"file": file, "uri_of_file": file, "version": "v", "group": 0, "first_row": 0}
    ((item,),) = reader.read_items(body | columns, 4)  # type: ignore[attr-defined]
    assert isinstance(item, Item)
    assert item.rest
    assert item.error is not None
    assert item.error.code == "not_found"


def test_a_shard_travels_with_any_name() -> None:
    shard = Shard("uris", {"entries": [["\udce9", "\udce9", "\udce9"]]})
    assert Shard(*json.loads(json.dumps(shard))) == shard


def test_containers_may_have_any_name(tmp_path: Path, picture: bytes) -> None:
    write_tar(tmp_path / "a.tar", {"a.jpg": picture})
    pq.write_table(pa.table({"image": [picture]}), tmp_path / "a.parquet")
    for kind in ("tar", "parquet"):
        folder = odd_folder(tmp_path / kind)
        (tmp_path / f"a.{kind}").rename(folder / f"a.{kind}")
        ((_, uri, status),) = loaded(str(tmp_path / kind), Desk())
        assert (uri.partition("#")[0], status) == (f"{tmp_path}/{kind}/caf\\xe9/a.{kind}", "ok")
