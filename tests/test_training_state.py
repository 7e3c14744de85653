"""A run is gone on with by what it was begun with, and by nothing else."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.labelled import Labelled
from pipelines.training_state import Beginning, beginning_of, require_free, require_same, write_beginning
from radet.errors import ConfigError
from radet.recipe import Recipe
from radet.training import new_detector

from .training import tiny_recipe, write_encoder

LISTED = Labelled(["a.png", "b\udcff.png"], np.array([False, True]), ["camera", "sd"], 0)
Begin = Callable[..., Beginning]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return tiny_recipe(write_encoder(tmp_path_factory.mktemp("encoder")))


@pytest.fixture(scope="module")
def begin(recipe: Recipe) -> Begin:
    detector = new_detector(recipe)
    known = detector.config

    def of(
        changed: Recipe = recipe,
        training: Labelled = LISTED,
        validation: Labelled = LISTED,
        weights: str = known.encoder.sha256,
    ) -> Beginning:
        detector.config = replace(known, encoder=replace(known.encoder, sha256=weights))
        return beginning_of(changed, detector, training, validation)

    return of


@pytest.fixture
def out(tmp_path: Path, begin: Begin) -> str:
    """As a run leaves it that was stopped after an epoch."""
    write_beginning(str(tmp_path), begin())
    epoch = tmp_path / "_train" / "checkpoint_2026-11-21_00-00-00.000000"
    epoch.mkdir()
    (epoch / "state.json").write_text("{}", encoding="utf-8")
    return str(tmp_path)


def test_a_run_that_was_begun_is_not_overwritten(out: str, tmp_path: Path) -> None:
    require_free(out, resume=True)
    require_free(str(tmp_path / "another"), resume=False)
    with pytest.raises(ConfigError, match="go on with it by --resume"):
        require_free(out, resume=False)


@pytest.mark.parametrize("name", ["config.json", "README.md"])
@pytest.mark.parametrize("resume", [True, False])
def test_what_no_run_has_left_is_not_overwritten(tmp_path: Path, name: str, resume: bool) -> None:
    """Another checkpoint, say, or the folder that one stands in."""
    require_free(str(tmp_path), resume=resume)
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"holds a {name} already, which the checkpoint's would replace: give"):
        require_free(str(tmp_path), resume=resume)


def test_a_run_that_ended_can_be_gone_on_with(out: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    require_free(out, resume=True)
    with pytest.raises(ConfigError, match="has ended: give another --out, or --resume for more epochs"):
        require_free(out, resume=False)


def test_the_same_goes_on_for_longer(out: str, recipe: Recipe, begin: Begin) -> None:
    require_same(out, begin())
    require_same(out, begin(replace(recipe, epochs=30, patience=9, micro_batch=4, description="better")))


@pytest.mark.parametrize("part", ["recipe", "encoder", "location", "label", "source", "order"])
def test_something_else_is_named(out: str, recipe: Recipe, begin: Begin, part: str) -> None:
    for listing in ("training", "validation"):
        changed, told = {
            "recipe": ({"changed": replace(recipe, probe=replace(recipe.probe, eps=0.5))}, "the recipe's probe.eps"),
            "encoder": ({"weights": 64 * "0"}, "the encoder's weights"),
            "location": ({listing: LISTED._replace(locations=["a.png", "c.png"])}, f"the {listing} pictures"),
            "label": ({listing: LISTED._replace(generated=np.array([True, True]))}, f"the {listing} pictures"),
            "source": ({listing: LISTED._replace(sources=["camera", "dalle"])}, f"the {listing} pictures"),
            "order": ({listing: Labelled(*(part[::-1] for part in LISTED[:3]), 0)}, f"the {listing} pictures"),
        }[part]
        with pytest.raises(ConfigError, match=f"these have changed: {told}; give what it was begun with"):
            require_same(out, begin(**changed))


def test_a_wholly_different_recipe_is_told_in_short(out: str, recipe: Recipe, begin: Begin) -> None:
    other = replace(recipe, dropout=0.5, hidden=16, views=3, seed=9, branch_weight=0.1, reference_images=8)
    with pytest.raises(ConfigError, match=r"the recipe's dropout, .* and 2 more; give"):
        require_same(out, begin(other, validation=LISTED._replace(sources=["x", "y"])))


def test_what_kept_no_epoch_may_begin_otherwise(out: str, recipe: Recipe, begin: Begin) -> None:
    """So that pictures that a run could not be begun with can be left out of it."""
    (epoch,) = Path(out, "_train").glob("checkpoint_*")
    (epoch / "state.json").unlink()
    require_same(out, begin(replace(recipe, seed=9)))


def test_a_run_of_before_this_was_written_goes_on(out: str, recipe: Recipe, begin: Begin) -> None:
    Path(out, "_train", "begun_with.json").unlink()
    require_same(out, begin(replace(recipe, seed=9)))
