"""Pages for people: one self-contained HTML file, no script, nothing fetched."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from pipelines import plots
from pipelines.evaluate import Contender, Evaluation
from pipelines.evaluation_tables import nullable
from pipelines.fetch import Fetcher
from pipelines.items import display
from radet.degradations import CLEAN
from radet.errors import FetchError, ImageError
from radet.images import decode_pixels
from radet.labels import named

_THUMBNAIL = 160  # pixels
_WORST = 12  # pictures in a gallery

_PAGES = Environment(
    loader=PackageLoader("pipelines", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def evaluation_page(found: Evaluation, data: str, *, allow_http: bool = False) -> str:
    """The report of an evaluation, HTML."""
    rows = {c.name: nullable(found.row(c.name) or {}) for c in found.contenders}
    main = found.contenders[0]
    whole = [c for c in found.contenders if c.whole]
    generated, real = int(found.labelled.generated.sum()), int((~found.labelled.generated).sum())
    crowded = ", ".join(c.name for c in whole[plots.MOST :])
    return render(
        "evaluation.html.j2",
        data=data,
        model_id=main.model_id,
        summary=found.labelled.summary(),
        real=real,
        lowest=f"{plots.lowest(found):g}",
        tiles=_tiles(main, rows[main.name]),
        sentences=_sentences(main, rows[main.name], found),
        detectors=[
            {
                "name": c.name,
                "whole": c.whole,
                "source": c.source,
                "row": _Row(rows[c.name]),
                "paired": _value(found.row(c.name, CLEAN, "mean of pair groups"), "auroc"),
                "ms": c.ms,
                "gmac": c.gmac,
            }
            for c in found.contenders
        ],
        counts=f"{real:,} real and {generated:,} generated pictures; {len(found.failures):,} inputs not scored."
        + (f" Plots hold {plots.MOST} detectors: in tables alone are {crowded}." if crowded else ""),
        promises=nullable(found.promises),
        plots=_plots(found, whole),
        tables=[
            table
            for scope, title, corner in (
                ("generator", "By generator, against all real pictures", "generator"),
                ("pair group", "Within pair groups", "pair group"),
            )
            if (table := _table(found, whole, scope, title, corner))
        ],
        conditions=_conditions(found, whole),
        confusions=[_confusion(c.name, c.confusion) for c in whole if c.confusion is not None],
        galleries=_galleries(main, found, Fetcher(allow_http=allow_http)),
        failures=found.failures,
    )


def render(template: str, **values: Any) -> str:
    """A template of pipelines/templates; every value is escaped unless the template says that it is safe."""
    return _PAGES.get_template(template).render(**values)


def thumbnail(data: bytes) -> str:
    """A picture as a small data: URL. Raises ImageError."""
    picture = Image.fromarray(decode_pixels(data))
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


class _Row(dict[str, Any]):
    """A row whose missing figures are None."""

    def __missing__(self, name: str) -> None:
        return None


def _plots(found: Evaluation, whole: Sequence[Contender]) -> dict[str, Any]:
    optional = {"radar": plots.radar, "robustness": plots.robustness, "reliability": plots.reliability}
    drawn: dict[str, Any] = {
        "roc": plots.svg(plots.roc(found)),
        "roc_low": plots.svg(plots.roc(found, low=True)),
        "precision_recall": plots.svg(plots.precision_recall(found)),
        "scores": [(c.name, plots.svg(plots.scores(c, found))) for c in whole if c.scored[CLEAN].p is not None],
        "drifts": [(c.name, plots.svg(plots.drifts(c, found))) for c in whole if c.drift is not None],
    }
    for name, draw in optional.items():
        figure = draw(found)
        drawn[name] = None if figure is None else plots.svg(figure)
    return drawn


def _tiles(main: Contender, row: dict[str, Any]) -> list[dict[str, str]]:
    tiles = [{"name": "detector", "value": main.name}]
    for name, figure, form in (
        ("AUROC", "auroc", "{:.3f}"),
        ("found at 5 % false positives", "tpr_at_5", "{:.0%}"),
        ("accuracy at its threshold", "accuracy", "{:.0%}"),
        ("false positives at its threshold", "fpr", "{:.1%}"),
    ):
        if row.get(figure) is not None:
            tiles.append({"name": name, "value": form.format(row[figure])})
    return tiles


def _sentences(main: Contender, row: dict[str, Any], found: Evaluation) -> list[str]:
    said = []
    rows = [r for r in found.rows if (r["detector"], r["condition"]) == (main.name, CLEAN)]
    generators = [r for r in rows if r["scope"] == "generator" and "auroc" in r]
    if len(generators) > 1:
        worst = min(generators, key=lambda r: r["auroc"])
        best = max(generators, key=lambda r: r["auroc"])
        said.append(
            f"{main.name} does best on {named(best['name'])} (AUROC {best['auroc']:.2f}) and worst on "
            f"{named(worst['name'])} ({worst['auroc']:.2f})."
        )
    others = [
        (c.name, value)
        for c in found.contenders
        if c.whole and c is not main and (value := _value(found.row(c.name), "auroc")) is not None
    ]
    if others and row.get("auroc") is not None:
        name, value = max(others, key=lambda pair: pair[1])
        relation = "ahead of" if row["auroc"] > value else "behind"
        low, high = row["intervals"]["auroc"]
        inside = "; the difference is within its interval" if low <= value <= high else ""
        said.append(f"With {row['auroc']:.3f} it is {relation} {name} ({value:.3f}){inside}.")
    return said


def _table(found: Evaluation, whole: Sequence[Contender], scope: str, title: str, corner: str) -> dict[str, Any] | None:
    names = list(dict.fromkeys(r["name"] for r in found.rows if r["scope"] == scope and r["condition"] == CLEAN))
    if not names:
        return None
    by_key = {(r["detector"], r["scope"], r["name"]): nullable(r) for r in found.rows if r["condition"] == CLEAN}

    def line(label: str, scope: str, name: str) -> dict[str, Any]:
        of = [by_key[c.name, scope, name] for c in whole]
        cells = [{"value": r.get("auroc"), "bounds": r.get("intervals", {}).get("auroc")} for r in of]
        counts = {key: of[0][key] for key in ("real", "generated", "failed")}
        if scope.startswith("mean"):
            counts |= {"real": ""}
        return {"name": label, "whole": scope.startswith("mean"), "cells": cells, **counts}

    rows = [line(named(name), scope, name) for name in names]
    rows.append(line("mean", f"mean of {scope}s", ""))
    return {"title": title, "corner": corner, "columns": [c.name for c in whole], "rows": rows}


def _confusion(detector: str, found: dict[str, Any]) -> dict[str, Any]:
    rows = [row | {"name": named(row["name"])} for row in found["rows"]]
    return {"name": detector, **found, "columns": [named(name) for name in found["columns"]], "rows": rows}


def _conditions(found: Evaluation, whole: Sequence[Contender]) -> dict[str, Any] | None:
    if len(found.conditions) < 2:
        return None
    rows = [
        {"name": condition, "cells": [_value(found.row(c.name, condition), "auroc") for c in whole]}
        for condition in found.conditions
    ]
    return {"columns": [c.name for c in whole], "rows": rows, "kept": _kept(found, whole)}


def _kept(found: Evaluation, whole: Sequence[Contender]) -> dict[str, Any]:
    """What degradations do to the rates that detectors state: the promise is one of pictures as they arrive."""
    stated = {c.name: c.config.verdict.target_fpr for c in whole if c.config.verdict is not None}

    def cell(name: str, condition: str) -> dict[str, Any]:
        row = nullable(found.row(name, condition))  # without figures of a class that has no scores
        low, high = row["intervals"].get("fpr", (None, None))
        return {
            "fpr": row.get("fpr"),
            "low": low,
            "high": high,
            "found": row.get("fake_accuracy"),
            "broken": low is not None and low > stated[name],
        }

    rows = [{"name": condition, "cells": [cell(name, condition) for name in stated]} for condition in found.conditions]
    return {"columns": stated, "rows": rows}


def _galleries(main: Contender, found: Evaluation, fetcher: Fetcher) -> list[dict[str, Any]]:
    scored = main.scored[CLEAN]
    score = scored.score if scored.p is None else scored.p
    label = found.labelled.generated
    verdict = main.config.verdict if scored.p is not None else None
    above = f" It calls generated what is above {verdict.generated_above:.3f}." if verdict else ""
    below = f" It calls real what is below {verdict.real_below:.3f}." if verdict else ""
    parts = []
    for title, words, of_class, sign in (
        ("Worst false positives", f"The real pictures with the highest scores, by {main.name}.{above}", ~label, -1),
        ("Worst false negatives", f"The generated pictures with the lowest scores, by {main.name}.{below}", label, 1),
    ):
        places = np.flatnonzero(of_class & np.isfinite(score))
        chosen = places[np.argsort(sign * score[places], kind="stable")][:_WORST]
        pictures = []
        for place in chosen.tolist():
            location = found.labelled.locations[place]
            try:
                src = thumbnail(fetcher.read(location))
            except (FetchError, ImageError):
                continue  # scored a moment ago and gone now
            source, name = named(found.labelled.sources[place]), display(location.rpartition("/")[2])
            pictures.append(
                {
                    "src": src,
                    "alt": f"{name}, of {source}",
                    "words": f"{score[place]:.3f}",
                    "source": source,
                    "name": name,
                }
            )
        if pictures:
            parts.append({"title": title, "words": words, "pictures": pictures})
    return parts


def _value(row: dict[str, Any] | None, name: str) -> float | None:
    value = None if row is None else row.get(name)
    return None if value is None or math.isnan(value) else float(value)
