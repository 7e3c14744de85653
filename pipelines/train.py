"""Training on Ray: Ray Train runs the workers, tasks read and augment for each of them.

The step, the loop and the state are radet's (radet.training, radet.loop). A run's state is one Ray Train checkpoint an
epoch; a run that lost a worker, a node or its driver goes on from the last one, on as many workers as there are.
"""

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.exceptions import RayError
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch import Tensor

from pipelines.cluster import connected, driver_node, purpose_of
from pipelines.feed import RayFeed
from pipelines.items import display
from pipelines.labelled import Labelled
from pipelines.lease import Lease, held
from pipelines.process import cores, keep_to_core, tune
from pipelines.s3 import greet
from pipelines.storage import require_writable
from pipelines.training_data import list_training
from pipelines.training_plan import TrainingPlan
from pipelines.training_state import (
    STATE,
    beginning_of,
    require_free,
    require_same,
    state_folder,
    storage,
    write_beginning,
)
from pipelines.weights import find_encoders
from radet.attribution import families_of
from radet.clean_cache import CleanCache
from radet.controls import Control
from radet.detector import Detector
from radet.errors import ConfigError, RadetError
from radet.finish import control
from radet.loop import Floats, Progress, Ranks, Run, Watcher
from radet.recipe import Recipe
from radet.training import StepReport, new_detector
from radet.typed import from_dict

_MAX_FAILURES = 5
_POLL_S = 0.5
_REFUSED = "refused"  # told with the error that ends the run
_BROKEN_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """What `radet train` was asked for. `workers`: a number, or (least, most) for an elastic run; None: as many as make
    the most of this machine's cores, and one on a cluster or with GPUs, where others may count on the rest."""

    recipe: Recipe
    data: str
    val: str
    out: str
    workers: int | tuple[int, int] | None = None
    gpus: bool = False
    resume: bool = False
    address: str | None = None


class TrainWatcher:
    """What a caller may want to see; every method may be overridden."""

    def opened(self, training: Labelled, validation: Labelled) -> None:
        """Before any work."""

    def began(self, epoch: int, workers: int) -> None:
        """As the workers start: with the run, and again when one was lost or where the run grows."""

    def looked(self, batch: int, batches: int) -> None:
        """For each batch that the linear probe is fitted on, before the first step."""

    def stepped(self, epoch: int, step: int, steps: int, report: dict[str, float]) -> None:
        """After each step."""

    def validated(self, epoch: dict[str, float]) -> None:
        """After each epoch."""

    def settling(self) -> None:
        """Before the best epoch is measured again in the checkpoint's precision."""

    def controlling(self) -> None:
        """Before the controls of a learned probe, the last of the long work."""


@ray.remote(num_cpus=0)
class _Board:
    """Where workers tell and the driver asks: what happened, and which pictures could not be read."""

    def __init__(self) -> None:
        self._events: list[tuple[str, tuple[Any, ...]]] = []
        self._broken: dict[str, str] = {}

    def tell(self, kind: str, *facts: Any) -> None:
        self._events.append((kind, facts))

    def broken(self, found: dict[str, str]) -> None:
        self._broken |= found

    def take(self) -> list[tuple[str, tuple[Any, ...]]]:
        taken, self._events = self._events, []
        return taken

    def all_broken(self) -> dict[str, str]:
        return self._broken


@dataclass(frozen=True, slots=True)
class Trained:
    """What a finished run left, for `radet.finish`."""

    run: Run
    training: Labelled
    validation: Labelled
    broken: dict[str, str]  # location -> what is wrong
    controls: dict[str, Control]  # of a learned probe


def train(job: TrainJob, watcher: TrainWatcher, publish: Callable[[Trained], None] = lambda _: None) -> None:
    """Train to the end, then `publish` what was trained. One run at a time writes to OUT.

    Raises ConfigError, or ModelError for an encoder that cannot be had, before any work; and ConfigError where too many
    pictures turn out to be unreadable, or where another run has taken over.
    """
    _check_workers(job)
    greet(job.data, job.val, job.out)
    training, validation = list_training(job.data, job.val)
    require_free(job.out, resume=job.resume)
    require_writable(job.out)
    with Lease(state_folder(job.out)) as lease:
        trained = _train(job, watcher, training, validation, lease)
        if not held(state_folder(job.out), lease.id):
            raise _taken_over(job)
        publish(trained)


