"""The plots of an analysis, as PNG and SVG. Orange is generated, blue is real, whatever is shown."""

import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from pipelines.names import any_script, in_plot
from radet.analysis import EMBEDDING, Analysis
from radet.labels import named
from radet.separation import ALL
from radet.shift_bound import RANGE

GENERATED, REAL, GREY = "#d1651a", "#2f6db3", "#8a8a8a"

_DPI = 120
_NAME = 28  # characters beside an axis
_STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.hashsalt": "radet",  # the same analysis gives the same file
}
_PERTURBATIONS = {"drp": "learned probe", "gaussian": "gaussian noise", "blur": "blur", "minder": "minder"}
_ESTIMATORS = {"gaussian": "Gaussian fit", "knn": "nearest neighbours"}


class Plot(NamedTuple):
    """One figure. `title` and `caption` are for the page around it."""

    title: str
    caption: str
    png: bytes
    svg: bytes


def draw(analysis: Analysis) -> dict[str, Plot]:
    """By file name without suffix; a part of the analysis that is empty has no plot."""
    wanted: dict[str, tuple[str, str, Callable[[Analysis], Figure], bool]] = {
        "plot_sources": (
            "Drift by source",
            "Cosine drift under the checkpoint's own probe. Line: 10th to 90th percentile; bar: the middle half; dot: "
            "median; in brackets the number of pictures. Blue sources are real, orange ones generated.",
            _sources,
            True,
        ),
        "plot_layers": (
            "Layer by layer",
            "AUROC of each layer's drift, all generators against all real pictures, with 95 % intervals. Above 0.5 "
            "generated pictures drift more, below it less. 'out' is the embedding.",
            _layers,
            True,
        ),
        "plot_layers_by_generator": (
            "Layer by layer, by generator",
            "AUROC of the cosine drift. Orange: generated pictures of this generator drift more than real ones, "
            "violet: less; white: no difference. With few pictures of a generator, strong colours may be chance.",
            _by_generator,
            True,
        ),
        "plot_sweep": (
            "Strength of the perturbation",
            "AUROC of the embedding's drift over the strength, with 95 % interval; thin lines are single generators, "
            "the dotted line is the strength the checkpoint uses. A line that crosses 0.5 changes its sign.",
            _sweep,
            True,
        ),
        "plot_controls": (
            "Controls: is it the probe?",
            "AUROC with the learned perturbation and with what the controls put in its place: noise of the same norm "
            "(random), perturbations of one norm (equalised), another picture's (swapped). 'norm' scores by the size "
            "of the perturbation alone. Drift: the cosine drift; discrepancy: that branch; fused: the whole detector.",
            _controls,
            analysis.controls is not None,
        ),
        "plot_divergence_layers": (
            "Divergence from the reference, layer by layer",
            "Symmetric KL between features of all generated pictures and the reference set, with 95 % intervals. What "
            "lies below the dashed line, a random division of the same pictures gives too.",
            _divergence_layers,
            bool(analysis.divergences),
        ),
        "plot_divergence_sources": (
            "Divergence from the reference, by source",
            "At the embedding. Collections of real pictures (blue) are the scale: they differ by content alone.",
            _divergence_sources,
            bool(analysis.divergences),
        ),
        "plot_bound": (
            "Theorem 4.3 in numbers",
            f"Gap of the mean shift, generated minus real: measured, predicted by the Jacobians, and the bound with "
            f"the certain range B = {RANGE:g}. The bound says something only above 0.",
            _bound,
            bool(analysis.bound),
        ),
    }
    with mpl.rc_context(_STYLE), any_script():
        return {
            name: _plot(title, text, make(analysis)) for name, (title, text, make, there) in wanted.items() if there
        }


def _plot(title: str, caption: str, figure: Figure) -> Plot:
    files = []
    for kind, metadata in (("png", None), ("svg", {"Date": None})):
        out = io.BytesIO()
        figure.savefig(out, format=kind, dpi=_DPI, metadata=metadata)
        files.append(out.getvalue())
    return Plot(title, caption, *files)


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure((width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False, sharey=True)[0])


def _sources(analysis: Analysis) -> Figure:
    rows = sorted(analysis.sources, key=lambda row: (row.generated, row.p50))
    figure, (axes,) = _figure(8, 1.3 + 0.27 * len(rows))
    for place, row in enumerate(rows):
        colour = GENERATED if row.generated else REAL
        axes.plot([row.p10, row.p90], [place, place], color=colour, linewidth=1)
        axes.plot([row.p25, row.p75], [place, place], color=colour, linewidth=5, alpha=0.45, solid_capstyle="butt")
        axes.plot([row.p50], [place], "o", color=colour, markersize=5)
    axes.set_yticks(range(len(rows)), [f"{in_plot(named(row.source), _NAME)} ({row.pictures})" for row in rows])
    if min(row.p10 for row in rows) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())  # or its labels lie on each other
    axes.set_xlabel("cosine drift, 1 - cos(z, z')")
    return figure


