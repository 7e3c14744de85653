"""A whole run: it learns, it resumes as if nothing had been, and what it leaves scores with stated error rates."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from radet import Detector
from radet.clean_cache import CleanCache
from radet.errors import ConfigError
from radet.finish import Provenance, control, finish
from radet.loop import FUSED, Floats, Progress, Ranks, Run, Watcher
from radet.metrics import auroc
from radet.recipe import OptimiserConfig, Recipe
from radet.selftest import selftest
from radet.training import StepReport, new_detector, rate_at

from .training import feed_of, tiny_recipe, write_encoder, write_tree


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory, photographs: list[Image.Image]) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("trees")
    return write_tree(root / "train", photographs, 96), write_tree(root / "val", photographs, 60, seed=1)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return tiny_recipe(
        write_encoder(tmp_path_factory.mktemp("encoder")), epochs=8, optimiser=OptimiserConfig(rate=1e-2)
    )


def new_run(recipe: Recipe, trees: tuple[Path, Path], cache: Path | None = None) -> Run:
    detector, feed = new_detector(recipe), feed_of(recipe, *trees)
    kept = None
    if cache is not None:
        kept = CleanCache(cache, pictures=len(feed.sources), views=recipe.views, widths=detector.look_widths)
    return Run(detector, recipe, feed, cache=kept)


@pytest.fixture(scope="module")
def trained(recipe: Recipe, trees: tuple[Path, Path]) -> Run:
    run = new_run(recipe, trees)
    run.go(Watcher())
    return run


def test_it_learns_a_checkerboard(trained: Run) -> None:
    assert len(trained.progress.history) == trained.recipe.epochs
    assert trained.progress.best_auroc > 0.9
    assert trained.progress.history[-1]["loss"] < trained.progress.history[0]["loss"]


def test_a_clean_pass_that_is_kept_changes_nothing(recipe: Recipe, trees: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = replace(recipe, views=2)
    plain = new_run(recipe, trees)
    cached = new_run(replace(recipe, cache_clean=True), trees, cache=tmp_path)
    rates: list[float] = []

    class _Rates(Watcher):
        def stepped(self, epoch: int, step: int, steps: int, report: StepReport) -> None:
            rates.append(report.rate)

    plain.go(_Rates())
    cached.go(Watcher())
    assert rates == [rate_at(step, 8 * 6, recipe) for step in range(8 * 6)], "over all epochs"
    for name in ("loss", "margin", "drift_real", "val_auroc"):
        ours, theirs = ([epoch[name] for epoch in run.progress.history] for run in (cached, plain))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)


def test_the_order_is_of_seed_and_epoch_and_ranks_share_every_step(trained: Run) -> None:
    def planned(epoch: int = 0, seed: int = 0, rank: int = 0, world: int = 1) -> list[list[tuple[int, list[int]]]]:
        recipe, ranks = replace(trained.recipe, seed=seed), Ranks(rank, world)
        plan = Run(trained.detector, recipe, trained.feed, ranks)._plan(epoch)
        return [[(part.number, part.pictures.tolist()) for part in step] for step in plan]

    whole = planned()
    assert whole == planned()
    assert whole not in (planned(epoch=1), planned(seed=1))
    assert [
        sorted(first + second) for first, second in zip(planned(world=2), planned(rank=1, world=2), strict=True)
    ] == [sorted(step) for step in whole]


def test_ranks_share_the_validation_pictures(trained: Run) -> None:
    parts: list[torch.Tensor] = []
    for rank in range(2):
        ranks = Ranks(rank, 2, lambda logits: parts.append(logits.clone()))
        Run(trained.detector, trained.recipe, trained.feed, ranks).validate()
    assert not (parts[0].any(1) & parts[1].any(1)).any()
    whole = Run(trained.detector, trained.recipe, trained.feed).validate()
    np.testing.assert_array_equal(sum(parts)[:, 0], whole[FUSED])


def test_the_linear_probe_sees_as_many_pictures_as_it_says(trained: Run) -> None:
    """Of as many epochs as it takes: 160 pictures are 10 steps of 16, an epoch has 6."""
    recipe = replace(trained.recipe, linear=replace(trained.recipe.linear, pictures=160))
    looked: list[tuple[int, int]] = []

    class _Looked(Watcher):
        def looked(self, batch: int, batches: int) -> None:
            looked.append((batch, batches))

    Run(new_detector(recipe), recipe, trained.feed).begin(_Looked())
    assert looked == [(batch, 10) for batch in range(10)]


class _StoppedError(Exception):
    pass


class _StopAfter(Watcher):
    def __init__(self, run: Run, epochs: int, folder: Path) -> None:
        self._run, self._epochs, self._folder = run, epochs, folder

    def validated(self, progress: Progress, logits: Floats) -> None:
        self._run.save(self._folder)
        if progress.epoch == self._epochs:
            raise _StoppedError


def test_resumed_is_uninterrupted(recipe: Recipe, trees: tuple[Path, Path], trained: Run, tmp_path: Path) -> None:
    first = new_run(recipe, trees)
    with pytest.raises(_StoppedError):
        first.go(_StopAfter(first, 2, tmp_path))
    second = new_run(recipe, trees)
    second.load(tmp_path)
    assert second.progress.epoch == 2
    second.go(Watcher())
    assert second.progress.history == trained.progress.history
    ours, theirs = second.detector.own_tensors(), trained.detector.own_tensors()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert second.best is not None
    assert trained.best is not None
    assert np.array_equal(second.best.logits, trained.best.logits)


def test_the_linear_probe_is_fitted_first_and_then_left_alone(
    recipe: Recipe, trees: tuple[Path, Path], trained: Run
) -> None:
    run = new_run(recipe, trees)
    run.begin(Watcher())
    heads, after = run.detector.heads, trained.detector.heads
    assert heads is not None
    assert after is not None
    linear = heads.branches["semantic"].get_submodule("linear")
    assert linear.get_parameter("weight").abs().sum() > 0
    last = after.branches["semantic"].get_submodule("linear")
    assert torch.equal(linear.get_parameter("weight"), last.get_parameter("weight"))
    read = run.validate()["semantic"]
    assert trained.progress.linear_auroc == auroc(read, run.feed.validation_generated)


def test_what_was_trained_in_bf16_is_measured_in_fp32(recipe: Recipe, trees: tuple[Path, Path]) -> None:
    run = new_run(replace(recipe, epochs=1, train_precision="bf16"), trees)
    seen: list[Floats] = []

    class _Keep(Watcher):
        def validated(self, progress: Progress, logits: Floats) -> None:
            assert run.detector.encoder.precision == "bf16"
            seen.append(logits)

        def settling(self) -> None:
            assert len(seen) == 1
            assert not run.progress.settled

        def settled(self, progress: Progress) -> None:
            assert progress.settled

    run.go(_Keep())
    assert run.best is not None
    assert run.best.config.precision == "fp32"
    assert not np.array_equal(run.best.logits, seen[0])
    np.testing.assert_allclose(run.best.logits, seen[0], atol=0.3)
    run.detector.restore(run.best.config, run.best.tensors, "the best epoch")
    np.testing.assert_allclose(run.validate()[FUSED], run.best.logits, atol=1e-4)


def test_a_run_that_goes_on_after_it_was_measured_again_is_measured_once_more(
    recipe: Recipe, trees: tuple[Path, Path], tmp_path: Path
) -> None:
    """`--resume` with more epochs: what then is best was seen in the training's precision only."""
    short = new_run(replace(recipe, epochs=1, train_precision="bf16"), trees)

    class _Save(Watcher):
        def validated(self, progress: Progress, logits: Floats) -> None:
            short.save(tmp_path / "validated")

        def settled(self, progress: Progress) -> None:
            short.save(tmp_path / "settled")

    short.go(_Save())
    states = [load_file(tmp_path / name / "state.safetensors") for name in ("validated", "settled")]
    assert states[0].keys() == states[1].keys()
    for name in states[0]:
        if not name.startswith(("best.", "logits")):
            assert torch.equal(states[0][name], states[1][name]), name
    longer = new_run(replace(short.recipe, epochs=8), trees)
    longer.load(tmp_path / "settled")
    longer.go(Watcher())
    assert longer.progress.best_epoch > 0
    assert longer.progress.settled
    assert longer.best is not None
    longer.detector.restore(longer.best.config, longer.best.tensors, "the best epoch")
    np.testing.assert_allclose(longer.validate()[FUSED], longer.best.logits, atol=1e-4)


