"""The step: what it may change, that nothing but the global batch decides it, and that it learns."""

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from PIL import Image

from radet.config import LEAST_REFERENCE
from radet.detector import Detector, to_pixels
from radet.errors import ConfigError
from radet.fit import refit
from radet.probes import LearnedProbe
from radet.recipe import MarginConfig, OptimiserConfig, Recipe
from radet.training import (
    MicroBatch,
    StepReport,
    _prepared,
    new_detector,
    new_optimiser,
    rate_at,
    train_step,
    trainable,
)

from .training import SIZE, random_batches, tiny_recipe, write_encoder

STEPS = 20


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


def ready(recipe: Recipe) -> Detector:
    detector = new_detector(recipe)
    crops = np.random.default_rng(1).integers(0, 256, (12, SIZE, SIZE, 3), np.uint8)
    refit(detector, crops, source="noise")
    return detector


def steps(recipe: Recipe, micro: int, count: int = STEPS, **options: object) -> tuple[list[StepReport], Detector]:
    """`count` steps over the same global batches, cut into micro-batches of `micro`."""
    detector = ready(recipe)
    optimiser = new_optimiser(detector, recipe)
    reports = []
    for step in range(count):
        batches = random_batches(16 // micro, micro, seed=step)
        reports.append(train_step(detector, optimiser, batches, recipe, step=step, steps=count, **options))  # type: ignore[arg-type]
    return reports, detector


def test_the_probe_stays_within_eps_in_pixels(encoder: Path) -> None:
    detector = ready(tiny_recipe(encoder))
    assert isinstance(detector.probe, LearnedProbe)
    x = torch.rand(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    z = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (view,) = detector.probe.views(x, z)
        assert 0 < (view - x).abs().max() <= 16 / 255 + 1e-6
        assert view.min() >= 0
        assert view.max() <= 1
        eps = torch.tensor([1, 2, 4, 8, 16, 32]).view(6, 1, 1, 1) / 255
        (view,) = detector.probe.views(x, z, eps)
    largest = (view - x).abs().amax((1, 2, 3))
    assert (largest <= eps.view(-1) + 1e-6).all()
    assert (largest.diff() > 0).all(), "eps acts"


def test_the_encoder_stays_as_it_was(encoder: Path) -> None:
    before = ready(tiny_recipe(encoder)).encoder.state_dict()
    _, detector = steps(tiny_recipe(encoder), 8, count=2)
    detector.train()
    assert not any(module.training for module in detector.encoder.modules())
    assert all(parameter.grad is None for parameter in detector.encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in detector.encoder.state_dict().items())
    assert detector.probe.training
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in trainable(detector))


def test_one_seed_gives_one_run(encoder: Path) -> None:
    first, a = steps(tiny_recipe(encoder), 8, count=4)
    second, b = steps(tiny_recipe(encoder), 8, count=4)
    assert first == second
    assert all(torch.equal(value, b.own_tensors()[name]) for name, value in a.own_tensors().items())
    other, _ = steps(tiny_recipe(encoder, seed=1), 8, count=4)
    assert other != first


@pytest.mark.parametrize("normalised", [True, False])
def test_micro_batches_change_nothing_but_rounding(encoder: Path, normalised: bool) -> None:
    """The margin is one of the GLOBAL batch. Without dropout, whose masks belong to micro-batches."""
    recipe = tiny_recipe(encoder, dropout=0.0, margin=MarginConfig(normalised=normalised))
    whole, _ = steps(recipe, 16)
    for micro in (8, 4):
        cut, _ = steps(recipe, micro)
        # A drift of some thousandths is where rounding, through Adam, shows first: ten steps of it are enough.
        for name, count in (("loss", 20), ("margin", 20), ("drift_real", 10), ("drift_generated", 10)):
            np.testing.assert_allclose(
                [getattr(report, name) for report in cut[:count]],
                [getattr(report, name) for report in whole[:count]],
                rtol=2e-3,
            )
    assert any(report.margin > 0 for report in whole)


@pytest.mark.parametrize("micro", [8, 16])
@pytest.mark.parametrize("normalised", [True, False])
def test_the_margin_is_that_of_the_drifts_of_the_step(encoder: Path, normalised: bool, micro: int) -> None:
    """With the eps that each picture has drawn, in the pass before as in the one for the gradients."""
    margin = MarginConfig(weight=0.5, gamma=2.0, normalised=normalised)
    (report,), _ = steps(tiny_recipe(encoder, eps_range=(4 / 255, 8 / 255), margin=margin), micro, count=1)
    real, made = report.drift_real, report.drift_generated
    assert report.margin == pytest.approx(3 - made / real if normalised else 2 - (made - real), rel=1e-5)
    assert report.loss == pytest.approx(report.classification + 0.5 * report.margin)


def test_the_margin_pulls_at_the_probe_by_its_weight(encoder: Path) -> None:
    """It alone does so at first: untrained branches read out nothing."""
    slopes = []
    for weight in (1.0, 3.0):
        recipe = tiny_recipe(encoder, margin=MarginConfig(weight=weight), optimiser=OptimiserConfig(clip=1e9))
        detector = ready(recipe)
        train_step(detector, new_optimiser(detector, recipe), random_batches(2, 8), recipe, step=0, steps=9)
        slopes.append(torch.cat([parameter.grad.flatten() for parameter in detector.probe.parameters()]).norm().item())
    assert slopes[1] == pytest.approx(3 * slopes[0], rel=1e-3)
    assert slopes[0] > 0


def test_the_rate_is_set_matrices_alone_decay_and_gradients_are_clipped(encoder: Path) -> None:
    recipe = tiny_recipe(encoder, optimiser=OptimiserConfig(rate=1e-3, clip=1e-3, weight_decay=0.02))
    detector = ready(recipe)
    optimiser = new_optimiser(detector, recipe)
    report = train_step(detector, optimiser, random_batches(1, 8), recipe, step=30, steps=40)
    matrices, others = optimiser.param_groups
    assert report.rate == matrices["lr"] == others["lr"] == rate_at(30, 40, recipe)
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.02, 0)
    assert all(parameter.ndim > 1 for parameter in matrices["params"])
    assert all(parameter.ndim <= 1 for parameter in others["params"])
    parameters = trainable(detector)
    assert len(matrices["params"]) + len(others["params"]) == len(parameters)
    norm = torch.stack([parameter.grad.norm() for parameter in parameters if parameter.grad is not None]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)
    assert report.gradient_norm > 1e-3