def _layers(analysis: Analysis) -> Figure:
    figure, panels = _figure(10, 4.2, 2)
    for panel, measure, title in zip(
        panels, ("cosine", "relative_l2"), ("cosine drift", "relative L2 drift"), strict=True
    ):
        names: list[str] = []
        for name, colour, marker in zip(_perturbations(analysis), (GENERATED, REAL), "os", strict=False):
            rows = [
                row
                for row in analysis.layers
                if (row.perturbation, row.measure, row.found.source) == (name, measure, ALL)
            ]
            names = [_layer(row.layer) for row in rows]
            x = np.arange(len(rows))
            panel.plot(x, [row.found.auroc for row in rows], marker + "-", color=colour, label=_PERTURBATIONS[name])
            panel.fill_between(
                x,
                [row.found.low for row in rows],
                [row.found.high for row in rows],
                color=colour,
                alpha=0.15,
                linewidth=0,
            )
        panel.set_xticks(range(len(names)), names)
        panel.set_xlabel("encoder block")
        panel.set_title(title)
        _half(panel)
    panels[0].set_ylabel("AUROC")
    panels[0].legend(title="perturbation", loc="best")
    return figure


def _by_generator(analysis: Analysis) -> Figure:
    own = _perturbations(analysis)[0]
    rows = [row for row in analysis.layers if (row.perturbation, row.measure) == (own, "cosine")]
    layers = list(dict.fromkeys(row.layer for row in rows))
    sources = dict.fromkeys((row.found.source, row.found.generated) for row in rows)
    values = np.array([row.found.auroc for row in rows]).reshape(len(layers), len(sources)).T
    figure, (axes,) = _figure(2.8 + 0.62 * len(layers), 1.4 + 0.34 * len(sources))
    image = axes.imshow(values, cmap="PuOr_r", vmin=0, vmax=1, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        axes.text(
            x,
            y,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if abs(value - 0.5) > 0.35 else "black",
        )
    axes.set_xticks(range(len(layers)), [_layer(layer) for layer in layers])
    axes.set_yticks(range(len(sources)), [f"{in_plot(named(name), _NAME)} ({count})" for name, count in sources])
    axes.set_xlabel("encoder block")
    axes.set_title(f"perturbation: {_PERTURBATIONS[own]}")
    figure.colorbar(image, ax=axes, label="AUROC", fraction=0.05)
    return figure


def _sweep(analysis: Analysis) -> Figure:
    names = list(dict.fromkeys(row.perturbation for row in analysis.sweep))
    figure, panels = _figure(5 * len(names) + 0.5, 4.2, len(names))
    for panel, name in zip(panels, names, strict=True):
        rows = [row for row in analysis.sweep if row.perturbation == name]
        for source in dict.fromkeys(row.found.source for row in rows):
            line = [row for row in rows if row.found.source == source]
            x, found = [row.strength for row in line], [row.found for row in line]
            if source == ALL:
                panel.plot(x, [f.auroc for f in found], "o-", color=GENERATED, linewidth=2.5, label=ALL, zorder=3)
                panel.fill_between(
                    x, [f.low for f in found], [f.high for f in found], color=GENERATED, alpha=0.2, linewidth=0
                )
            else:
                panel.plot(x, [f.auroc for f in found], color=GREY, linewidth=0.8, alpha=0.7)
        panel.plot([], [], color=GREY, linewidth=0.8, label="one generator")
        if analysis.own_strength is not None and name == _perturbations(analysis)[0]:
            panel.axvline(analysis.own_strength, color="black", linestyle=":", linewidth=1, label="checkpoint's own")
        panel.set_xscale("log")
        panel.set_ylim(-0.02, 1.02)
        panel.set_title(_PERTURBATIONS[name])
        panel.set_xlabel("sigma, of pixels in [0, 1]" if name == "gaussian" else "eps, of pixels in [0, 1]")
        _half(panel)
    panels[0].set_ylabel("AUROC of the drift")
    handles = panels[names.index(_perturbations(analysis)[0])].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3)
    return figure


