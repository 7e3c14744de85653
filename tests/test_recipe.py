"""Recipes: the shipped ones read, and a wrong one is one clear line."""

from pathlib import Path

import pytest

from radet.errors import ConfigError
from radet.recipe import Recipe

from .conftest import ROOT

RECIPES = sorted((ROOT / "jobs").glob("train-*.yaml"))
GOOD = RECIPES[0].read_text(encoding="utf-8")


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_the_shipped_recipes_read(file: Path) -> None:
    recipe = Recipe.read(file)
    assert bool(recipe.layers) == ("semantic" in recipe.branches)
    assert recipe.margin.gamma == 1.0, "the paper's default"
    assert recipe.probe.eps == pytest.approx(16 / 255), "the paper's"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + "learning_rate: 1\n", "unknown key 'learning_rate'"),
        (GOOD.replace("kind: drp", "kind: magic"), "probe.kind must be"),
        (GOOD + "epochs: many\n", "epochs must be int"),
        (GOOD + "margin: {gama: 2.0}\n", "unknown key 'gama'"),
        (GOOD + "micro_batch: 24\nglobal_batch: 128\n", "multiple of micro_batch"),
        (GOOD + "cache_clean: true\nviews: 0\n", "cache_clean needs views"),
        (GOOD + "eps_range: [0.5, 0.1]\n", "eps_range"),
        ("name: x\n", "lacks the key"),
        ("[1, 2\n", "cannot be read as YAML"),
        ("just words\n", "must be an object"),
    ],
)
def test_a_wrong_recipe_is_one_clear_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "recipe.yaml"
    keep: dict[str, str] = {}
    for block in text.splitlines(keepends=True):  # the last of a key counts
        key = block.split(":")[0] if block[:1].isalpha() else ""
        if key:
            keep[key] = block
        else:
            keep[next(reversed(keep), "")] = keep.get(next(reversed(keep), ""), "") + block
    file.write_text("".join(keep.values()), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        Recipe.read(file)
    assert says in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        Recipe.read("nowhere.yaml")
