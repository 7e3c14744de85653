import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError

import pipelines.s3
from pipelines.items import is_image_name, resolve
from pipelines.ledger import new_run_id
from pipelines.listing import walk
from radet.errors import ConfigError

from .s3_server import S3Server


def uris(root: str) -> set[str]:
    return {entry.uri for entry in walk(root)}


def test_a_folder_is_walked_whatever_its_names(tmp_path: Path) -> None:
    names = ["a.jpg", "with space #1 100%.png", "caf\u00e9 \u6f22\u5b57.webp", "line\nbreak.gif", "deep/er/b.jpg"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert uris(str(tmp_path)) == {str(tmp_path / name) for name in names}


def test_a_name_that_is_not_utf8_is_escaped_in_the_uri_and_still_readable(tmp_path: Path) -> None:
    raw = os.path.join(os.fsencode(tmp_path), b"caf\xe9.jpg")
    with open(raw, "wb") as file:
        file.write(b"x")
    (entry,) = walk(str(tmp_path))
    assert entry.uri.endswith("caf\\xe9.jpg")
    assert os.path.exists(entry.location)


def test_the_version_changes_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"one")
    (before,) = walk(str(tmp_path))
    os.utime(file, ns=(1, 1))
    (after,) = walk(str(tmp_path))
    assert before.version != after.version
    assert before.key == after.key


def test_a_folder_named_like_an_image_and_a_dangling_link_are_entries(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "folder.jpg" / "inside.png").write_bytes(b"x")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    assert uris(str(tmp_path)) == {str(tmp_path / name) for name in ("folder.jpg", "folder.jpg/inside.png", "gone.jpg")}


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert {entry.uri for entry in walk(str(tmp_path)) if is_image_name(entry.uri) and entry.size} >= {
        str(tmp_path / "a.jpg")
    }
    assert len(list(walk(str(tmp_path)))) == 2


def test_the_output_of_a_run_is_no_part_of_what_it_reads(tmp_path: Path) -> None:
    for name in ("a.jpg", "out/parts/x.parquet", "out/_lock", "out2/b.jpg", "deep/out/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    kept = {str(tmp_path / name) for name in ("a.jpg", "out2/b.jpg", "deep/out/c.jpg", "link")}
    for out in ("out", "out/", "link", "deep/../out"):
        assert {entry.uri for entry in walk(str(tmp_path), but=f"{tmp_path}/{out}")} == kept
    assert len(list(walk(str(tmp_path), but=str(tmp_path / "none")))) == 5


def test_outputs_of_other_runs_in_it_neither_unless_they_are_asked_for(tmp_path: Path) -> None:
    run = new_run_id()
    written = [f"parts/{run}-00000.parquet", f"_runs/{run}.json", f"_runs/{run}.index.parquet", "_lock"]
    for name in ("photos/a.jpg", "photos/parts/mine.parquet", *(f"photos/lite/{name}" for name in written)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = {entry.uri for entry in walk(str(tmp_path / "photos"))}
    assert found == {str(tmp_path / "photos" / name) for name in ("a.jpg", "parts/mine.parquet")}
    assert len(list(walk(str(tmp_path / "photos" / "lite")))) == len(written)
    assert len(list(walk(str(tmp_path / "photos" / "lite" / "parts")))) == 1


@pytest.mark.s3
def test_the_output_of_a_run_below_the_same_prefix_neither(s3: S3Server) -> None:
    url = s3.url(f"listing-{os.getpid()}")
    for name in ("a.jpg", "out/parts/x.parquet", "out2/b.jpg", f"out3/_runs/{new_run_id()}.json"):
        pipelines.s3.put(f"{url}/{name}", b"x")
    for out in ("out", "out/"):
        assert {entry.uri for entry in walk(url, but=f"{url}/{out}")} == {f"{url}/a.jpg", f"{url}/out2/b.jpg"}
    for around in (url, f"s3://{s3.bucket}"):
        assert [entry.uri for entry in walk(f"{url}/out2", but=around)] == [f"{url}/out2/b.jpg"]


def test_a_missing_folder_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        walk(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.JPG", True),
        ("b.jpeg", True),
        ("0a1b2c", True),
        ("c.txt", False),
        ("d.tar", False),
        (".hidden", True),
        ("._a.jpg", False),  # as macOS writes it beside a.jpg on disks of others, and into tars
        (".DS_Store", False),
        ("e.jpg?w=64&v=1.2", True),  # as wget names it
        ("f.JPG:large", True),
        ("g.png_large", True),
        ("h.jpg.json", False),
        ("i.php?file=j.jpg", False),
        ("k.\u6f22\u5b57", False),
    ],
)
def test_image_names(name: str, expected: bool) -> None:
    assert is_image_name(f"/x.y/{name}") is expected


def test_uris_are_resolved_against_the_manifest() -> None:
    assert resolve("a/b.jpg", "/data/list.csv") == "/data/a/b.jpg"
    assert resolve("b.jpg", "s3://bucket/x/list.csv") == "s3://bucket/x/b.jpg"
    assert resolve("s3://other/k", "/data/list.csv") == "s3://other/k"
    assert resolve("file:///a%20b.jpg", "/data/list.csv") == "/a b.jpg"
    assert resolve(" https://a.org/b c.jpg ", "/data/list.csv") == "https://a.org/b c.jpg"


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user can reach."""
    with TemporaryDirectory(prefix="radet-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize("kind", ["jpg", "parquet"])
def test_a_folder_that_cannot_be_listed_is_an_input_whatever_its_name(public: Path, kind: str) -> None:
    """Of pictures from one web site, say, or of one day; where it is the whole source, it is refused."""
    for folder in ("example.com", "date=1", "open"):
        (public / "src" / folder).mkdir(parents=True)
        pq.write_table(pa.table({"image": [b"x"]}), public / "src" / folder / f"a.{kind}")
    for folder in ("example.com", "date=1"):
        (public / "src" / folder).chmod(0)
    # In a process of its own, which gives up root's right to read everything.
    program = """if True:
        import itertools, os, sys
        from pipelines import load
        from pipelines.fetch import Fetcher
        from pipelines.sources import open_source
        from radet.errors import RadetError
        os.chdir(sys.argv[1])
        os.geteuid() or os.seteuid(65534)
        source = open_source("src")
        shards = (shard.entries() for shard in source.shards(9) if shard.kind == "uris")
        for entry in sorted(itertools.chain(source.entries(), *shards)):
            try:
                Fetcher(allow_http=False).read(entry.location)
            except RadetError as error:
                print(entry.uri.removeprefix(os.getcwd()), error.code)
        try:
            open_source("src/example.com")
        except RadetError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", program, str(public)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "/src/date=1/ forbidden",
        "/src/example.com/ forbidden",
        "src/example.com cannot be listed: Permission denied",
    ]


@pytest.mark.s3
def test_what_may_not_be_asked_for_is_listed(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an object that is not there S3 says so to those only who may list the whole bucket."""
    url = s3.url(f"listing-asked-{os.getpid()}")
    pipelines.s3.put(f"{url}/a.jpg", b"x")
    actual = pipelines.s3.client()

    class Client:
        def head_object(self, **_: str) -> None:
            raise ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, "HeadObject")

        def __getattr__(self, name: str) -> object:
            return getattr(actual, name)

    monkeypatch.setattr(pipelines.s3, "client", Client)
    assert uris(url) == {f"{url}/a.jpg"}
