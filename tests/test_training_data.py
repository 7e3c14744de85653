"""Pictures that no training can come of are refused before any work."""

from pathlib import Path

import pytest
from PIL import Image

from pipelines.training_data import list_training
from radet.errors import ConfigError

from .training import write_tree


@pytest.fixture
def trees(photographs: list[Image.Image], tmp_path: Path) -> tuple[Path, Path]:
    return write_tree(tmp_path / "train", photographs, 12), write_tree(tmp_path / "val", photographs, 40, seed=1)


def test_what_can_work_is_listed(trees: tuple[Path, Path]) -> None:
    training, validation = list_training(*map(str, trees))
    assert (len(training.locations), len(validation.locations)) == (12, 40)


def test_pictures_on_the_web_are_refused(trees: tuple[Path, Path], tmp_path: Path) -> None:
    manifest = tmp_path / "urls.csv"
    rows = [f"{scheme}://example.com/{n}.jpg,{n % 2}" for n, scheme in enumerate(("http", "HTTPS"))]
    manifest.write_text("\n".join(["uri,label", *rows]), encoding="utf-8")
    for data, val in ((manifest, trees[1]), (trees[0], manifest)):
        with pytest.raises(ConfigError, match=r"urls.csv names 2 pictures on the web, the first HTTPS://example.com/1"):
            list_training(str(data), str(val))


@pytest.mark.parametrize("spelling", ["as it is", "relative", "a link", "a manifest"])
def test_pictures_in_both_are_refused(
    trees: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(trees[0])
    shared = sorted(trees[0].rglob("*.png"))[-2]
    rows = [f"link/../train/{shared.relative_to(trees[0])},real", *(f"{path},fake" for path in trees[1].rglob("*.png"))]
    (tmp_path / "m.csv").write_text("\n".join(["uri,label", *rows]), encoding="utf-8")
    others = {"as it is": trees[0], "relative": "./train/", "a link": "link", "a manifest": "m.csv"}
    found = f"1 pictures are in both .* {shared}:" if spelling == "a manifest" else "12 pictures are in both"
    with pytest.raises(ConfigError, match=found):
        list_training(str(trees[0]), str(others[spelling]))


def test_too_few_pictures_are_refused(trees: tuple[Path, Path], photographs: list[Image.Image], tmp_path: Path) -> None:
    few = write_tree(tmp_path / "few", photographs, 10, seed=2)
    with pytest.raises(ConfigError, match="few has 5 real pictures: give 6 at least"):
        list_training(str(few), str(trees[1]))
    with pytest.raises(ConfigError, match="few has 5 real and 5 generated pictures: give 20 of each at least"):
        list_training(str(trees[0]), str(few))


def test_a_manifest_without_labels_is_told_what_to_write(trees: tuple[Path, Path], tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("uri,kind\na.png,real\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"no column of labels: call it 'label' .* it has 'uri', 'kind'$"):
        list_training(str(manifest), str(trees[1]))