def _train(job: TrainJob, watcher: TrainWatcher, training: Labelled, validation: Labelled, lease: Lease) -> Trained:
    find_encoders()
    families = families_of(training.generated, training.sources)
    run = Run(new_detector(job.recipe, families=families), job.recipe)
    beginning = beginning_of(job.recipe, run.detector, training, validation)
    require_same(job.out, beginning)
    with connected(job.address):
        job = replace(job, workers=_asked(job))
        plan = _plan(job)
        watcher.opened(training, validation)
        board = _Board.options(scheduling_strategy=driver_node()).remote()  # type: ignore[attr-defined]  # decorated
        settings = {
            "recipe": asdict(job.recipe),
            "training": ray.put(training),
            "validation": ray.put(validation),
            "board": board,
            "plan": plan,
        }
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config=settings,
            scaling_config=_scaling(job, plan),
            run_config=RunConfig(
                name=STATE,
                failure_config=FailureConfig(max_failures=_MAX_FAILURES),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
                **storage(job.out),
            ),
        )
        write_beginning(job.out, beginning)
        result = _fit(trainer, board, watcher, lambda: _require(lease, job))
        assert result.checkpoint is not None
        with result.checkpoint.as_directory() as state:
            run.load(Path(state))
        watcher.controlling()
        # No cores of its own: its pictures are read by tasks, which need them.
        where = ray.remote(_controls).options(num_cpus=0, num_gpus=int(job.gpus))
        try:
            controls = ray.get(where.remote(settings, result.checkpoint))
        except RayError as error:
            raise purpose_of(error) or error from None
        return Trained(run, training, validation, ray.get(board.all_broken.remote()), controls)


def _require(lease: Lease, job: TrainJob) -> None:
    if lease.taken:
        raise _taken_over(job)


def _taken_over(job: TrainJob) -> ConfigError:
    return ConfigError(f"another run has taken over {job.out}: this one stops")


def _fit(trainer: TorchTrainer, board: Any, watcher: TrainWatcher, check: Callable[[], None]) -> Any:
    """`trainer.fit()` beside a loop that passes on what the workers tell.

    Raises what `check` does, and what a worker refused: the others may wait for that one, and end with this process's
    connection to Ray.
    """
    ended: list[Any] = []

    def fit() -> None:
        try:
            ended.append(trainer.fit())
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread below
            ended.append(error)

    thread = Thread(target=fit, name="train", daemon=True)
    thread.start()
    going = True
    while going:
        thread.join(_POLL_S)
        going = thread.is_alive()  # asked before the board is: what is told at the very end is taken, too
        check()
        for kind, facts in ray.get(board.take.remote()):
            if kind == _REFUSED:
                raise _explained(facts[0], ray.get(board.all_broken.remote()))
            getattr(watcher, kind)(*facts)
    if isinstance(ended[0], BaseException):
        raise ended[0]
    return ended[0]


def _explained(error: RadetError, broken: dict[str, str]) -> RadetError:
    """With pictures that could not be read, which are why there are too few."""
    if not broken:
        return error
    named = [f"{display(location)}: {why}" for location, why in sorted(broken.items())[:_BROKEN_NAMED]]
    more = " ..." if len(broken) > _BROKEN_NAMED else ""
    return ConfigError(f"{error}; {len(broken):,} pictures could not be read: {'; '.join(named)}{more}")


def _asked(job: TrainJob) -> int | tuple[int, int]:
    if job.workers is not None:
        return job.workers
    if job.address is not None:
        return 1
    return workers_on(int(ray.cluster_resources().get("GPU" if job.gpus else "CPU", 1)), job.recipe)


def workers_on(places: int, recipe: Recipe) -> int:
    """A worker a GPU, or a core, which is faster than threads of one, that wait for each other after every operation;
    but no more than shorten a step, whose micro-batches go round."""
    batches = recipe.global_batch // recipe.micro_batch
    rounds = math.ceil(batches / max(1, places))
    return math.ceil(batches / rounds)


def _check_workers(job: TrainJob) -> None:
    """More workers than a step has micro-batches would hold cores or GPUs and train nothing."""
    most = 1 if job.workers is None else _span(job)[1]
    batches = job.recipe.global_batch // job.recipe.micro_batch
    if most > batches:
        raise ConfigError(
            f"--workers: {most} of them, but a step has work for {batches} (global_batch {job.recipe.global_batch} in "
            f"micro_batch {job.recipe.micro_batch}): change these in the recipe, or take --workers {batches}"
        )


def _span(job: TrainJob) -> tuple[int, int]:
    """The least and the most workers."""
    assert job.workers is not None
    return (job.workers, job.workers) if isinstance(job.workers, int) else job.workers


