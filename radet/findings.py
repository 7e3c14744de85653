"""An analysis as tables, and in words. The words say what was measured whichever way it turned out."""

import math
from collections.abc import Iterator
from typing import Any

from radet.analysis import EMBEDDING, Analysis, LayerRow, SweepRow
from radet.labels import named
from radet.separation import ALL, LEAST, Separation
from radet.shift_bound import RANGE

Row = dict[str, Any]

_NAMES = {
    "drp": "the learned probe",
    "gaussian": "gaussian noise",
    "blur": "blurring against sharpening",
    "minder": "the smaller of noise and blur",
    "haar": "removing the finest details",
}
_ECHO = 0.02  # AUROC: a control this near to the learned probe's explains it


def tables(analysis: Analysis) -> dict[str, list[Row]]:
    """Flat rows by table, for CSV and JSON; a number that does not exist is None."""
    controls = (analysis.controls or {}).items()
    found: dict[str, list[Row]] = {
        "layers": [_flat(row) for row in analysis.layers],
        "sweep": [_flat(row) for row in analysis.sweep],
        "generators": [_separation(row) for row in analysis.separations],
        "sources": [row._asdict() for row in analysis.sources],
        "controls": [{"control": name, **control._asdict()} for name, control in controls],
        "divergences": [
            {**{k: v for k, v in row._asdict().items() if k != "found"}, **row.found._asdict()}
            for row in analysis.divergences
        ],
        "bound": [
            {
                "estimator": estimator,
                "rms": row.rms,
                "energy_gap": row.energy_gap.value,
                "energy_gap_low": row.energy_gap.low,
                "energy_gap_high": row.energy_gap.high,
                "first_order": row.first_order,
                "divergence": row.divergence,
                "penalty": row.penalty,
                "bound": row.bound,
                "penalty_seen": row.penalty_seen,
                "bound_seen": row.bound_seen,
                "largest_range": row.largest_range,
                "informative": row.informative,
                "measured": row.measured.value,
                "measured_low": row.measured.low,
                "measured_high": row.measured.high,
            }
            for estimator, rows in analysis.bound.items()
            for row in rows
        ],
    }
    return {name: [{key: _finite(value) for key, value in row.items()} for row in rows] for name, rows in found.items()}


def to_dict(analysis: Analysis) -> dict[str, Any]:
    """analysis.json: what was analysed, every table, and the sentences. docs/analysis.md says what the fields mean."""
    names = ("model", "model_id", "probe", "own_strength", "real", "generated", "reference", "separate_reference")
    return {
        "schema_version": 1,
        **{name: getattr(analysis, name) for name in names},
        "explained": analysis.explained,
        "findings": sentences(analysis),
        "tables": tables(analysis),
    }


def sentences(analysis: Analysis) -> list[str]:
    """What was found, in plain words, one paragraph a part of the analysis."""
    parts = (_drift, _generators, _layers, _sweep, _controls, _divergence, _bound)
    return [" ".join(said) for part in parts if (said := list(part(analysis)))]


def _drift(analysis: Analysis) -> Iterator[str]:
    found, own = analysis.separations[0], analysis.layers[0].perturbation
    yield f"Under {_NAMES[own]}{_at(analysis)}, {_which(found)}: AUROC of the drift {_auroc(found)}."
    yield f"The median drift is {found.median_generated:.3g} for generated, {found.median_real:.3g} for real pictures."


def _generators(analysis: Analysis) -> Iterator[str]:
    each = analysis.separations[1:]
    by_sign = {sign: [f for f in each if f.larger == sign] for sign in ("generated", "real", "undecided")}
    yield (
        f"Of {len(each)} generators, {len(by_sign['generated'])} drift more than the real pictures, "
        f"{len(by_sign['real'])} less, and for {len(by_sign['undecided'])} these pictures are too few to tell."
    )
    if by_sign["real"]:
        names = ", ".join(f"{named(f.source)} ({_auroc(f)})" for f in by_sign["real"])
        yield f"The sign is inverted for {names}: a large drift speaks against generation there."


def _layers(analysis: Analysis) -> Iterator[str]:
    for perturbation in dict.fromkeys(row.perturbation for row in analysis.layers):
        rows = [
            row
            for row in analysis.layers
            if (row.perturbation, row.measure, row.found.source) == (perturbation, "cosine", ALL)
        ]
        best = max(rows, key=lambda row: abs(row.found.auroc - 0.5))
        (last,) = (row for row in rows if row.layer == EMBEDDING)
        yield (
            f"By layer, under {_NAMES[perturbation]}, the cosine drift parts the classes most at the {_place(best)}, "
            f"AUROC {_auroc(best.found)}; at the embedding it is {_auroc(last.found)}."
        )
    yield "The best layer was picked on these very pictures, which flatters it."


def _place(row: LayerRow) -> str:
    return "embedding" if row.layer == EMBEDDING else f"token of {row.layer}"


def _sweep(analysis: Analysis) -> Iterator[str]:
    for perturbation in dict.fromkeys(row.perturbation for row in analysis.sweep):
        rows = [row for row in analysis.sweep if (row.perturbation, row.found.source) == (perturbation, ALL)]
        signs = {row.found.larger for row in rows} - {"undecided"}
        over = f"From strength {rows[0].strength:.3g} to {rows[-1].strength:.3g} of {_NAMES[perturbation]}"
        if len(signs) == 2:
            yield f"{over} the sign flips: {_signs(rows)}."
        elif signs:
            more = "more" if signs == {"generated"} else "less"
            decided = sum(row.found.larger != "undecided" for row in rows)
            yield (
                f"{over} generated pictures drift {more} than real ones at {decided} of {len(rows)} strengths and the "
                f"sign is never the opposite; {_ends(rows)}."
            )
        else:
            yield f"{over} no strength has a sign that can be told from 0.5; {_ends(rows)}."


