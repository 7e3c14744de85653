"""What a training run shows, and what it leaves: the checkpoint, metrics.jsonl and TensorBoard's files."""

import json
import shlex
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
from rich.console import Console
from tensorboardX import SummaryWriter

from jobs.bar import Bar
from pipelines.items import display
from pipelines.labelled import Labelled
from pipelines.storage import open_folder
from pipelines.train import Trained, TrainJob, TrainWatcher
from radet.detector import Detector
from radet.finish import Provenance, finish

_BROKEN_SHOWN, _SHARED_NAMED = 20, 5


class TrainScreen(TrainWatcher):
    """A progress bar over steps with loss and drift, a line an epoch; TensorBoard's files are written beside."""

    def __init__(self, console: Console) -> None:
        self._say = partial(console.print, soft_wrap=True)  # a log's lines are as long as they are
        self._begun = False
        self._folder = tempfile.TemporaryDirectory()
        self._writer = SummaryWriter(self._folder.name)
        self._bar = Bar(console)

    @property
    def events(self) -> Path:
        """The folder of TensorBoard's files, complete up to now."""
        self._writer.flush()
        return Path(self._folder.name)

    def __enter__(self) -> "TrainScreen":
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)
        self._writer.close()
        self._folder.cleanup()

    def opened(self, training: Labelled, validation: Labelled) -> None:
        self._say(f"Training on {training.summary()}")
        self._say(f"Validating on {validation.summary()}")
        names = [
            {s for s, made in zip(one.sources, one.generated, strict=True) if made} for one in (training, validation)
        ]
        if shared := sorted(names[0] & names[1] - {""}):
            more = f" and {len(shared) - _SHARED_NAMED} more" if len(shared) > _SHARED_NAMED else ""
            self._say(
                f"Both have pictures of {', '.join(shared[:_SHARED_NAMED])}{more}: what is measured on --val, and its "
                f"thresholds, will be too good for other generators"
            )

    def began(self, epoch: int, workers: int) -> None:
        who = "1 worker" if workers == 1 else f"{workers} workers"
        if self._begun:
            self._say(f"Workers were lost or joined: going on from epoch {epoch} with {who}")
        elif epoch:
            self._say(f"Going on from epoch {epoch} with {who}")
        else:
            self._say(f"Begun with {who}")
        self._begun = True

    def looked(self, batch: int, batches: int) -> None:
        self._bar.show("epoch 0", batch + 1, batches, "fitting the linear probe")

    def stepped(self, epoch: int, step: int, steps: int, report: dict[str, float]) -> None:
        state = f"loss {report['loss']:.3f}"
        if np.isfinite(report["drift_real"]) and report["drift_real"] > 0:
            state += f" · drift generated/real {report['drift_generated'] / report['drift_real']:.2f}"
        self._bar.show(f"epoch {epoch}", step + 1, steps, state)
        for name, value in _finite(report).items():
            self._writer.add_scalar(f"step/{name}", value, epoch * steps + step)

    def validated(self, epoch: dict[str, float]) -> None:
        self._say(
            f"epoch {epoch['epoch']:.0f}: loss {epoch['loss']:.3f}, validation AUROC {epoch['val_auroc']:.3f}, "
            f"AP {epoch['val_ap']:.3f}"
        )
        for name, value in _finite(epoch).items():
            self._writer.add_scalar(f"epoch/{name}", value, int(epoch["epoch"]))

    def settling(self) -> None:
        self._phase("Measuring the best epoch again in the precision that the checkpoint scores with")

    def controlling(self) -> None:
        self._phase("Measuring the controls for the model card")

    def _phase(self, what: str) -> None:
        self._bar.wait(what)
        self._say(f"{what} ...")


def publish(job: TrainJob, trained: Trained, events: Path, console: Console) -> None:
    """Calibrate the best epoch and put everything into OUT, config.json last: a checkpoint is whole or absent."""
    run = trained.run
    provenance = Provenance(
        training=display(f"{job.data}: {trained.training.summary()}"),
        validation=display(f"{job.val}: {trained.validation.summary()}"),
        validation_generated=trained.validation.generated,
        validation_sources=trained.validation.sources,
        broken=len(trained.broken),
        command=display(shlex.join(["radet", *sys.argv[1:]])),
        controls=trained.controls,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        detector = finish(run, provenance, folder)
        lines = [json.dumps(_finite(epoch)) for epoch in run.progress.history]
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        target = open_folder(job.out)
        for file in sorted(events.iterdir()):
            target.write(f"tensorboard/{file.name}", file.read_bytes())
        for file in sorted(folder.rglob("*"), key=lambda path: path.name == "config.json"):
            if file.is_file():
                target.write(file.relative_to(folder).as_posix(), file.read_bytes())
    _show(console, job, trained, detector)


def _show(console: Console, job: TrainJob, trained: Trained, detector: Detector) -> None:
    say = partial(console.print, soft_wrap=True)
    if trained.broken:
        say(f"{len(trained.broken)} pictures could not be read and were skipped:")
        for location, error in sorted(trained.broken.items())[:_BROKEN_SHOWN]:
            say(f"  {location}: {error}")
        if len(trained.broken) > _BROKEN_SHOWN:
            say(f"  and {len(trained.broken) - _BROKEN_SHOWN} more")
    best = trained.run.progress
    start = "" if best.linear_auroc is None else f"; the linear probe it started from {best.linear_auroc:.3f}"
    say(f"Best epoch {best.best_epoch}: validation AUROC {best.best_auroc:.3f}{start}")
    for threshold in detector.config.thresholds:
        low, high = threshold.interval
        say(
            f"  at {threshold.target_fpr:.0%} false positives (95 % interval {low:.1%} to {high:.1%}): "
            f"finds {threshold.tpr:.0%}, threshold {threshold.value:.3f}"
        )
    command = f"radet score SRC --model {shlex.quote(job.out)} --out OUT"
    say(f"Checkpoint: {job.out} ({detector.model_id}); score with it: {command}")


def _finite(told: dict[str, float]) -> dict[str, float]:
    """Without what a recipe has not: the drift of one that has no probe."""
    return {name: value for name, value in told.items() if np.isfinite(value)}
