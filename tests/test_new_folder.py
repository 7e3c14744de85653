"""Folders that commands make: nothing that is there is lost, and no name means another checkpoint from then on."""

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from jobs.cli import app
from jobs.explain import _names
from pipelines.new_folder import new_checkpoint
from radet.errors import ConfigError

from .conftest import write_corpus
from .test_outputs import LITE

COMMANDS = [
    ["calibrate", "data"],
    ["models", "convert", "radet-lite", "--precision", "bf16"],
    ["models", "fit", "--real", "data/0_real", *LITE],
]


@pytest.fixture
def here(tmp_path: Path, photographs: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> Path:
    for label in ("0_real", "1_fake"):
        write_corpus(tmp_path / "data" / label, 2, photographs)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*command: str) -> str:
    error = CliRunner().invoke(app, command).exception
    assert isinstance(error, ConfigError)
    return str(error)


@pytest.mark.parametrize("command", [*COMMANDS, ["explain", "data/0_real/0/00000.jpg"]], ids=lambda one: one[1])
def test_a_bucket_is_no_folder(here: Path, command: list[str]) -> None:
    assert refused(*command, "--out", "s3://bucket/x") == "cannot write to s3://bucket/x: give a local folder"
    assert [path.name for path in here.iterdir()] == ["data"]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: one[1])
def test_a_folder_with_files_in_it_is_left_alone(here: Path, command: list[str]) -> None:
    Path("mine").mkdir()
    Path("mine", "README.md").write_text("my own")
    assert "mine holds files already, README.md for one: name another" in refused(*command, "--out", "mine")
    assert Path("mine", "README.md").read_text() == "my own"
    assert "name another folder" in refused(*command, "--out", ".")
    assert "radet-lite is a bundled detector" in refused(*command, "--out", "radet-lite")
    assert sorted(path.name for path in here.iterdir()) == ["data", "mine"]


def test_a_new_or_empty_folder_will_do(tmp_path: Path) -> None:
    for out in (tmp_path / "a" / "b", tmp_path / "a" / "b"):
        assert new_checkpoint(str(out)) == out
        assert list(out.iterdir()) == []
    with pytest.raises(ConfigError, match="cannot write to"):
        new_checkpoint("/proc/x")


def test_pictures_of_one_name_are_explained_apart(tmp_path: Path) -> None:
    images = [Path("img.jpg"), Path("img-3.jpg"), Path("sub/img.jpg"), Path("img.png"), Path("img-2.webp")]
    assert _names(images, tmp_path) == ["img", "img-3", "img-2", "img-4", "img-2-2"]
    (tmp_path / "img.png").touch()
    assert _names(images[:1], tmp_path) == ["img-2"]


def test_a_picture_is_not_replaced_by_its_explanation(tmp_path: Path, photographs: list[Image.Image]) -> None:
    photographs[0].resize((90, 90)).save(tmp_path / "holiday.png")
    before = (tmp_path / "holiday.png").read_bytes()
    done = CliRunner().invoke(app, ["explain", str(tmp_path / "holiday.png"), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "holiday.png: holiday-2.png" in done.output
    assert (tmp_path / "holiday.png").read_bytes() == before
    assert (tmp_path / "holiday-2.png").stat().st_size > len(before)
