"""The end of a training run: its best epoch, calibrated on the validation pictures, as a checkpoint with its card.

N validation pictures
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from radet.calibration import fit_platt, fit_thresholds, fit_verdict, probability
from radet.card import write_card
from radet.controls import Control, run_controls
from radet.detector import Detector
from radet.loop import Feed, Run
from radet.probes import LearnedProbe
from radet.selftest import write_golden

_CONTROLLED = 400  # validation pictures under controls: AUROC to about 0.03, for five passes each


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What a model card says of the data, in words and numbers."""

    training: str  # which pictures, one line
    validation: str
    validation_generated: NDArray[np.bool_]  # [N]
    validation_sources: Sequence[str]  # [N]
    broken: int  # pictures that could not be read
    command: str  # that made the checkpoint
    controls: Mapping[str, Control] = field(default_factory=dict)  # of a learned probe


def control(run: Run, feed: Feed) -> dict[str, Control]:
    """The controls of the best epoch's learned probe, over some of the validation pictures; {} for another probe."""
    detector, best = run.detector, run.best
    assert best is not None
    if not isinstance(detector.probe, LearnedProbe):
        return {}
    detector.restore(best.config, best.tensors, "the best epoch")
    read = np.flatnonzero(np.isfinite(best.logits))
    chosen = np.random.default_rng(0).permutation(read)[:_CONTROLLED]
    crops = list(feed.validation(chosen.tolist()))  # of which one may be gone by now
    there = [crop is not None for crop in crops]
    return run_controls(
        detector, [crop for crop in crops if crop is not None], feed.validation_generated[chosen][there]
    )


def finish(run: Run, provenance: Provenance, folder: Path) -> Detector:
    """Write the checkpoint of the best epoch to `folder` and return it, loaded from there.

    Calibration, thresholds and the abstain band are fitted on the validation pictures, which also chose the epoch: the
    card says so, since both are flattered by it.
    """
    detector, best, recipe = run.detector, run.best, run.recipe
    assert best is not None
    detector.restore(best.config, best.tensors, "the best epoch")
    read = np.isfinite(best.logits)
    logits, label = best.logits[read], provenance.validation_generated[read]
    calibration = fit_platt(logits, label, provenance.validation)
    p = probability(logits, calibration)
    detector.config = replace(
        detector.config,
        name=recipe.name,
        description=recipe.description,
        calibration=calibration,
        thresholds=fit_thresholds(p, label),
        verdict=fit_verdict(p, label),
    )
    detector.save_pretrained(folder)
    write_golden(Detector.from_pretrained(folder, precision="fp32"), folder)
    finished = Detector.from_pretrained(folder)
    sources = [source for source, there in zip(provenance.validation_sources, read, strict=True) if there]
    write_card(folder, finished.config, run, provenance, logits, label, sources)
    return finished
