"""The report of an evaluation whose pictures are odd: without scores, without names, with names that mean something."""

import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from rich.console import Console

from jobs.evaluate_screen import show_evaluation
from pipelines.evaluate import Contender, Evaluation, _rows
from pipelines.labelled import Labelled
from pipelines.report import evaluation_page
from radet.config import DetectorConfig, resolve
from radet.evaluation import Scored, kept_promises

REAL, MADE = [0.1, 0.2, 0.3, 0.4, 0.6, 0.7], [0.3, 0.5, 0.6, 0.7, 0.8, 0.9]
NONE = [float("nan")] * 6
CONDITIONS = ["clean", "jpeg:50"]


def evaluation(real: Sequence[float], made: Sequence[float], sources: Sequence[str] = ("made",) * 6) -> Evaluation:
    """Of a calibrated detector that gave these probabilities, under each condition."""
    p, label = np.array([*real, *made]), np.arange(len(real) + len(made)) >= len(real)
    listed = Labelled([f"/gone/{n}.jpg" for n in range(len(p))], label, ["photographs"] * len(real) + [*sources], 0)
    config = DetectorConfig.read(resolve("radet-lite"))
    contender = Contender(
        name="our $detector$",
        source="ours",
        model_id="0",
        config=config,
        scored={condition: Scored(score=np.log(p / (1 - p)), p=p) for condition in CONDITIONS},
        drift=p / 10,
        ms=1.0,
        gmac=1.0,
        whole=True,
    )
    groups = np.array(listed.sources)
    return Evaluation(
        labelled=listed,
        groups=groups,
        conditions=CONDITIONS,
        contenders=[contender],
        rows=list(_rows(contender, listed, groups, CONDITIONS)),
        failures=[],
        promises={contender.name: kept_promises(p, label, config)},
    )


@pytest.mark.parametrize(("real", "made"), [(NONE, MADE), (REAL, NONE), (NONE, NONE), (REAL[:1], MADE[:1])])
def test_what_has_no_scores_has_no_figures(real: list[float], made: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluation(real, made, ["made"] * len(made))
        page = evaluation_page(found, "ours")
    assert "nan" not in page
    promises = page.split("Are the stated rates kept?")[1].split("</table>")[0]
    assert ("<td>yes</td>" in promises) == np.isfinite(real).any()
    console = Console(width=120)
    with console.capture() as shown:
        show_evaluation(console, found, "out")
    assert "nan" not in shown.get()


def test_names_are_text_in_plots_and_tables() -> None:
    names = [r"gen$\frac{1}$", "a$b", "$", "", "<b>", "long " * 9]
    page = evaluation_page(evaluation(REAL * 5, MADE * 5, names * 5), "ours")
    assert r"gen$\frac{1}$" in page
    assert "<th>(unnamed)</th>" in page
    flat = evaluation_page(evaluation(REAL, MADE, [""] * 6), "ours")
    assert "does best on (unnamed) (AUROC" in flat