def _plan(job: TrainJob) -> TrainingPlan:
    least, most = _span(job)
    return TrainingPlan.of(
        ray.cluster_resources().get("CPU", 1.0),
        nodes=sum(1 for node in ray.nodes() if node["Alive"]),
        workers=most,
        gpus=job.gpus,
        alone=job.address is None and least == most,
    )


def _scaling(job: TrainJob, plan: TrainingPlan) -> ScalingConfig:
    """One GPU a worker; what the workers leave of the cores reads pictures."""
    least, most = _span(job)
    gpus = ray.cluster_resources().get("GPU", 0.0)
    if job.gpus and gpus < least:
        raise ConfigError(f"--gpus: the cluster has {gpus:g} GPUs, fewer than the workers asked for")
    return ScalingConfig(
        num_workers=least if least == most else (least, most),
        use_gpu=job.gpus,
        resources_per_worker={"CPU": plan.worker_cpus, **({"GPU": 1} if job.gpus else {})},
    )


def _train_worker(settings: dict[str, Any]) -> None:
    """What each Ray Train worker runs. What is refused on purpose would be refused again: it is told, not raised, which
    Ray Train would take for a lost worker and try anew."""
    try:
        _work(settings)
    except RadetError as error:
        ray.get(settings["board"].tell.remote(_REFUSED, error))


def _work(settings: dict[str, Any]) -> None:
    context = ray.train.get_context()
    plan: TrainingPlan = settings["plan"]
    if plan.bound:
        keep_to_core(context.get_local_rank())
    tune(threads=plan.threads)
    ranks = Ranks(context.get_world_rank(), context.get_world_size(), _all_reduce)
    detector, recipe, feed = _parts(settings, str(ray.train.torch.get_device()))
    with tempfile.TemporaryDirectory(prefix="radet-clean-") as folder:
        cache = None
        if recipe.cache_clean:
            cache = CleanCache(
                Path(folder), pictures=len(feed.sources), views=recipe.views, widths=detector.look_widths
            )
        _run(Run(detector, recipe, feed, ranks, cache), settings["board"])


def _controls(settings: dict[str, Any], state: Checkpoint) -> dict[str, Control]:
    """The controls of the best epoch, where the training was: on a GPU if it had one."""
    tune(threads=cores())
    detector, recipe, feed = _parts(settings, "cuda" if ray.get_gpu_ids() else "cpu")
    run = Run(detector, recipe)
    with state.as_directory() as folder:
        run.load(Path(folder))
    return control(run, feed)


def _parts(settings: dict[str, Any], device: str) -> tuple[Detector, Recipe, RayFeed]:
    """What a process of this training works with."""
    find_encoders()
    recipe, told = from_dict(Recipe, settings["recipe"]), settings["board"].broken.remote
    training, validation = ray.get([settings["training"], settings["validation"]])
    feed = RayFeed(training, validation, recipe, told=told, plan=settings["plan"])
    families = families_of(training.generated, training.sources)
    return new_detector(recipe, families=families, device=device), recipe, feed


def _run(run: Run, board: Any) -> None:
    before = ray.train.get_checkpoint()
    if before is not None:
        with before.as_directory() as folder:
            run.load(Path(folder))
    reporter = _Reporter(run, board)
    reporter.began()
    run.go(reporter)


class _Reporter(Watcher):
    """Tells the board, and saves the state after each epoch."""

    def __init__(self, run: Run, board: Any) -> None:
        self._run, self._board = run, board
        self._leads = run.ranks.rank == 0

    def began(self) -> None:
        if self._leads:
            self._board.tell.remote("began", self._run.progress.epoch, self._run.ranks.world)

    def looked(self, batch: int, batches: int) -> None:
        if self._leads:
            self._board.tell.remote("looked", batch, batches)

    def stepped(self, epoch: int, step: int, steps: int, report: StepReport) -> None:
        if self._leads:
            self._board.tell.remote("stepped", epoch, step, steps, report.to_dict())

    def validated(self, progress: Progress, logits: Floats) -> None:  # noqa: ARG002
        last = progress.history[-1]
        self._save(last)
        if self._leads:
            self._board.tell.remote("validated", last)

    def settling(self) -> None:
        if self._leads:
            self._board.tell.remote("settling")

    def settled(self, progress: Progress) -> None:
        self._save(progress.history[progress.best_epoch])

    def _save(self, metrics: dict[str, float]) -> None:
        if not self._leads:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            self._run.save(Path(folder))
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


def _all_reduce(tensor: Tensor) -> None:
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.all_reduce(tensor)
