"""The pictures of an evaluation and of a scoring run. Each function returns a matplotlib Figure; nothing here computes
a figure of its own.

Colours are Okabe and Ito's, which people with any colour vision tell apart; lines differ in dashes too.
"""

import io
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipelines.evaluate import Contender, Evaluation
from pipelines.names import any_script, in_plot
from radet.degradations import CLEAN, NEUTRAL, SUITES
from radet.labels import named
from radet.ranking import Ranking

Floats = NDArray[np.float64]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)))
_REAL, _UNCERTAIN, _GENERATED = "#0072B2", "#999999", "#D55E00"
_STRENGTHS = {  # what the numbers of a suite are
    "jpeg": "quality",
    "webp": "quality",
    "blur": "standard deviation, pixels",
    "noise": "standard deviation, of 255",
    "resize": "factor",
    "thumbnail": "shorter side, pixels",
}
MOST = 8  # lines in one picture
_BINS = 40  # of a histogram
_CALIBRATION_BINS = 10
_NAME = 18  # characters beside an axis


def svg(figure: Figure) -> str:
    """As text for a page: no XML header. Screen readers pass it over: its letters are outlines, and captions and tables
    say what it shows."""
    out = io.StringIO()
    with any_script():
        figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :].replace("<svg", '<svg aria-hidden="true"', 1)


def roc(found: Evaluation, *, low: bool = False) -> Figure:
    """True over false positive rate of every detector; `low` shows what counts in practice, 0.1 % to 10 %."""
    figure, axes = _axes(5.2, 4.4)
    for style, tp_G, fp_G in _curves(found):
        axes.step(fp_G / fp_G[-1], tp_G / tp_G[-1], where="post", **style)
    if low:
        axes.set(xscale="log", xlim=(1e-3, 0.1))
    else:
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
        axes.set(xlim=(0, 1))
    axes.set(ylim=(0, 1), xlabel="false positive rate", ylabel="true positive rate")
    return _legend(figure, axes)


def precision_recall(found: Evaluation) -> Figure:
    """Precision over recall, generated pictures being the positives."""
    figure, axes = _axes(5.2, 4.4)
    for style, tp_G, fp_G in _curves(found):
        axes.plot(tp_G[1:] / tp_G[-1], tp_G[1:] / (tp_G[1:] + fp_G[1:]), **style)
    share = float(found.labelled.generated.mean())
    axes.axhline(share, color="#bbbbbb", linewidth=0.8)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    return _legend(figure, axes)


def _curves(found: Evaluation) -> Iterator[tuple[dict[str, Any], Floats, Floats]]:
    """Of every detector shown: its line's look and label, true and false positives by falling threshold."""
    for number, contender in enumerate(_shown(found)):
        score, label = _clean(contender, found)
        if label.any() and not label.all():
            (tp_G,), (fp_G,) = Ranking(score, label).curve()
            yield {"label": in_plot(contender.name), **_style(number)}, tp_G, fp_G


def scores(contender: Contender, found: Evaluation) -> Figure:
    """How scores of real and generated pictures lie: probabilities, or logits and drifts where there are none."""
    scored = contender.scored[CLEAN]
    values, name = (scored.p, "probability of generation") if scored.p is not None else (scored.score, "score")
    figure = _histogram(values, found.labelled.generated, name, bounds=(0, 1) if scored.p is not None else None)
    verdict = contender.config.verdict
    if scored.p is not None and verdict is not None:
        axes = figure.axes[0]
        axes.axvspan(verdict.real_below, verdict.generated_above, color="#888888", alpha=0.12, linewidth=0)
        axes.text(
            (verdict.real_below + verdict.generated_above) / 2,
            axes.get_ylim()[1] * 0.97,
            "uncertain",
            ha="center",
            va="top",
            color="#555555",
        )
    return figure


def drifts(contender: Contender, found: Evaluation) -> Figure:
    """The paper's first figure: how far the encoder's view moves, real against generated."""
    assert contender.drift is not None
    with np.errstate(divide="ignore", invalid="ignore"):
        powers = np.log10(contender.drift)
    return _histogram(powers, found.labelled.generated, "drift, 1 - cos(z, z'), as its power of ten")


def radar(found: Evaluation) -> Figure | None:
    """The paper's fourth figure: AUROC by generator, one polygon a detector. None for fewer than three generators."""
    generators = sorted(set(found.sources[found.labelled.generated].tolist()))
    if len(generators) < 3:
        return None
    figure = Figure(figsize=(6.4, 6.0))
    axes = figure.add_subplot(projection="polar")
    angle = np.linspace(0, 2 * np.pi, len(generators), endpoint=False)
    for number, contender in enumerate(_shown(found)):
        rows = [found.row(contender.name, CLEAN, "generator", name) or {} for name in generators]
        values = np.array([row.get("auroc", np.nan) for row in rows], np.float64)
        axes.plot(
            np.append(angle, angle[0]), np.append(values, values[0]), label=in_plot(contender.name), **_style(number)
        )
    axes.set_xticks(angle, [in_plot(named(name), _NAME) for name in generators], fontsize=8)
    for label, turn in zip(axes.get_xticklabels(), angle, strict=True):
        aside = np.cos(turn)  # names begin or end at the rim, and lie on it nowhere
        label.set_horizontalalignment("center" if abs(aside) < 0.1 else "left" if aside > 0 else "right")
    axes.set_ylim(lowest(found), 1.0)
    axes.set_yticks([0.5, 0.7, 0.9])
    axes.set(rlabel_position=180 / len(generators))  # between two spokes
    axes.tick_params(axis="x", pad=4)
    return _legend(figure, axes)