def _signs(rows: list[SweepRow]) -> str:
    return ", ".join(
        f"{row.strength:.3g} {'more' if row.found.larger == 'generated' else 'less'} ({row.found.auroc:.2f})"
        for row in rows
        if row.found.larger != "undecided"
    )


def _ends(rows: list[SweepRow]) -> str:
    values = [row.found.auroc for row in rows]
    return f"AUROC lies between {min(values):.2f} and {max(values):.2f}"


def _controls(analysis: Analysis) -> Iterator[str]:
    if analysis.controls is None:
        return
    drift = {name: control.drift for name, control in analysis.controls.items()}
    yield (
        f"Is it the probe? The learned perturbation's drift has AUROC {drift['learned']:.2f}; seeded noise of the same "
        f"norm keeps {drift['random']:.2f}, perturbations of equal norm {drift['equalised']:.2f}, another picture's "
        f"perturbation {drift['swapped']:.2f}; the norm of the perturbation alone, without any encoder, has "
        f"{drift['norm']:.2f}."
    )
    if min(analysis.real, analysis.generated) < LEAST:
        yield "These pictures are too few to tell what explains it."
        return
    lead = abs(drift["learned"] - 0.5)
    if lead < _ECHO:
        yield "There is nothing in this drift that a control could take away."
        return
    echoes = [
        words
        for name, words in (
            ("norm", "the probe's own output norm tells as much as the drift does: the drift may echo its verdict"),
            ("random", "noise of the same norm does as well: it is the strength and not the direction that counts"),
            ("swapped", "another picture's perturbation does as well: it is not this picture's own"),
        )
        if abs(drift[name] - 0.5) >= lead - _ECHO
    ]
    yield (
        "; ".join(echoes).capitalize() + "."
        if echoes
        else "No control reaches the learned probe's drift, so neither its norm nor its strength alone explains it."
    )


def _divergence(analysis: Analysis) -> Iterator[str]:
    at_end = [row for row in analysis.divergences if row.layer == EMBEDDING]
    if not at_end:
        yield "There are too few pictures for a divergence between generated and reference features."
        return
    what = "the reference set" if analysis.separate_reference else "the real pictures"
    for row in (row for row in at_end if row.source == ALL):
        j = row.found
        beyond = "more" if j.value > j.chance else "no more"
        yield (
            f"Features of generated pictures against {what} ({row.estimator}, embedding): {j.value:.2f} nats "
            f"({j.low:.2f} to {j.high:.2f}), {beyond} than the same pictures divided at random give ({j.chance:.2f})."
        )
    scale = [row.found.value for row in at_end if not row.generated and row.estimator == "gaussian"]
    if scale:
        against = "the reference set" if analysis.separate_reference else "the other real pictures"
        yield (
            f"For scale, single collections of real pictures lie {min(scale):.2f} to {max(scale):.2f} nats from "
            f"{against} (gaussian): content alone does that, and a divergence does not tell it from memorization."
        )


def _bound(analysis: Analysis) -> Iterator[str]:
    if not analysis.bound:
        return
    rows = [row for found in analysis.bound.values() for row in found]
    # A divergence that came out as none, of pictures too few for one, has no penalty; nor is a gap there for sure.
    sure = [row for row in rows if row.informative and row.divergence > 0 and row.energy_gap.low > 0]
    best = max(rows, key=lambda row: row.bound)
    if best.bound <= 0:
        yield (
            f"The bound of Theorem 4.3 is vacuous here at every strength: with a range of {RANGE:g} for the shift it "
            f"is {best.bound:.3g} at best, below zero, so it promises nothing."
        )
    elif not sure:
        yield (
            "The bound of Theorem 4.3 promises nothing here: it is above zero only where the divergence was measured "
            "as none, or where the Jacobian energies may as well be equal."
        )
    else:
        yield f"The bound of Theorem 4.3 is positive at {len(sure)} of {len(rows)} strengths and estimators."
    first = rows[0]
    yield (
        f"At {first.rms * 255:.0f}/255 root mean square the Jacobians predict a gap of {first.first_order:.2g} and "
        f"{first.measured.value:.2g} ({first.measured.low:.2g} to {first.measured.high:.2g}) is measured."
    )
    gap = first.energy_gap
    if gap.low <= 0 <= gap.high:
        yield "Whether generated or real pictures have the larger Jacobian energy cannot be told from so few."
    else:
        more = "larger" if gap.value > 0 else "smaller"
        yield f"Generated pictures have the {more} Jacobian energy, as a mean."


def _which(found: Separation) -> str:
    return {
        "generated": "generated pictures drift more than real ones",
        "real": "generated pictures drift less than real ones: the sign is inverted",
        "undecided": "generated and real pictures cannot be told apart by how much they drift",
    }[found.larger]


def _at(analysis: Analysis) -> str:
    return "" if analysis.own_strength is None else f" at its strength {analysis.own_strength:.3g}"


def _auroc(found: Separation) -> str:
    return f"{found.auroc:.2f} ({found.low:.2f} to {found.high:.2f})"


def _separation(found: Separation) -> Row:
    return {**found._asdict(), "larger": found.larger}


def _flat(row: LayerRow | SweepRow) -> Row:
    return {**{key: value for key, value in row._asdict().items() if key != "found"}, **_separation(row.found)}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
