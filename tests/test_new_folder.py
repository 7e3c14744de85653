"""Folders that commands make: nothing that is there is lost, and no name means another checkpoint from then on."""

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from jobs.cli import app
from jobs.explain import _names
from pipelines.calibrate import _publish
from pipelines.new_folder import new_checkpoint, whole
from radet.config import DetectorConfig, resolve
from radet.detector import Detector
from radet.errors import ConfigError
from radet.selftest import require_golden

from .corpus import write_corpus
from .test_outputs import LITE, full_disk

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
def test_a_bucket_is_no_folder_and_an_empty_name_not_this_one(here: Path, command: list[str]) -> None:
    assert refused(*command, "--out", "s3://bucket/x") == "cannot write to s3://bucket/x: give a local folder"
    assert refused(*command, "--out", "").startswith("an empty name is no folder to write to")
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


def test_a_checkpoint_is_whole_or_absent(tmp_path: Path) -> None:
    folder = new_checkpoint(str(tmp_path / "made"))

    def stopped() -> None:
        with whole(folder) as made:
            (made / "model.safetensors").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(folder.iterdir()) == []
    with whole(new_checkpoint(str(folder))) as made:
        (made / "encoder").mkdir()
        for name in ("config.json", "encoder/weights"):
            (made / name).write_text(name)
        assert not (folder / "config.json").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "encoder"]
    assert (folder / "encoder" / "weights").read_text() == "encoder/weights"


def test_a_disk_that_is_full_is_told_and_leaves_no_half_of_a_checkpoint(tmp_path: Path) -> None:
    detector = Detector.from_pretrained("radet-lite")

    def save() -> None:
        with whole(tmp_path) as made, full_disk(1000):
            detector.save_pretrained(made)

    with pytest.raises(ConfigError, match=f"cannot write to {tmp_path}: File too large"):
        save()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["calibrate", "convert", "fit"])
def test_what_is_stopped_while_it_writes_can_be_begun_again(
    here: Path, command: str, photographs: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Detector.save_pretrained

    def stopped(detector: Detector, folder: Path) -> None:
        save(detector, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(Detector, "save_pretrained", stopped)
    if command == "calibrate":
        lite = resolve("radet-lite")
        with pytest.raises(KeyboardInterrupt):
            _publish(lite, new_checkpoint("made"), DetectorConfig.read(lite))
    else:
        write_corpus(here / "photographs", 4, photographs)
        asked = {"convert": COMMANDS[1], "fit": ["models", "fit", "--real", "photographs", *LITE]}[command]
        assert isinstance(CliRunner().invoke(app, [*asked, "--out", "made"]).exception, SystemExit)
    assert list((here / "made").iterdir()) == []


@pytest.mark.parametrize("wrong", [("--limit", "2"), ("--draws", "257")])
def test_what_no_detector_can_be_fitted_with_is_no_choice(here: Path, wrong: tuple[str, str]) -> None:
    done = CliRunner().invoke(app, ["models", "fit", "--real", "data", *LITE, *wrong, "--out", "made"])
    assert done.exit_code == 2
    assert wrong[0] in done.output
    assert not (here / "made").exists()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_fitted_detector_has_golden_scores(here: Path, precision: str, photographs: list[Image.Image]) -> None:
    write_corpus(here / "photographs", 4, photographs)
    done = CliRunner().invoke(
        app, ["models", "fit", "--real", "photographs", *LITE, "--precision", precision, "--out", "made"]
    )
    assert done.exit_code == 0, done.output
    assert require_golden(Detector.from_pretrained(here / "made", precision="fp32")) < 1e-5


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
    assert "dark the least, pale the most within that picture" in done.output
    assert (tmp_path / "holiday.png").read_bytes() == before
    assert (tmp_path / "holiday-2.png").stat().st_size > len(before)