def lowest(found: Evaluation) -> float:
    """Where axes of AUROC begin, so that every point is on them: 0.4 unless something is worse."""
    areas = [float(row["auroc"]) for row in found.rows if "auroc" in row and np.isfinite(row["auroc"])]
    return max(0.0, math.floor(10 * min([0.4, *areas])) / 10)


def robustness(found: Evaluation) -> Figure | None:
    """The paper's fifth figure: AUROC as pictures get worse, one panel a kind. None without degradations."""
    kinds = [
        (suite, [CLEAN, *(c for c in SUITES[suite] if c in found.conditions)])
        for suite in SUITES
        if suite != "clean" and any(c in found.conditions for c in SUITES[suite])
    ]
    if NEUTRAL in found.conditions:
        kinds.append(("format-neutral", [CLEAN, NEUTRAL]))
    if not kinds:
        return None
    across = min(4, len(kinds))
    down = math.ceil(len(kinds) / across)
    figure = Figure(figsize=(2.9 * across, 2.7 * down + 0.9), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharey=True)
    for panel, (suite, chosen) in zip(panels.flat, kinds, strict=False):
        for number, contender in enumerate(_shown(found)):
            values = [(found.row(contender.name, condition) or {}).get("auroc", np.nan) for condition in chosen]
            label = in_plot(contender.name)
            panel.plot(range(len(chosen)), values, marker="o", markersize=3, label=label, **_style(number))
        panel.set_title(suite, fontsize=10)
        ticks = [condition.partition(":")[2] or "as is" for condition in chosen]
        panel.set_xticks(range(len(chosen)), [t if len(t) < 8 else suite for t in ticks], fontsize=8)
        panel.set_xlabel(_STRENGTHS.get(suite, ""), fontsize=8)
        panel.set_ylim(lowest(found), 1.0)
        panel.grid(alpha=0.25)
    for panel in panels.flat[len(kinds) :]:
        panel.set_axis_off()
    for row in panels:
        row[0].set_ylabel("AUROC")
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), fontsize=8, frameon=False)
    return figure


def reliability(found: Evaluation) -> Figure | None:
    """Share of generated pictures over mean p_generated, in ten bins of equal count, at even odds of the classes.

    None where nothing is calibrated.
    """
    calibrated = [c for c in found.contenders if c.scored[CLEAN].p is not None]
    if not calibrated:
        return None
    figure, axes = _axes(5.2, 4.4)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
    for number, contender in enumerate(calibrated):
        p = contender.scored[CLEAN].p
        assert p is not None
        there = np.isfinite(p)
        p, label = p[there], found.labelled.generated[there]
        parts = np.array_split(np.argsort(p, kind="stable"), _CALIBRATION_BINS)
        made = int(label.sum())
        weight = np.where(label, 1 / max(1, made), 1 / max(1, len(label) - made))  # p is of even odds
        points = [
            (np.average(p[part], weights=weight[part]), np.average(label[part], weights=weight[part]))
            for part in parts
            if len(part)
        ]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=in_plot(contender.name), **_style(number))
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="mean probability of generation", ylabel="share that is generated")
    return _legend(figure, axes)


def verdicts(values: dict[str, Floats], *, calibrated: bool) -> Figure:
    """How the scores of a run lie, by verdict ("" where there is none), the classes of one bin on top of each other."""
    figure, axes = _axes(5.2, 3.0)
    colours = {"real": _REAL, "uncertain": _UNCERTAIN, "generated": _GENERATED, "": _REAL}
    there = {name: found for name, found in values.items() if len(found)}
    axes.hist(
        list(there.values()),
        50,
        range=(0, 1) if calibrated else None,
        stacked=True,
        color=[colours[name] for name in there],
        label=[f"{name} ({len(found):,})" if name else "" for name, found in there.items()],
    )
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="probability of generation" if calibrated else "logit", ylabel="pictures")
    return _legend(figure, axes)


def _shown(found: Evaluation) -> list[Contender]:
    """Whole detectors first, then branches, as many as a picture holds."""
    return sorted(found.contenders, key=lambda contender: not contender.whole)[:MOST]


def _clean(contender: Contender, found: Evaluation) -> tuple[Floats, NDArray[np.bool_]]:
    score = contender.scored[CLEAN].score
    there = np.isfinite(score)
    return score[there], found.labelled.generated[there]


def _histogram(
    values: Floats,
    generated: NDArray[np.bool_],
    name: str,
    bounds: tuple[float, float] | None = None,
) -> Figure:
    figure, axes = _axes(5.2, 3.0)
    there = np.isfinite(values)
    if there.any():
        low, high = bounds or (float(values[there].min()), float(values[there].max()) + 1e-12)
        edges = np.linspace(low, high, _BINS + 1).tolist()
        for of_class, label, colour in ((~generated, "real", _REAL), (generated, "generated", _GENERATED)):
            part = values[there & of_class]
            if len(part):
                axes.hist(part, edges, density=True, alpha=0.5, color=colour, label=f"{label} ({len(part):,})")
    axes.set(xlabel=name, ylabel="density")
    return _legend(figure, axes)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.25)
    return figure, axes


def _legend(figure: Figure, axes: Axes) -> Figure:
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
        figure.set_layout_engine("constrained")
    return figure


def _style(number: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "linestyle": _DASHES[number % len(_DASHES)],
        "linewidth": 1.5,
    }
