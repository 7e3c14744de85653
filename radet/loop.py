"""A training run: epochs of steps, validation after each, the best kept. Plain torch; who feeds it and where it stores
its state is the caller's (pipelines.train on Ray, benchmarks and one GPU without).

N pictures, B batch
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from radet.attribution import Attribution, Sample, fit_attribution
from radet.branches import SemanticBranch
from radet.calibration import fit_fusion, require_enough
from radet.clean_cache import CleanCache
from radet.compiled import compiled
from radet.config import DetectorConfig
from radet.detector import Detector, to_pixels
from radet.encoders import Look
from radet.errors import ConfigError
from radet.fit import refit
from radet.images import Pixels
from radet.linear_probe import fit_linear_probe
from radet.metrics import auroc
from radet.order import Portion, epoch_order, portions, steps_in, view_of
from radet.ranking import Ranking
from radet.recipe import Recipe
from radet.tensors import Reduce
from radet.training import MicroBatch, StepReport, new_optimiser, train_step

Floats = NDArray[np.float64]

FUSED = "fused"
_TENSORS, _STATE = "state.safetensors", "state.json"
_VALIDATED_TOGETHER = 64


class Feed(Protocol):
    """Where pictures come from. Positions count the training listing."""

    generated: NDArray[np.bool_]  # [N], of the training listing
    sources: list[str]  # [N], what made each picture, or who took it
    validation_generated: NDArray[np.bool_]

    def batches(self, epoch: int, steps: Iterable[list[Portion]]) -> Iterator[list[MicroBatch]]:
        """The micro-batches of each step, augmented."""
        ...

    def reference(self) -> Iterator[Pixels]:
        """Crops of real training pictures, not augmented."""
        ...

    def validation(self, share: Sequence[int]) -> Iterator[Pixels | None]:
        """Crops of these validation pictures, in order, not augmented; None for what cannot be read."""
        ...


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train together. `reduce` adds a tensor up over all, in place."""

    rank: int = 0
    world: int = 1
    reduce: Reduce = field(default=lambda _: None)


@dataclass(slots=True)
class Progress:
    """How far a run has come. Travels as JSON."""

    epoch: int = 0  # next to run
    best_epoch: int = -1
    best_auroc: float = -math.inf
    linear_auroc: float | None = None  # of the linear probe alone, before the first step
    settled: bool = False  # the best detector measured again in the precision that it will score with
    history: list[dict[str, float]] = field(default_factory=list)  # one entry an epoch

    def ended(self, recipe: Recipe) -> bool:
        """All epochs done, or no better one for `patience` epochs."""
        return self.epoch >= recipe.epochs or (self.best_epoch >= 0 and self.epoch - self.best_epoch > recipe.patience)


class Best(NamedTuple):
    """The detector of the best epoch so far, and what it said of the validation pictures.

    Its fusion is fitted on those (radet.calibration.fit_fusion); the detector that goes on training keeps its own.
    """

    config: DetectorConfig
    tensors: dict[str, Tensor]
    logits: Floats

    @classmethod
    def of(cls, detector: Detector, found: dict[str, Floats], generated: NDArray[np.bool_]) -> "Best":
        """`found` as Run.validate gives it."""
        tensors = {name: value.detach().cpu().clone() for name, value in detector.own_tensors().items()}
        logit_NB = np.stack([logits for name, logits in found.items() if name != FUSED], axis=1)
        read = np.isfinite(logit_NB).all(1)
        weight, bias = fit_fusion(logit_NB[read], generated[read])
        tensors["heads.weight"].copy_(torch.from_numpy(np.log(np.expm1(weight))))  # softplus gives it back
        tensors["heads.bias"].fill_(bias)
        return cls(detector.config, tensors, logit_NB @ weight + bias)