def test_what_is_random_belongs_to_seed_step_and_micro_batch(encoder: Path) -> None:
    recipe = tiny_recipe(encoder, eps_range=(4 / 255, 8 / 255))
    detector, (batch,) = ready(recipe), random_batches(1, 8)
    drawn = []
    for seed, step, number in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)):
        eps = _prepared(detector, batch._replace(number=number), replace(recipe, seed=seed), step)[2]
        assert isinstance(eps, torch.Tensor)
        assert eps.shape == (8, 1, 1, 1)
        assert 4 / 255 <= eps.min() < eps.max() <= 8 / 255
        drawn.append(tuple(eps.flatten().tolist()))
    assert drawn[-1] == drawn[0]
    assert len(set(drawn)) == 4


def test_a_micro_batch_of_which_nothing_could_be_read_changes_nothing(encoder: Path) -> None:
    recipe, reports = tiny_recipe(encoder), []
    empty = MicroBatch(1, torch.empty((0, 1, 1, 3), dtype=torch.uint8), torch.empty(0), np.empty(0, np.int64))
    for batches in (random_batches(1, 8), [*random_batches(1, 8), empty]):
        detector = ready(recipe)
        reports.append(train_step(detector, new_optimiser(detector, recipe), batches, recipe, step=0, steps=9))
    assert reports[0] == reports[1]


