"""Recipes: the shipped ones read, and a wrong one is one clear line."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from radet.config import ProbeConfig
from radet.errors import ConfigError, RadetError
from radet.recipe import LinearConfig, MarginConfig, OptimiserConfig, Recipe

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
        (GOOD + "epochs: many\n", 'epochs must be a whole number, not "many"'),
        (GOOD + "margin: {gama: 2.0}\n", "unknown key 'gama'"),
        (GOOD + "micro_batch: 24\nglobal_batch: 128\n", "multiple of micro_batch"),
        (GOOD + "cache_clean: true\nviews: 0\n", "cache_clean needs views"),
        (GOOD + "eps_range: [0.5, 0.1]\n", "eps_range"),
        (GOOD + "crop: {resize: 256, size: 200}\n", "crop.size must be a multiple of 16"),
        (GOOD + "eps_range: [0.5, 1.5]\n", "eps_range"),
        (GOOD + "seed: -1\n", "seed >= 0"),
        (GOOD + "seed: 9223372036854775808\n", "below 2^63"),
        (GOOD + "seed: 10000000000000000000000\n", "seed >= 0"),
        (GOOD + "branch_weight: -3.0\n", "branch_weight must be >= 0"),
        (GOOD + "dropout: 1.0\n", "dropout in [0, 1)"),
        (GOOD + "lowlevel_width: 12\n", "lowlevel_width must be a multiple of 8"),
        (GOOD + "branches: []\n", "branches must name one"),
        (GOOD + "layers: [1, 1]\n", "layers must be >= 0, and none twice"),
        (GOOD + "margin: {weight: -1.0}\n", "margin: weight and gamma must be >= 0"),
        (GOOD + "margin: {gamma: -1.0}\n", "margin: weight and gamma must be >= 0"),
        (GOOD + "margin: {weight: .nan}\n", "margin.weight must be a finite number"),
        (GOOD + "optimiser: {rate: .nan}\n", "optimiser.rate must be a finite number"),
        (GOOD + "linear: {penalty: .inf}\n", "linear.penalty must be a finite number"),
        (GOOD + "augment: {zoom: [1.0, .inf]}\n", "augment.zoom[1] must be a finite number"),
        (GOOD.replace("probe: {kind: drp", "probe: {kind: drp, sigma: .nan"), "probe.sigma must be a finite number"),
        (GOOD.replace("  family:", "  std: [0.0, 1.0, 1.0]\n  family:"), "has the key 'std' a second time"),
        (GOOD + "epochs: 0\n", "epochs must be >= 1"),
        (GOOD + "patience: 0\n", "patience must be >= 1"),
        (GOOD.replace("kind: drp", "kind: none"), "discrepancy needs a probe"),
        (GOOD + "linear: {penalty: 0.0}\n", "penalty > 0"),
        (GOOD + "views: -1\n", "needs views >= 1"),
        (GOOD + "linear: {pictures: 1}\n", "pictures must be >= 2"),
        (GOOD + "optimiser: {warmup: 1.0}\n", "warmup in [0, 1)"),
        (GOOD + "augment: {quality: [40, 101]}\n", "quality <= 100"),
        (GOOD + "reference_images: 5\n", "reference_images must be >= 6"),
        ("name: 2024-13-45\n", "month must be in 1..12"),
        ("[" * 5000, "cannot be read as YAML"),
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


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("name: x\nseed: 3\nseed: 4\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="line 3 has the key 'seed' a second time"):
        Recipe.read(file)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_numbers_are_in_range_however_a_recipe_is_made(value: float) -> None:
    for make in (
        lambda: MarginConfig(weight=value),
        lambda: MarginConfig(gamma=value),
        lambda: LinearConfig(penalty=value),
        lambda: OptimiserConfig(rate=value),
        lambda: OptimiserConfig(clip=value),
        lambda: OptimiserConfig(weight_decay=value),
        lambda: replace(Recipe.read(RECIPES[0]), branch_weight=value),
        lambda: ProbeConfig(kind="gaussian", sigma=value),
        lambda: ProbeConfig(kind="blur", blur_sigma=value),
    ):
        with pytest.raises(RadetError):
            make()


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        Recipe.read("nowhere.yaml")