def _controls(analysis: Analysis) -> Figure:
    assert analysis.controls is not None
    figure, (axes,) = _figure(8, 4)
    for shift, (field, colour) in enumerate((("drift", GENERATED), ("discrepancy", REAL), ("fused", GREY))):
        values = np.array([getattr(control, field) for control in analysis.controls.values()])
        x = np.flatnonzero(np.isfinite(values))
        bars = axes.bar(x + (shift - 1) * 0.27, values[x], 0.25, color=colour, label=field)
        axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=1)
    axes.set_xticks(range(len(analysis.controls)), list(analysis.controls))
    axes.set_ylabel("AUROC")
    axes.set_ylim(0, 1.08)
    _half(axes)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _divergence_layers(analysis: Analysis) -> Figure:
    figure, panels = _figure(10, 4, 2)
    for panel, estimator in zip(panels, _ESTIMATORS, strict=True):
        rows = [row for row in analysis.divergences if (row.source, row.estimator) == (ALL, estimator)]
        x, found = np.arange(len(rows)), [row.found for row in rows]
        _errors(panel, x, [(f.low, f.high) for f in found], GENERATED)
        panel.plot(x, [f.value for f in found], "o-", color=GENERATED, label="generated against reference")
        panel.plot(x, [f.chance for f in found], "--", color=GREY, label="chance (95 %)")
        panel.set_xticks(x, [_layer(row.layer) for row in rows])
        panel.set_xlabel("encoder block")
        panel.set_title(_ESTIMATORS[estimator])
        panel.axhline(0, color="black", linewidth=0.6)
    panels[0].set_ylabel("symmetric KL, nats")
    panels[0].legend(loc="best")
    return figure


def _divergence_sources(analysis: Analysis) -> Figure:
    rows = [row for row in analysis.divergences if row.layer == EMBEDDING]
    names = {
        row.source: row for row in sorted(rows, key=lambda row: (row.source != ALL, row.generated, row.found.value))
    }
    figure, panels = _figure(10, 1.5 + 0.3 * len(names), 2)
    for panel, estimator in zip(panels, _ESTIMATORS, strict=True):
        for place, name in enumerate(names):
            for row in rows:
                if (row.source, row.estimator) == (name, estimator):
                    colour = GENERATED if row.generated else REAL
                    f = row.found
                    panel.plot([f.low, f.high], [place, place], color=colour, linewidth=1.5)
                    panel.plot([f.value], [place], "o", color=colour)
                    panel.plot([f.chance], [place], "|", color="black", markersize=9)
        panel.axvline(0, color="black", linewidth=0.6)
        panel.set_title(_ESTIMATORS[estimator])
        panel.set_xlabel("symmetric KL, nats  ( | = chance, 95 %)")
    panels[0].set_yticks(
        range(len(names)), [f"{in_plot(named(name), _NAME)} ({row.pictures})" for name, row in names.items()]
    )
    return figure


def _bound(analysis: Analysis) -> Figure:
    figure = Figure((10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = next(iter(analysis.bound.values()))
    x = [255 * row.rms for row in rows]
    _errors(left, x, [(row.measured.low, row.measured.high) for row in rows], GENERATED)
    left.plot(x, [row.measured.value for row in rows], "o-", color=GENERATED, label="measured")
    left.plot(x, [row.first_order for row in rows], "s--", color=REAL, label="predicted, (eps²/n) Δ")
    left.set_title("gap of the shift, and its first order")
    for (estimator, found), style in zip(analysis.bound.items(), ("-", ":"), strict=True):
        name = _ESTIMATORS[estimator]
        right.plot(x, [row.bound for row in found], style, color="black", label=f"bound, B = {RANGE:g} ({name})")
        right.plot(x, [row.bound_seen for row in found], style, color=GREY, label=f"bound, B as seen ({name})")
    right.plot(x, [row.measured.value for row in rows], "o-", color=GENERATED, label="measured")
    right.set_title("the bound")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, [f"{value:.0f}" for value in x])
        axes.set_xlabel("root mean square of the perturbation, in 1/255")
        axes.axhline(0, color="black", linewidth=0.8, linestyle="--")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8, ncols=2)
    left.set_yscale("symlog", linthresh=max(1e-6, min(abs(row.measured.value) for row in rows)))
    left.set_ylabel("mean shift, generated minus real")
    return figure


def _errors(axes: Axes, x: Iterable[float], intervals: Sequence[tuple[float, float]], colour: str) -> None:
    for place, (low, high) in zip(x, intervals, strict=True):
        axes.plot([place, place], [low, high], color=colour, linewidth=1.2)


def _half(axes: Axes) -> None:
    axes.axhline(0.5, color="black", linewidth=0.8, linestyle="--")


def _perturbations(analysis: Analysis) -> list[str]:
    """The checkpoint's own first."""
    return list(dict.fromkeys(row.perturbation for row in analysis.layers))


def _layer(name: str) -> str:
    return "out" if name == EMBEDDING else name.removeprefix("block ")
