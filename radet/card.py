"""The model card of a trained checkpoint: what it was made from, what it measured, what it cannot do."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from radet.config import DetectorConfig
from radet.controls import Control
from radet.labels import named
from radet.loop import Run
from radet.ranking import Ranking
from radet.recipe import Recipe

if TYPE_CHECKING:
    from radet.finish import Provenance


def write_card(
    folder: Path,
    config: DetectorConfig,
    run: Run,
    provenance: "Provenance",
    logits: NDArray[np.float64],
    label: NDArray[np.bool_],
    sources: Sequence[str],
) -> None:
    """Write README.md of a run's best epoch.

    `logits`, `label` (True is generated) and `sources` are of the N validation pictures that could be read.
    """
    lines = [
        f"# {config.name}",
        "",
        config.description or "A RA-Det detector trained by radet.",
        "",
        *_made_from(config, run.recipe, provenance),
        "",
        *_measured(run, logits, label, np.asarray(sources)),
        "",
        *_calibration(config),
        "",
        *(_controls(provenance.controls) if provenance.controls else []),
        *_attribution(config),
        "## Limits",
        "",
        "A score says how a picture was made, as far as this detector can see it, and proves nothing. Generators, "
        "cameras and edits unlike the training data may score anything; so may screenshots, art, heavy compression and "
        "very small pictures. Do not use it alone to accuse anyone.",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def threshold_lines(config: DetectorConfig) -> list[str]:
    """A calibrated checkpoint's thresholds as a table, and where its verdicts change."""
    assert config.verdict is not None
    return [
        "| target FPR | threshold on p_generated | achieved (95 % interval) | TPR |",
        "|---|---|---|---|",
        *(
            f"| {100 * t.target_fpr:g}% | {t.value:.3f} | {t.achieved_fpr:.2%} "
            f"({t.interval[0]:.2%} to {t.interval[1]:.2%}) | {t.tpr:.2f} |"
            for t in config.thresholds
        ),
        "",
        f"Verdict: `generated` above {config.verdict.generated_above:.3f}, `real` below "
        f"{config.verdict.real_below:.3f}, `uncertain` between.",
    ]


_ROUNDED = [
    "* rounding: the tower's matrices are rounded to 8 bits a channel (w -> s round(w / s), s = max|w| / 127) whenever "
    "it is loaded, so that a published tower and a copy that was stored in 8 bits give the same scores. Where another "
    "library breaks a tie the other way, the golden scores decide (1e-3) and the model id differs"
]


def _made_from(config: DetectorConfig, recipe: Recipe, provenance: "Provenance") -> list[str]:
    encoder, probe = config.encoder, config.probe
    return [
        f"* encoder: {encoder.family} `{encoder.name}`, weights `{encoder.weights}`, frozen",
        *(_ROUNDED if encoder.rounding == "int8" else []),
        f"* probe: `{probe.kind}`" + (f", eps {probe.eps * 255:g}/255" if probe.kind == "drp" else ""),
        f"* branches: {', '.join(recipe.branches)}; layers {', '.join(map(str, recipe.layers))}",
        f"* training data: {provenance.training}",
        f"* validation data: {provenance.validation}",
        f"* pictures that could not be read: {provenance.broken}",
        f"* made by: `{provenance.command}`",
    ]


def _measured(run: Run, logits: NDArray[np.float64], label: NDArray[np.bool_], sources: NDArray[np.str_]) -> list[str]:
    """The section on how well it ranks the validation pictures: the whole, its branches, and by generator."""
    best = run.progress.history[run.progress.best_epoch]
    ranking = Ranking(logits, label)
    ranked = {name: float(value[0]) for name, value in ranking.figures().items()}
    low, high = ranking.intervals()["auroc"]
    alone = ", ".join(f"{name} {best[f'val_auroc_{name}']:.3f}" for name in run.recipe.branches)
    linear = run.progress.linear_auroc
    return [
        "## Measured on the validation data",
        "",
        "These pictures chose the epoch, how much each branch counts, the calibration and the thresholds, so the "
        "figures flatter the detector; "
        "sources in training and validation are disjoint only if you made them so.",
        "",
        f"AUROC {ranked['auroc']:.3f} (95 % interval {low:.3f} to {high:.3f}), "
        f"AP {ranked['ap']:.3f}, TPR {ranked['tpr_at_1']:.2f} at 1 % and "
        f"{ranked['tpr_at_5']:.2f} at 5 % false positives, of {int((~label).sum())} real and "
        f"{int(label.sum())} generated pictures.",
        "",
        f"Branches alone: {alone}.",
        *([] if linear is None else [f"The linear probe that the semantic branch started from: {linear:.3f}."]),
        "",
        "| generator | pictures | AUROC against all real | TPR at 5 % FPR |",
        "|---|---|---|---|",
        *_by_generator(logits, label, sources),
    ]