def test_a_run_without_progress_ends_early(recipe: Recipe, trees: tuple[Path, Path]) -> None:
    progress = Progress(epoch=3, best_epoch=0, best_auroc=0.9)
    assert progress.ended(replace(recipe, patience=2))
    assert not progress.ended(replace(recipe, patience=3))
    assert Progress(epoch=8).ended(recipe)


def test_broken_pictures_are_skipped_and_named(recipe: Recipe, photographs: list[Image.Image], tmp_path: Path) -> None:
    training = write_tree(tmp_path / "train", photographs, 48)
    validation = write_tree(tmp_path / "val", photographs, 40)
    broken = [training / "source0/0_real/broken.png", validation / "source1/1_fake/broken.jpg"]
    for path in broken:
        path.write_bytes(b"no picture")
    run = Run(new_detector(recipe), recipe, feed := feed_of(recipe, training, validation))
    for epoch in range(2):  # sources are sampled: not every picture comes in every epoch
        run.recipe = recipe
        run.progress.epoch = epoch
        run._epoch(Watcher())
    assert str(broken[1]) in feed.broken
    assert set(feed.broken) <= {str(path) for path in broken}
    assert run.best is not None
    assert np.isnan(run.best.logits).sum() == 1


@pytest.mark.parametrize(
    ("tree", "folder", "branches", "told"),
    [
        ("train", "0_real", ("semantic",), "a reference needs 6 real pictures"),
        ("train", "1_fake", ("semantic",), "the linear probe met no generated training picture"),
        ("train", "1_fake", ("lowlevel",), "epoch 0 met no generated training picture"),
        ("val", "0_real", ("semantic",), "has 0 real and 20 generated pictures that can be scored: give 20 of each"),
        ("val", "1_fake", ("semantic",), "has 20 real and 0 generated pictures that can be scored: give 20 of each"),
    ],
)
def test_a_class_that_cannot_be_read_ends_the_run(
    recipe: Recipe, photographs: list[Image.Image], tmp_path: Path, tree: str, folder: str, branches: Any, told: str
) -> None:
    trees = write_tree(tmp_path / "train", photographs, 16), write_tree(tmp_path / "val", photographs, 40, seed=1)
    for path in (tmp_path / tree).rglob(f"{folder}/*.png"):
        path.write_bytes(b"no picture")
    run = new_run(replace(recipe, branches=branches, linear=replace(recipe.linear, pictures=16)), trees)
    with pytest.raises(ConfigError, match=told):
        run.go(Watcher())
    assert run.best is None


