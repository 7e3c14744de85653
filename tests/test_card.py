"""A model card says what was measured, whichever way it turned out."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from radet.card import write_card
from radet.config import AttributionConfig, DetectorConfig, resolve
from radet.controls import Control
from radet.finish import Provenance
from radet.loop import Progress
from radet.recipe import Recipe
from radet.thresholds import ThresholdConfig, VerdictConfig

from .conftest import ROOT

RECIPE = Recipe.read(ROOT / "jobs" / "train-lite.yaml")
CONFIG = DetectorConfig.read(resolve("radet-lite"))
LOGITS = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1.5, 1.5])
SOURCES = ["a"] + ["camera"] * 3 + ["a"] * 3 + [""] * 2


def card(folder: Path, config: DetectorConfig = CONFIG, **facts: Any) -> str:
    """Of four real pictures, three by one generator and two by another."""
    history = [{f"val_auroc_{name}": 0.9 - 0.1 * index for index, name in enumerate(RECIPE.branches)}]
    history.append(dict.fromkeys(history[0], 0.1))  # a worse epoch after the best
    progress = Progress(epoch=2, best_epoch=0, best_auroc=0.9, linear_auroc=0.85, history=history)
    made = LOGITS >= 4
    made[-2:] = True
    words = {"training": "these", "validation": "those", "command": "radet train", "broken": 7} | facts
    provenance = Provenance(validation_generated=made, validation_sources=SOURCES, **words)
    run: Any = SimpleNamespace(recipe=RECIPE, progress=progress)
    write_card(folder, config, run, provenance, LOGITS, made, SOURCES)
    return (folder / "README.md").read_text(encoding="utf-8")


def test_figures_are_of_the_best_epoch_and_of_each_generator(tmp_path: Path) -> None:
    text = card(tmp_path)
    assert "AUROC 0.800 (95 % interval " in text
    assert "of 4 real and 5 generated pictures" in text
    assert "Branches alone: semantic 0.900, discrepancy 0.800, lowlevel 0.700." in text
    assert "started from: 0.850." in text
    assert "| a | 3 | 1.000 | 1.00 |" in text
    assert "| (unnamed) | 2 | 0.500 | 0.00 |" in text
    assert "| camera |" not in text
    assert "* probe: `drp`, eps 16/255" in text
    assert "* pictures that could not be read: 7" in text
    assert "Is it the probe?" not in text
    assert "Which generator?" not in text


def test_thresholds_and_calibration(tmp_path: Path) -> None:
    assert CONFIG.calibration is not None
    threshold = ThresholdConfig(
        target_fpr=0.05, value=0.8, achieved_fpr=0.04, interval=(0.03, 0.06), tpr=0.9, images=100
    )
    text = card(
        tmp_path,
        replace(
            CONFIG,
            calibration=replace(CONFIG.calibration, ece_before=0.125, ece_after=0.0625),
            thresholds=(threshold,),
            verdict=VerdictConfig(real_below=0.2, generated_above=0.8, target_fpr=0.05, target_fnr=0.05),
        ),
    )
    assert "| 5% | 0.800 | 4.00% (3.00% to 6.00%) | 0.90 |" in text
    assert "Verdict: `generated` above 0.800, `real` below 0.200" in text
    assert "expected calibration error 0.125 before, 0.062 after" in text


def test_what_is_known_of_the_attribution(tmp_path: Path) -> None:
    assert CONFIG.heads is not None
    known = AttributionConfig(families=("a", "b", "", "d"), held_out=40, accuracy=0.9, kept=0.85)
    text = card(tmp_path, replace(CONFIG, heads=replace(CONFIG.heads, attribution=known)))
    assert "It names one of 4 families: a, b, (unnamed), d. Of 40 generated training pictures" in text
    assert '90% got their own family (25% by guessing) and 15% would be "unknown"' in text


@pytest.mark.parametrize(
    ("learned", "random", "norm", "words"),
    [
        (0.54, 0.54, 0.54, "hardly better than a coin"),
        (0.9, 0.9, 0.1, "the drift repeats its verdict"),  # the norm says as much, the other way round
        (0.9, 0.86, 0.6, "it is the strength that the probe chooses"),
        (0.9, 0.84, 0.84, "the drift is evidence of its own"),
    ],
)
def test_where_the_discrepancy_evidence_comes_from(
    tmp_path: Path, learned: float, random: float, norm: float, words: str
) -> None:
    controls = {
        "learned": Control(0.7, learned, 0.95),
        "random": Control(0.6, random, 0.9),
        "norm": Control(norm, np.nan, np.nan),
    }
    text = card(tmp_path, controls=controls)
    assert words in text
    assert f"| noise of the same norm | 0.600 | {random:.3f} | 0.900 |".split("|")[2:] == next(
        line.split("|")[2:] for line in text.splitlines() if "noise of the same norm" in line
    )
    assert f"the norm of delta as the score | {norm:.3f} |  |  |" in text