def _rank(rank: int, encoder: str, port: int, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    recipe = tiny_recipe(Path(encoder))
    detector = ready(recipe)
    optimiser = new_optimiser(detector, recipe)
    losses = []
    for step in range(STEPS):
        mine = [batch for batch in random_batches(2, 8, seed=step) if batch.number % 2 == rank]
        report = train_step(
            detector, optimiser, mine, recipe, step=step, steps=STEPS, reduce=torch.distributed.all_reduce
        )
        losses.append(report.loss)
    if rank == 0:
        np.save(out, losses)
    torch.distributed.destroy_process_group()


def test_two_ranks_are_one(encoder: Path, tmp_path: Path) -> None:
    """Two processes with gloo, one micro-batch each, against one process with both: dropout and all."""
    alone, _ = steps(tiny_recipe(encoder), 8)
    out = tmp_path / "losses.npy"
    port = 29_000 + os.getpid() % 1000
    torch.multiprocessing.spawn(_rank, args=(str(encoder), port, str(out)), nprocs=2)
    np.testing.assert_allclose(np.load(out), [report.loss for report in alone], rtol=1e-4)


def test_a_rank_without_pictures_still_takes_part(encoder: Path) -> None:
    recipe = tiny_recipe(encoder)
    detector = ready(recipe)
    sums = iter([torch.tensor([0.1, 4, 0.1, 4, 8], dtype=torch.float64)])  # the other rank's pictures; then nothing

    def reduce(tensor: torch.Tensor) -> None:
        tensor += next(sums, 0)

    report = train_step(detector, new_optimiser(detector, recipe), [], recipe, step=0, steps=1, reduce=reduce)
    assert report.margin == pytest.approx(1.0), "of the other rank's drifts"
    assert math.isfinite(report.loss)


@pytest.mark.parametrize("micro", [8, 16])
def test_eps_is_drawn_where_a_range_is_given(encoder: Path, micro: int) -> None:
    fixed, _ = steps(tiny_recipe(encoder, dropout=0.0), micro, count=1)
    drawn, _ = steps(tiny_recipe(encoder, dropout=0.0, eps_range=(4 / 255, 8 / 255)), micro, count=1)
    assert drawn[0].drift_real < 0.5 * fixed[0].drift_real


def test_the_rate_warms_up_and_decays(encoder: Path) -> None:
    recipe = tiny_recipe(encoder)
    rates = [rate_at(step, 100, recipe) for step in range(100)]
    assert rates[0] == pytest.approx(recipe.optimiser.rate / 5)
    assert max(rates) == pytest.approx(recipe.optimiser.rate)
    assert rates.index(max(rates)) in (4, 5)
    assert rates[-1] < 0.01 * recipe.optimiser.rate


def test_a_layer_that_is_not_there_is_named(encoder: Path) -> None:
    with pytest.raises(ConfigError, match="blocks 0 to 1, not 2"):
        new_detector(tiny_recipe(encoder, layers=(0, 2)))


def test_the_fewest_real_pictures_give_statistics_that_are_numbers(encoder: Path) -> None:
    detector = new_detector(tiny_recipe(encoder))
    crops = np.random.default_rng(1).integers(0, 256, (LEAST_REFERENCE, SIZE, SIZE, 3), np.uint8)
    refit(detector, crops, source="noise")
    assert all(tensor.isfinite().all() for tensor in detector.own_tensors().values())
    m2 = detector.evidence(crops).drift_mahalanobis
    assert m2 is not None
    assert ((m2 > 0) & (m2 < 100)).all()
    with pytest.raises(ConfigError, match="6 real pictures at least"):
        refit(detector, crops[1:], source="noise")


def test_without_probe_the_semantic_branch_trains_alone(encoder: Path) -> None:
    recipe = tiny_recipe(encoder, branches=("semantic",))
    recipe = replace(recipe, probe=replace(recipe.probe, kind="none"))
    reports, detector = steps(recipe, 8, count=2)
    assert math.isnan(reports[0].drift_real)
    assert reports[0].margin == 0
    crops = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    assert detector.evidence(crops).drift_cosine is None
    assert detector.eval()(to_pixels(torch.from_numpy(crops))).drift is None


def test_alone_is_batched_for_the_whole_detector(photographs: list[Image.Image], encoder: Path) -> None:
    detector = ready(tiny_recipe(encoder))
    crops = np.stack([np.asarray(picture.resize((SIZE, SIZE))) for picture in photographs])
    together = detector.evidence(crops)
    for index in range(len(crops)):
        alone = detector.evidence(crops[index : index + 1])
        assert alone.logit is not None
        assert together.logit is not None
        assert alone.logit[0] == together.logit[index]
