import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from s3fs import S3FileSystem

from pipelines import s3 as s3_module
from pipelines.compare import compare
from pipelines.fetch import Fetcher
from pipelines.manifests import first_line
from pipelines.run_report import run_page
from pipelines.score import ScoreJob, Watcher, score
from radet.errors import ConfigError, FetchError, ImageError

from .s3_server import S3Server


def code(location: str, *, max_bytes: int = 1000) -> str:
    fetcher = Fetcher(allow_http=False, max_bytes=max_bytes)
    with pytest.raises((FetchError, ImageError)) as caught:
        fetcher.read(location)
    return caught.value.code


def test_local_files(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"x" * 1000)
    os.mkfifo(tmp_path / "pipe.jpg")
    assert Fetcher(allow_http=False, max_bytes=1000).read(str(file)) == b"x" * 1000
    assert code(str(file), max_bytes=999) == "too_large_bytes"
    assert code(str(tmp_path / "none.jpg")) == "not_found"
    assert code(str(file / "below.jpg")) == "not_found"
    assert code(str(tmp_path)) == "not_an_image"
    assert code(str(tmp_path / "pipe.jpg")) == "not_an_image"
    assert code("") == "not_found"
    assert code(f"{tmp_path}/{'n' * 300}.jpg") == "not_found"


def test_a_file_without_permission_is_forbidden(tmp_path: Path) -> None:
    file = tmp_path / "secret.jpg"
    file.write_bytes(b"x")
    file.chmod(0)
    # In a process of its own, which gives up root's right to read everything.
    program = (
        "import os, sys\n"
        "from pipelines.fetch import Fetcher\n"
        "from radet.errors import FetchError\n"
        "fetcher = Fetcher(allow_http=False)\n"
        "os.chdir(sys.argv[1])\n"
        "os.geteuid() or os.seteuid(65534)\n"
        "try:\n    fetcher.read('secret.jpg')\nexcept FetchError as error:\n    print(error.code, error.transient)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "forbidden True\n"


@pytest.mark.parametrize("url", ["http://example.org/a.jpg", "HTTPS://example.org/a.jpg"])
def test_the_web_is_off_unless_allowed(url: str) -> None:
    assert code(url) == "blocked_address"


def test_what_is_off_or_blocked_may_be_allowed_in_the_next_run() -> None:
    """Else the row that says so would stay, whatever is set since."""
    for allow_http in (False, True):
        with pytest.raises(FetchError) as caught:
            Fetcher(allow_http=allow_http).read("http://127.0.0.1/a.jpg")
        assert (caught.value.code, caught.value.transient) == ("blocked_address", True)


@pytest.mark.s3
def test_objects_that_may_not_be_read_are_tried_again(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that has expired, a role that one worker is without."""
    s3_module.put(s3.url("fetch/a.jpg"), b"x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    s3_module.client.cache_clear()
    try:
        with pytest.raises(FetchError) as caught:
            Fetcher(allow_http=False).read(s3.url("fetch/a.jpg"))
    finally:
        s3_module.client.cache_clear()
    assert (caught.value.code, caught.value.transient) == ("forbidden", True)


@pytest.mark.s3
def test_objects(s3: S3Server) -> None:
    s3_module.put(s3.url("fetch/a b+c%20.jpg"), b"x" * 1000)
    s3_module.put(s3.url("fetch/empty.jpg"), b"")
    assert Fetcher(allow_http=False).read(s3.url("fetch/a b+c%20.jpg")) == b"x" * 1000
    assert Fetcher(allow_http=False).read(s3.url("fetch/empty.jpg")) == b""
    assert code(s3.url("fetch/a b+c%20.jpg"), max_bytes=999) == "too_large_bytes"
    assert code(s3.url("fetch/none.jpg")) == "not_found"
    assert code("s3://nobucket/none.jpg") == "not_found"


def test_objects_are_deleted_a_thousand_at_a_time_and_one_that_stays_is_told() -> None:
    asked: list[int] = []

    class Client:
        def delete_objects(self, Bucket: str, Delete: dict[str, Any]) -> dict[str, Any]:
            asked.append(len(Delete["Objects"]))
            return {} if len(asked) < 3 else {"Errors": [{"Key": "2001", "Message": "Access Denied"}]}

    with pytest.raises(FetchError, match="S3 did not delete 2001: Access Denied"):
        s3_module.delete("bucket", [str(number) for number in range(2500)], by=Client())
    assert asked == [1000, 1000, 500]


@pytest.mark.s3
def test_the_version_of_an_object_follows_its_content(s3: S3Server) -> None:
    fetcher = Fetcher(allow_http=False)
    url = s3.url("fetch/version.jpg")
    s3_module.put(url, b"one")
    one = fetcher.look(url)
    s3_module.put(url, b"two")
    two = fetcher.look(url)
    s3_module.put(url, b"one")
    assert one.size == 3
    assert one.version == fetcher.look(url).version != two.version


@pytest.mark.parametrize("uri", ["gs://bucket/a.jpg", "ftp://example.org/a.jpg"])
def test_a_uri_of_another_kind_is_told(uri: str) -> None:
    for ask in (Fetcher(allow_http=False).read, Fetcher(allow_http=False).look):
        with pytest.raises(FetchError, match=rf"{uri.partition(':')[0]}:// is not read: give a path, s3:// or http"):
            ask(uri)


def test_the_region_is_taken_from_either_of_its_names() -> None:
    """For both clients."""
    program = (
        "import asyncio\nfrom pipelines import s3\nfrom s3fs import S3FileSystem\n"
        "print(s3.client().meta.region_name)\n"
        "files = S3FileSystem(key='a', secret='b')\nfiles.connect()\nprint(files.s3.meta.region_name)\n"
    )
    names = {name: value for name, value in os.environ.items() if not name.endswith("_REGION")}
    for given, region in (
        ({"AWS_REGION": "eu-central-1"}, "eu-central-1"),
        ({"AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "us-west-2"}, "us-west-2"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program], env=names | given, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [region, region]


@pytest.mark.parametrize(
    ("name", "value"), [("ENDPOINT_URL", "minio:9000"), ("PROFILE", "none"), ("MAX_ATTEMPTS", "x")]
)
def test_settings_that_no_client_takes_are_told(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"AWS_{name}", value)
    with pytest.raises(ConfigError, match=f"no S3 client by these AWS settings: .*{value}"):
        s3_module.new_client()
    S3FileSystem.clear_instance_cache()
    with pytest.raises(ConfigError, match=rf"cannot read s3://bucket/a\.csv: .*{value}"):
        first_line("s3://bucket/a.csv")
    S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    "ask",
    [
        lambda url: score(ScoreJob(src=url, out="out"), Watcher()),
        lambda url: score(ScoreJob(src="src", out=url), Watcher()),
        lambda url: score(ScoreJob(src="src", out="out", model=url), Watcher()),
        run_page,
        lambda url: compare("out", url),
    ],
)
def test_where_nothing_is_at_the_endpoint_a_command_does_not_ask_for_long(
    ask: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"ENDPOINT_URL": "http://127.0.0.1:9", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr(s3_module, "client", None)  # which is patient
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(FetchError, match=r"could not be reached for s3://bucket/a: .*; check AWS_ENDPOINT_URL"):
        ask("s3://bucket/a")
