"""What each part of RA-Det adds, on generators that training has not seen: variants of one recipe, several seeds.

python -m benchmarks.variants TRAIN VAL --config jobs/train-lite.yaml --save variants_lite [--only full ...] [--seeds 3]

    linear      the frozen-encoder linear probe on the embedding (the baseline to beat)
    layers      the same on the embedding and the tokens of all the recipe's layers: where the others start
    semantic    the semantic branch alone: that, and its MLP
    lowlevel    the low-level branch alone
    gaussian    all branches, seeded noise instead of the learned probe (RA-Det without DRP)
    no-margin   all branches and the learned probe, without the contrastive margin
    full        the recipe

Training-free RIGID and MINDER are rows too: their drift is the score. Every row is judged on the same validation
pictures: AUROC, AP, TPR at 1 and 5 % false positives; AUROC by generator (against all real pictures) and by pair group,
where both classes show the same kind of thing, if a manifest.csv beside VAL tells; each AUROC with a 95 % bootstrap
interval. The learned probe's controls follow `full`.
"""

import csv
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.command import new_parser, run_main
from benchmarks.machine import load, save
from pipelines.process import cores, tune
from radet.clean_cache import CleanCache
from radet.config import ProbeConfig
from radet.controls import run_controls
from radet.feed import LabelledFile, LocalFeed, list_tree
from radet.fit import fit_reference, read_crops
from radet.loop import FUSED, Floats, Progress, Run, Watcher
from radet.ranking import Ranking
from radet.recipe import MarginConfig, Recipe
from radet.training import StepReport, new_detector

TRAINING_FREE = {"rigid": ProbeConfig(kind="gaussian"), "minder": ProbeConfig(kind="minder")}
DRAWS = 500  # of the bootstrap
RANDOM = ("gaussian", "no-margin", "full")  # worth several seeds


def variants(recipe: Recipe) -> dict[str, Recipe]:
    """Recipes by name."""
    none = replace(recipe.probe, kind="none")
    noise = replace(recipe.probe, kind="gaussian", sigma=0.05)
    return {
        "linear": replace(recipe, probe=none, branches=("semantic",), layers=()),
        "layers": replace(recipe, probe=none, branches=("semantic",)),
        "semantic": replace(recipe, probe=none, branches=("semantic",)),
        "lowlevel": replace(recipe, probe=none, branches=("lowlevel",), layers=()),
        "gaussian": replace(recipe, probe=noise),
        "no-margin": replace(recipe, margin=MarginConfig(weight=0.0)),
        "full": recipe,
    }


def pair_groups(manifest: Path) -> dict[str, str]:
    """Pair group by file name; none where there is no manifest."""
    if not manifest.is_file():
        return {}
    with manifest.open(encoding="utf-8") as file:
        return {Path(row["path"]).name: row["pair_group"] for row in csv.DictReader(file)}


def judge(score: Floats, files: list[LabelledFile], groups: dict[str, str]) -> dict[str, Any]:
    """The figures of one row."""
    label = np.array([file.generated for file in files])
    group = np.array([groups.get(file.path.name, "") for file in files])
    source = np.array([file.source for file in files])
    by_pair = {name: _auroc(score[group == name], label[group == name]) for name in sorted(set(group.tolist()) - {""})}
    by_pair = {name: found for name, found in by_pair.items() if np.isfinite(found["auroc"])}
    by_generator = {}
    for name in sorted(set(source[label].tolist())):
        chosen = ~label | (source == name)
        by_generator[name] = _auroc(score[chosen], label[chosen])
    ranking = Ranking(score, label)
    return {
        **{name: float(value[0]) for name, value in ranking.figures().items()},
        "interval": ranking.intervals(draws=DRAWS)["auroc"],
        "pairs": float(np.mean([found["auroc"] for found in by_pair.values()])) if by_pair else None,
        "by_pair": by_pair,
        "by_generator": by_generator,
    }


def _auroc(score: Floats, label: NDArray[np.bool_]) -> dict[str, Any]:
    ranking = Ranking(score, label)
    return {"auroc": float(ranking.figures()["auroc"][0]), "interval": ranking.intervals(draws=DRAWS)["auroc"]}


class Printer(Watcher):
    """A line an epoch."""

    def __init__(self, name: str) -> None:
        self._name, self._begun = name, time.monotonic()

    def stepped(self, epoch: int, step: int, steps: int, report: StepReport) -> None:
        if step % 10 == 0:
            print(
                f"  {self._name} {epoch}:{step}/{steps} loss {report.loss:.3f} margin {report.margin:.3f}", flush=True
            )

    def validated(self, progress: Progress, logits: Floats) -> None:  # noqa: ARG002
        last = progress.history[-1]
        spent = time.monotonic() - self._begun
        print(f"{self._name} epoch {last['epoch']}: AUROC {last['val_auroc']:.3f} ({spent:.0f} s)", flush=True)