class Watcher:
    """What a caller may want to know while a run goes on; every method may be overridden."""

    def looked(self, batch: int, batches: int) -> None:
        """Before the first step, for each global batch that the linear probe is fitted on."""

    def stepped(self, epoch: int, step: int, steps: int, report: StepReport) -> None:
        """After each step."""

    def validated(self, progress: Progress, logits: Floats) -> None:
        """After each epoch, with the validation pictures' logits; the run's state may be saved here."""

    def settling(self) -> None:
        """Before the best epoch is measured again in the checkpoint's precision, which takes as long as validating."""

    def settled(self, progress: Progress) -> None:
        """After the best epoch was measured again in the checkpoint's precision; as `validated`."""


class Run:
    """One training run of `detector`; `save` and `load` make it resumable at the end of any epoch.

    Without a feed it can be loaded and looked at, not trained.
    """

    def __init__(
        self,
        detector: Detector,
        recipe: Recipe,
        feed: Feed | None = None,
        ranks: Ranks = Ranks(),
        cache: CleanCache | None = None,
    ) -> None:
        self.detector = detector
        self.recipe = recipe
        self._feed = feed
        self._cache = cache
        self.ranks = ranks
        self.optimiser = new_optimiser(detector, recipe)
        self.progress = Progress()
        self.best: Best | None = None

    @property
    def feed(self) -> Feed:
        """Where its pictures come from."""
        assert self._feed is not None
        return self._feed

    def go(self, watcher: Watcher) -> Progress:
        """Train to the end."""
        encoder, recipe = self.detector.encoder, self.recipe
        encoder.precision = recipe.train_precision
        compiles = recipe.train_compiled and not self.progress.ended(recipe)
        with compiled(encoder, recipe.crop.size) if compiles else nullcontext():
            while not self.progress.ended(recipe):
                self._epoch(watcher)
        encoder.precision = recipe.precision
        if self._trained_otherwise and not self.progress.settled:
            self._settle(watcher)
        return self.progress

    @property
    def _trained_otherwise(self) -> bool:
        """Whether the encoder computed otherwise than the checkpoint will."""
        return self.recipe.train_compiled or self.recipe.precision != self.recipe.train_precision

    def _settle(self, watcher: Watcher) -> None:
        """What was measured in the training's precision, measured in the checkpoint's. The detector that trains stays
        as it is: a run may go on for more epochs."""
        detector, best = self.detector, self.best
        assert best is not None
        watcher.settling()
        config, tensors = detector.config, {name: value.clone() for name, value in detector.own_tensors().items()}
        detector.restore(best.config, best.tensors, "the best epoch")
        self._refit()
        self.best = Best.of(detector, self.validate(), self.feed.validation_generated)
        detector.restore(config, tensors, "the last epoch")
        self.progress.settled = True
        watcher.settled(self.progress)

    def begin(self, watcher: Watcher) -> None:
        """Before the first step: statistics of real pictures, and the linear probe of the semantic branch."""
        self._refit()
        heads = self.detector.heads
        if heads is None or "semantic" not in heads.branches:
            return
        semantic = cast(SemanticBranch, heads.branches["semantic"])
        linear, device = self.recipe.linear, self.detector.device
        features, labels = [torch.empty(0, sum(self.detector.look_widths))], [torch.empty(0)]
        pictures = [np.empty(0, np.int64)]
        epoch, looks = 0, math.ceil(linear.pictures / self.recipe.global_batch)
        left = looks
        while left > 0:
            plan = self._plan(epoch)[:left]
            for look, batches in enumerate(self.feed.batches(epoch, plan)):
                watcher.looked(looks - left + look, looks)
                for batch in batches:
                    if len(batch.label):
                        features.append(semantic.standard(self._clean(batch, epoch).features).cpu())
                        labels.append(batch.label)
                        pictures.append(batch.pictures)
            epoch, left = epoch + 1, left - len(plan)
        self._require_both(labels, "the linear probe")
        x_ND, label_N = torch.cat(features).to(device), torch.cat(labels).to(device)
        fit_linear_probe(semantic.linear, x_ND, label_N, penalty=linear.penalty, reduce=self.ranks.reduce)
        if heads.attribution is not None:
            made_N = label_N > 0
            self._attribute(heads.attribution, x_ND[made_N], np.concatenate(pictures)[made_N.cpu().numpy()])

    def _attribute(self, head: Attribution, x_ND: Tensor, pictures_N: NDArray[np.int64]) -> None:
        """Fit the attribution to these generated pictures; both heads standardise alike."""
        config, sources = self.detector.config, self.feed.sources
        assert config.heads is not None
        assert config.heads.attribution is not None
        families = config.heads.attribution.families
        index = [families.index(sources[picture]) for picture in pictures_N]
        found = fit_attribution(
            head,
            families,
            Sample(x_ND, pictures_N, torch.tensor(index, dtype=torch.int64, device=x_ND.device)),
            listed=len(sources),
            penalty=self.recipe.linear.penalty,
            reduce=self.ranks.reduce,
        )
        self.detector.config = replace(config, heads=replace(config.heads, attribution=found))

    def _plan(self, epoch: int) -> list[list[Portion]]:
        """This rank's portions of each step."""
        recipe = self.recipe
        order = epoch_order(self.feed.generated, self.feed.sources, epoch=epoch, seed=recipe.seed)
        return [
            [
                portion
                for portion in portions(order, step, recipe.global_batch, recipe.micro_batch)
                if portion.number % self.ranks.world == self.ranks.rank
            ]
            for step in range(steps_in(len(order), recipe.global_batch))
        ]

    def _epoch(self, watcher: Watcher) -> None:
        epoch = self.progress.epoch
        if epoch == 0:
            self.begin(watcher)
            self.progress.linear_auroc = self._aurocs(self.validate()).get("semantic")
        reports = self._train(epoch, watcher)
        self._refit()  # so that what is validated, and shipped, measures drift by the probe as it is now
        best = self._judge(epoch, reports)
        self.progress.epoch = epoch + 1
        watcher.validated(self.progress, best.logits)

    def _train(self, epoch: int, watcher: Watcher) -> list[StepReport]:
        """The steps of an epoch."""
        recipe, plan = self.recipe, self._plan(epoch)
        reports, labels = [], [torch.empty(0)]
        for step, batches in enumerate(self.feed.batches(epoch, plan)):
            report = train_step(
                self.detector,
                self.optimiser,
                [self._with_clean(batch, epoch) for batch in batches],
                recipe,
                step=epoch * len(plan) + step,
                steps=recipe.epochs * len(plan),
                reduce=self.ranks.reduce,
            )
            reports.append(report)
            labels += [batch.label for batch in batches]
            watcher.stepped(epoch, step, len(plan), report)
        self._require_both(labels, f"epoch {epoch}")
        return reports

    def _judge(self, epoch: int, reports: list[StepReport]) -> Best:
        """Validate the detector as it is after an epoch, and keep it where it is the best one so far."""
        found, generated = self.validate(), self.feed.validation_generated
        best = Best.of(self.detector, found, generated)
        read = np.isfinite(best.logits)
        ranked = Ranking(best.logits[read], generated[read]).figures()
        score = float(ranked["auroc"][0])
        means = {name: float(np.mean([r.to_dict()[name] for r in reports])) for name in reports[0].to_dict()}
        entry = {"epoch": epoch, **means, "val_auroc": score, "val_ap": float(ranked["ap"][0])}
        entry |= {f"val_auroc_{name}": area for name, area in self._aurocs(found).items()}
        self.progress.history.append(entry)
        if score > self.progress.best_auroc:
            self.progress.best_auroc, self.progress.best_epoch = score, epoch
            self.best, self.progress.settled = best, False
        return best

    def _require_both(self, labels: list[Tensor], who: str) -> None:
        """Raises ConfigError, on every rank, where none of them could read a picture of one class."""
        label_N = torch.cat(labels)
        met = torch.stack([(label_N == 0).sum(), (label_N > 0).sum()]).double().to(self.detector.device)
        self.ranks.reduce(met)
        for kind, count in zip(("real", "generated"), met.tolist(), strict=True):
            if not count:
                raise ConfigError(f"{who} met no {kind} training picture that can be read")

    def _refit(self) -> None:
        refit(self.detector, self.feed.reference(), source=f"{self.recipe.reference_images} real training pictures")

    def _with_clean(self, batch: MicroBatch, epoch: int) -> MicroBatch:
        """The micro-batch with its clean pass, where passes are kept."""
        if self._cache is None or not len(batch.label):
            return batch
        return batch._replace(clean=self._clean(batch, epoch))

    @torch.no_grad()
    def _clean(self, batch: MicroBatch, epoch: int) -> Look:
        """The clean pass, from the cache where it is known there."""
        view = view_of(epoch, self.recipe.views)
        known = self._cache and self._cache.get(batch.pictures, view, self.detector.device)
        if known:
            return known
        x_BCHW = to_pixels(batch.crops.to(self.detector.device))
        clean = self.detector.encoder.look(x_BCHW, self.detector.layers)
        if self._cache is not None:
            self._cache.put(batch.pictures, view, clean)
        return clean

    def validate(self) -> dict[str, Floats]:
        """The logits of all validation pictures, FUSED and by branch; nan for what cannot be read. Each picture is
        computed by one rank.

        Raises ConfigError, on every rank, where too few of a class can be scored to judge and calibrate by."""
        self.detector.eval()
        assert self.detector.heads is not None
        names = (FUSED, *self.detector.heads.branches)
        count = len(self.feed.validation_generated)
        share = range(self.ranks.rank, count, self.ranks.world)
        logits = torch.zeros(count, len(names), dtype=torch.float64)
        crops = self.feed.validation(share)
        for start in range(0, len(share), _VALIDATED_TOGETHER):
            part = {position: next(crops) for position in share[start : start + _VALIDATED_TOGETHER]}
            there = {position: crop for position, crop in part.items() if crop is not None}
            logits[list(part)] = math.nan
            if there:
                evidence = self.detector.evidence(np.stack(list(there.values())))
                found = [evidence.logit, *(getattr(evidence, f"logit_{name}") for name in names[1:])]
                logits[list(there)] = torch.from_numpy(np.stack(found, axis=1)).double()
        logits = logits.to(self.detector.device)
        self.ranks.reduce(logits)
        gathered = logits.cpu().numpy()
        read = self.feed.validation_generated[np.isfinite(gathered[:, 0])]
        made = int(read.sum())
        require_enough("the validation set", len(read) - made, made, " that can be scored")
        return {name: gathered[:, index] for index, name in enumerate(names)}

    def _aurocs(self, found: dict[str, Floats]) -> dict[str, float]:
        label = self.feed.validation_generated
        read = np.isfinite(found[FUSED])
        return {name: auroc(logits[read], label[read]) for name, logits in found.items()}

    def save(self, folder: Path) -> None:
        """Write the state: tensors as safetensors, the rest as JSON. The encoder is not part of it."""
        assert self.best is not None
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"detector.{name}": value for name, value in self.detector.own_tensors().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.tensors.items()}
        tensors["logits"] = torch.from_numpy(self.best.logits)
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in state.items()}
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        save_file(tensors, folder / _TENSORS)
        document = {
            "progress": asdict(self.progress),
            "config": asdict(self.detector.config),
            "best": asdict(self.best.config),
        }
        (folder / _STATE).write_text(json.dumps(document), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote."""
        document: dict[str, Any] = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        self.progress = Progress(**document["progress"])
        groups: dict[str, dict[str, Tensor]] = {}
        for name, value in load_file(folder / _TENSORS).items():
            group, _, rest = name.partition(".")
            groups.setdefault(group, {})[rest] = value
        self.detector.restore(DetectorConfig.parse(document["config"], str(folder)), groups["detector"], folder)
        best = DetectorConfig.parse(document["best"], str(folder))
        self.best = Best(best, groups["best"], groups["logits"][""].numpy())
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in groups["optimiser"].items():
            index, _, key = name.partition(".")
            states.setdefault(int(index), {})[key] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": states})
