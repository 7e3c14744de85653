"""What lies in S3 is fetched once a node: here, once for several processes that begin at once."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipelines.s3
from pipelines.weights import find_encoders, local_model
from radet import Detector
from radet.errors import ModelError

from .conftest import ROOT
from .nodes import upload
from .s3_proxy import Proxy, proxy
from .s3_server import S3Server

pytestmark = pytest.mark.s3

LITE = ROOT / "radet" / "weights" / "radet-lite"
FETCH = "import sys; from pipelines.weights import local_model; sys.stdin.read(); print(local_model(sys.argv[1]))"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "radet"


@pytest.fixture
def between(s3: S3Server) -> Iterator[Proxy]:
    with proxy(s3.endpoint) as made:
        yield made


def test_processes_of_a_node_fetch_once(s3: S3Server, between: Proxy) -> None:
    url = upload(LITE, s3.url(f"weights-{os.getpid()}/once"))
    pipelines.s3.put(f"{url}/_train/checkpoint/state", b"not part of the detector")
    env = os.environ | {"AWS_ENDPOINT_URL": between.endpoint}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FETCH, url],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    folders = {process.communicate()[0].strip() for process in processes}
    assert len(folders) == 1
    assert between.count("GET", "/model.safetensors") == between.count("GET", "/config.json") == 1
    assert between.count("GET", "/state") == 0
    assert Detector.from_pretrained(folders.pop()).model_id == Detector.from_pretrained("radet-lite").model_id


def test_a_changed_checkpoint_is_another_copy_and_an_unfinished_one_is_none(s3: S3Server, cache: Path) -> None:
    url = s3.url(f"weights-{os.getpid()}/changed")
    pipelines.s3.put(f"{url}/config.json", b"1")
    first = Path(local_model(url))
    assert (first / "config.json").read_bytes() == b"1"
    pipelines.s3.put(f"{url}/config.json", b"2")
    second = Path(local_model(url))
    assert (second / "config.json").read_bytes() == b"2"
    assert (first / "config.json").read_bytes() == b"1"
    second.rename(second.with_suffix(".tmp"))  # as a process leaves it that dies while it fetches
    (second.with_suffix(".tmp") / "config.json").write_bytes(b"half")
    assert (Path(local_model(url)) / "config.json").read_bytes() == b"2"


def test_encoders_of_a_prefix_are_found_in_a_folder(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = s3.url(f"weights-{os.getpid()}/encoders")
    pipelines.s3.put(f"{url}/tower.safetensors", b"t")
    monkeypatch.setenv("RADET_WEIGHTS", url)
    find_encoders()
    assert (Path(os.environ["RADET_WEIGHTS"]) / "tower.safetensors").read_bytes() == b"t"


def test_what_is_not_there_is_one_line(s3: S3Server) -> None:
    with pytest.raises(ModelError, match="holds no files") as error:
        local_model(s3.url("nothing/here"))
    assert error.value.code == "weights_missing"
    assert local_model("radet-lite") == "radet-lite"