@dataclass(frozen=True, slots=True)
class Task:
    """A row to be: `seed` counts only where a variant has something random to it."""

    name: str
    seed: int
    recipe: Recipe
    train: Path
    val: Path
    threads: int


def row(task: Task) -> dict[str, Any]:
    """In a process of its own."""
    tune(threads=task.threads)
    training, validation = list_tree(task.train), list_tree(task.val)
    groups = pair_groups(task.val.parent / "manifest.csv")
    recipe = replace(task.recipe, seed=task.seed)
    more: dict[str, Any] = {}
    if task.name in TRAINING_FREE:
        score = training_free(recipe, TRAINING_FREE[task.name], training, validation)
    else:
        with tempfile.TemporaryDirectory() as folder:
            score, more = trained(task, variants(recipe)[task.name], training, validation, Path(folder))
    return {"variant": task.name, "seed": task.seed, **judge(score, validation, groups), **more}


def trained(
    task: Task, recipe: Recipe, training: list[LabelledFile], validation: list[LabelledFile], folder: Path
) -> tuple[Floats, dict[str, Any]]:
    """Logits of the best epoch, or of the linear probe where that is all there is; and what else is worth noting."""
    detector = new_detector(recipe)
    cache = None
    if recipe.cache_clean:
        cache = CleanCache(folder, pictures=len(training), views=recipe.views, widths=detector.look_widths)
    run = Run(detector, recipe, LocalFeed(training, validation, recipe), cache=cache)
    if task.name in ("linear", "layers"):
        run.begin(Watcher())
        return run.validate()[FUSED], {}
    run.go(Printer(f"{task.name}/{task.seed}"))
    assert run.best is not None
    more: dict[str, Any] = {"epochs": run.progress.epoch}
    if task.name == "full":
        detector.restore(run.best.config, run.best.tensors, "the best epoch")
        mixed = np.random.default_rng(0).permutation(len(validation))
        files = [validation[position] for position in mixed]
        found = run_controls(detector, _crops(files, recipe), np.array([file.generated for file in files]))
        more["controls"] = {
            key: {name: value if np.isfinite(value) else None for name, value in control._asdict().items()}
            for key, control in found.items()
        }
    return run.best.logits, more


def training_free(
    recipe: Recipe, probe: ProbeConfig, training: list[LabelledFile], validation: list[LabelledFile]
) -> Floats:
    """Cosine drift of each validation picture."""
    encoder = new_detector(recipe).config.encoder
    real = [file.path for file in training if not file.generated][: recipe.reference_images]
    crops = read_crops(real, recipe.crop)
    detector = fit_reference(
        encoder, probe, crops, name=probe.kind, description="", source="training pictures", crop=recipe.crop
    )
    logit = detector.evidence(np.stack(list(_crops(validation, recipe)))).logit
    assert logit is not None
    return logit.astype(np.float64)


def _crops(files: list[LabelledFile], recipe: Recipe) -> Iterator[NDArray[np.uint8]]:
    return read_crops((file.path for file in files), recipe.crop)


def main() -> None:
    parser = new_parser(__doc__, save=False)
    parser.add_argument("train", type=Path, metavar="TRAIN", help="a tree of GENERATOR/0_real and GENERATOR/1_fake")
    parser.add_argument("val", type=Path, metavar="VAL", help="another, of generators that TRAIN has not")
    parser.add_argument("--config", type=Path, required=True, help="the recipe")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="of those above, rigid and minder")
    parser.add_argument("--seeds", type=int, default=3, help="of the variants that are random: " + ", ".join(RANDOM))
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--jobs", type=int, default=cores(), help="rows at once, a process each")
    parser.add_argument("--threads", type=int, default=1, help="of torch, for each")
    parser.add_argument(
        "--save", required=True, help="benchmarks/results/NAME.json; rows that it has are not done again"
    )
    asked = parser.parse_args()
    recipe = Recipe.read(asked.config)
    recipe = replace(recipe, epochs=asked.epochs or recipe.epochs)
    results = load(asked.save)
    known = {(one["variant"], one["seed"]) for one in results}
    names = [*TRAINING_FREE, *variants(recipe)]
    if unknown := set(asked.only or ()) - set(names):
        parser.error(f"--only {' '.join(sorted(unknown))}: there are {', '.join(names)}")
    tasks = [
        Task(name, seed, recipe, asked.train, asked.val, asked.threads)
        for name in asked.only or names
        for seed in range(asked.seeds if name in RANDOM else 1)
        if (name, seed) not in known
    ]
    with ProcessPoolExecutor(asked.jobs, multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(row, task) for task in tasks]):
            results.append(done.result())
            print(json.dumps({key: value for key, value in results[-1].items() if key != "by_generator"}), flush=True)
            save(asked.save, results)


if __name__ == "__main__":
    run_main(main)
