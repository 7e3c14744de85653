"""The report of an evaluation whose pictures are odd: without scores, without names, with names that mean something."""

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from jobs.cli import app
from jobs.evaluate_screen import show_evaluation
from jobs.stop import Stop
from pipelines.evaluate import Contender, Evaluation, _rows
from pipelines.labelled import Labelled
from pipelines.plots import MOST, reliability
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


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_an_evaluation_that_judged_nothing_has_failed(tmp_path: Path) -> None:
    for label in ("0_real", "1_fake"):
        (tmp_path / "tree" / label).mkdir(parents=True)
        (tmp_path / "tree" / label / "a.png").write_bytes(b"no picture")
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path / "tree"), "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, Stop)
    assert done.exception.code == 1
    assert str(done.exception).startswith("no real and no generated picture could be scored")
    assert "no known image signature" in (tmp_path / "out" / "report.html").read_text()


def test_detectors_that_plots_have_no_room_for_are_named() -> None:
    found = evaluation(REAL, MADE)
    names = [f"detector {number}" for number in range(MOST + 2)]
    contenders = [replace(found.contenders[0], name=name) for name in names]
    rows = [row | {"detector": name} for name in names for row in found.rows]
    page = evaluation_page(replace(found, contenders=contenders, rows=rows), "ours")
    assert f"Plots hold {MOST} detectors: in tables alone are {', '.join(names[MOST:])}." in page
    assert "Plots hold" not in evaluation_page(found, "ours")


def test_a_list_that_is_cut_says_so() -> None:
    failed = [{"id": str(number), "status": "empty", "error": "zero bytes"} for number in range(1201)]
    page = evaluation_page(replace(evaluation(REAL, MADE), failures=failed), "ours")
    assert (
        "1,201 inputs have no score, and no part in any figure above. The first 200; metrics.json has them all." in page
    )
    assert page.count("zero bytes") == 200
    assert "1 input has no score" in evaluation_page(replace(evaluation(REAL, MADE), failures=failed[:1]), "ours")


def test_reliability_is_that_at_even_odds() -> None:
    """Of three real pictures to a generated one at every probability, as many as not are generated at even odds."""
    levels = [0.05 + number / 10 for number in range(10)]
    figure = reliability(evaluation(levels * 3, levels, ["made"] * 10))
    assert figure is not None
    found = figure.axes[0].lines[-1].get_xydata()
    assert np.asarray(found) == pytest.approx(np.array([(level, 0.5) for level in levels]), abs=1e-6)


def test_the_worst_mistakes_are_named_and_escaped(tmp_path: Path) -> None:
    found = evaluation(REAL, MADE)
    hostile, odd = str(tmp_path / "<img src=x onerror=alert(1)>.png"), os.fsdecode(bytes(tmp_path) + b"/caf\xe9.png")
    for name in (hostile, odd):
        Image.new("RGB", (32, 32)).save(name)
    page = evaluation_page(replace(found, labelled=found.labelled._replace(locations=[hostile, odd] * 6)), "ours")
    assert r"caf\xe9.png" in page.encode().decode()
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in page
    assert "<img src=x" not in page
    assert re.search(r"It calls generated what is above 0\.\d+\.", page)


def test_names_are_text_in_plots_and_tables() -> None:
    names = [r"gen$\frac{1}$", "a$b", "$", "", "生成器 <b>", "long " * 9]
    page = evaluation_page(evaluation(REAL * 5, MADE * 5, names * 5), "ours")
    assert r"gen$\frac{1}$" in page
    assert "<th>(unnamed)</th>" in page
    flat = evaluation_page(evaluation(REAL, MADE + [0.95] * 6, [""] * 6 + ["b"] * 6), "ours")
    assert "does best on b (AUROC 1.00) and worst on (unnamed) (0.79)." in flat
    assert "does best" not in evaluation_page(evaluation(REAL, MADE), "ours"), "of one generator there is no best"