def _calibration(config: DetectorConfig) -> list[str]:
    calibration = config.calibration
    assert calibration is not None
    return [
        "## Calibration and thresholds",
        "",
        "The fused logit is calibrated as it is fitted (radet.calibration.fit_fusion), so Platt scaling, at even odds, "
        f"has little to add: expected calibration error {calibration.ece_before:.3f} before, "
        f"{calibration.ece_after:.3f} after.",
        "",
        *threshold_lines(config),
    ]


_TAKEN_AWAY = {
    "learned": "nothing: delta as the probe makes it",
    "random": "its direction: noise of the same norm",
    "equalised": "its strength: every delta scaled to the median norm",
    "swapped": "this picture: the delta made for another one",
    "norm": "the encoder: the norm of delta as the score",
}
_CLEARLY = 0.05


def _controls(controls: Mapping[str, Control]) -> list[str]:
    """The section on where the discrepancy evidence comes from, and what it says in words."""
    learned, random = (controls[name].discrepancy for name in ("learned", "random"))
    norm = max(controls["norm"].drift, 1 - controls["norm"].drift)
    if learned < 0.5 + _CLEARLY:
        words = "The discrepancy branch tells real from generated hardly better than a coin; nothing follows from it."
    elif norm > learned - _CLEARLY:
        words = (
            "The norm of the perturbation says about as much without any encoder: the probe has learned to classify "
            "by itself, and the drift repeats its verdict."
        )
    elif random > learned - _CLEARLY:
        words = "Noise of the same norm does about as well: it is the strength that the probe chooses, not a direction."
    else:
        words = (
            "Less is left when the probe's direction or its strength is taken away: the drift is evidence of its own."
        )
    return [
        "## Is it the probe?",
        "",
        "AUROC on validation pictures when a part of the learned perturbation is taken away (METHOD, the controls).",
        "",
        "| taken away | drift alone | discrepancy branch | fused |",
        "|---|---|---|---|",
        *(
            f"| {_TAKEN_AWAY[name]} | " + " | ".join("" if np.isnan(x) else f"{x:.3f}" for x in control) + " |"
            for name, control in controls.items()
        ),
        "",
        words,
        "",
    ]


def _attribution(config: DetectorConfig) -> list[str]:
    """What is known of the attribution; nothing where there is none."""
    found = None if config.heads is None else config.heads.attribution
    if found is None:
        return []
    return [
        "## Which generator?",
        "",
        f"It names one of {len(found.families)} families: {', '.join(map(named, found.families))}. "
        f"Of {found.held_out} generated training pictures that were kept apart from this part of the training, "
        f"{found.accuracy:.0%} got their own family ({1 / len(found.families):.0%} by guessing) and "
        f'{1 - found.kept:.0%} would be "unknown". Pictures of other generators are often given to a family that '
        "resembles theirs; a name is a hint, no finding.",
        "",
    ]


def _by_generator(logits: NDArray[np.float64], label: NDArray[np.bool_], sources: NDArray[np.str_]) -> list[str]:
    rows = []
    for source in sorted(set(sources[label].tolist())):
        chosen = ~label | (sources == source)
        of_it = int((label & (sources == source)).sum())
        found = Ranking(logits[chosen], label[chosen]).figures()
        rows.append(f"| {named(source)} | {of_it} | {found['auroc'][0]:.3f} | {found['tpr_at_5'][0]:.2f} |")
    return rows
