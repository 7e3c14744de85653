"""The training loop on Ray against a plain PyTorch loop of the same step, with and without kept clean embeddings.

python -m benchmarks.training TREE [--config jobs/train-lite.yaml] [--count 512] [--rounds 3] [--save training]

    plain   radet.loop.Run and radet.feed.LocalFeed: one process, as many torch threads as cores, two that read
    ray     pipelines.train with one worker, and with two of half the threads; pictures come by Ray's tasks

Images a second from the first step's end to the last one's, so neither start-up nor validation counts. They run by
turns, in several rounds, of which the median counts: a shared machine is slower in one minute than in the next. With
kept embeddings the linear probe's pass over the pictures, before the first step, has filled the cache.
"""

import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.command import new_parser, run_main
from benchmarks.machine import save
from benchmarks.pictures import evenly
from pipelines.cluster import connected
from pipelines.process import cores, tune
from pipelines.train import TrainJob, TrainWatcher, train
from pipelines.weights import find_encoders
from radet.clean_cache import CleanCache
from radet.feed import LabelledFile, LocalFeed, list_tree
from radet.loop import Run, Watcher
from radet.recipe import Recipe
from radet.training import StepReport, new_detector

CORES = cores()


class Clock(Watcher):
    """When each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def stepped(self, epoch: int, step: int, steps: int, report: StepReport) -> None:  # noqa: ARG002
        self.times.append(time.perf_counter())


class RayClock(TrainWatcher):
    """The same, told by Ray's first worker: with the board's delay, which is a fraction of a second at both ends."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def stepped(self, epoch: int, step: int, steps: int, report: dict[str, float]) -> None:  # noqa: ARG002
        self.times.append(time.perf_counter())


def rate(times: list[float], recipe: Recipe) -> float:
    return recipe.global_batch * (len(times) - 1) / (times[-1] - times[0])


def plain(recipe: Recipe, training: list[LabelledFile], validation: list[LabelledFile]) -> float:
    tune(threads=CORES)
    detector, clock = new_detector(recipe), Clock()
    with tempfile.TemporaryDirectory() as folder:
        cache = None
        if recipe.cache_clean:
            cache = CleanCache(Path(folder), pictures=len(training), views=recipe.views, widths=detector.look_widths)
        Run(detector, recipe, LocalFeed(training, validation, recipe), cache=cache).go(clock)
    return rate(clock.times, recipe)


def on_ray(recipe: Recipe, data: Path, val: Path, workers: int) -> float:
    clock = RayClock()
    with tempfile.TemporaryDirectory() as out, connected(None):
        train(TrainJob(recipe=recipe, data=str(data), val=str(val), out=out, workers=workers), clock)
    return rate(clock.times, recipe)


def linked(files: list[LabelledFile], root: Path, folder: Path) -> list[LabelledFile]:
    """The same tree with only these files."""
    for file in files:
        target = folder / file.path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(file.path.absolute())
    return list_tree(folder)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("tree", type=Path, metavar="TREE", help="of GENERATOR/0_real and GENERATOR/1_fake")
    parser.add_argument("--config", type=Path, default=Path("jobs/train-lite.yaml"), help="the recipe")
    parser.add_argument("--count", type=int, default=512, help="pictures to train on")
    parser.add_argument("--rounds", type=int, default=3, help="each contender once a round")
    asked = parser.parse_args()
    find_encoders()
    recipe = Recipe.read(asked.config)
    recipe = replace(recipe, epochs=1, views=1)
    files = evenly(list_tree(asked.tree), asked.count)
    if len(files) < 3 * recipe.global_batch:
        parser.error(f"{len(files)} pictures are fewer than three steps of {recipe.global_batch}: give more")
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        data, val = Path(name, "train"), Path(name, "val")
        training, validation = linked(files, asked.tree, data), linked(evenly(files, 64), asked.tree, val)
        for kept in (False, True):
            looked_at = asked.count if kept else recipe.global_batch
            one = replace(recipe, cache_clean=kept, linear=replace(recipe.linear, pictures=looked_at))
            rounds: list[dict[str, float]] = []
            for _ in range(asked.rounds):
                rounds.append({"plain": plain(one, training, validation)})
                rounds[-1] |= {str(workers): on_ray(one, data, val, workers) for workers in (1, 2)}
                print(json.dumps(rounds[-1]), flush=True)
            middle = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
            alone = middle.pop("plain")
            found.append(
                {
                    "recipe": recipe.name,
                    "pictures": len(training),
                    "kept_embeddings": kept,
                    "rounds": rounds,
                    "plain_images_per_s": alone,
                    "ray_images_per_s": middle,
                    "ray_over_plain": {workers: value / alone for workers, value in middle.items()},
                }
            )
            print(json.dumps(found[-1]), flush=True)
    if asked.save:
        save(asked.save, found)


if __name__ == "__main__":
    run_main(main)