def test_the_checkpoint_scores_with_stated_error_rates(trained: Run, trees: tuple[Path, Path], tmp_path: Path) -> None:
    feed = trained.feed
    assert trained.best is not None
    provenance = Provenance(
        training="training tree",
        validation="validation tree",
        validation_generated=feed.validation_generated,
        validation_sources=["x"] * len(feed.validation_generated),
        broken=0,
        command="radet train ...",
        controls=control(trained, feed),
    )
    detector = finish(trained, provenance, tmp_path / "checkpoint")
    selftest(detector)
    again = Detector.from_pretrained(tmp_path / "checkpoint")
    assert again.model_id == detector.model_id
    paths = sorted(str(path) for path in trees[1].rglob("*.png"))
    scores = again.score(paths)
    generated = np.array(["1_fake" in path for path in paths])
    p = np.array([score.p_generated for score in scores])
    assert ((p >= 0) & (p <= 1)).all()
    for threshold in again.config.thresholds:
        assert (p[~generated] > threshold.value).mean() <= threshold.target_fpr
        assert threshold.interval[0] <= threshold.achieved_fpr <= threshold.interval[1]
    assert {score.verdict for score in scores} <= {"real", "uncertain", "generated"}
    assert sum(score.verdict == "generated" for score in scores) > len(scores) / 4
    for name in ("semantic", "discrepancy", "lowlevel"):
        assert all(getattr(score, f"logit_{name}") is not None for score in scores)
    card = (tmp_path / "checkpoint" / "README.md").read_text(encoding="utf-8")
    assert "AUROC" in card
    assert "Is it the probe?" in card
    assert "Limits" in card


def test_controls_do_without_a_picture_that_is_gone_by_then(
    trained: Run, recipe: Recipe, trees: tuple[Path, Path], tmp_path: Path
) -> None:
    validation = Path(shutil.copytree(trees[1], tmp_path / "val"))
    feed = feed_of(recipe, trees[0], validation)
    next(validation.rglob("*.png")).unlink()
    assert 0.5 < control(trained, feed)["learned"].fused <= 1
