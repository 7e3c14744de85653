"""The model card of a trained checkpoint: what it was made from, what it measured, what it cannot do."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from radet.config import DetectorConfig
from radet.metrics import auroc, average_precision, bootstrap, tpr_at
from radet.recipe import Recipe

if TYPE_CHECKING:
    from radet.finish import Provenance


def write_card(
    folder: Path,
    config: DetectorConfig,
    recipe: Recipe,
    provenance: "Provenance",
    logits: NDArray[np.float64],
    label: NDArray[np.bool_],
    sources: Sequence[str],
) -> None:
    """Write README.md. `logits`, `label` and `sources` are of the validation pictures."""
    calibration, verdict = config.calibration, config.verdict
    assert calibration is not None
    assert verdict is not None
    low, high = bootstrap(auroc, logits, label)
    lines = [
        f"# {config.name}",
        "",
        config.description or "A RA-Det detector trained by radet.",
        "",
        f"* encoder: {config.encoder.family} `{config.encoder.name}`, weights `{config.encoder.weights}`, frozen",
        f"* probe: `{config.probe.kind}`" + (f", eps {config.probe.eps * 255:g}/255" * (config.probe.kind == "drp")),
        f"* branches: {', '.join(recipe.branches)}; layers {', '.join(map(str, recipe.layers))}",
        f"* training data: {provenance.training}",
        f"* validation data: {provenance.validation}",
        f"* pictures that could not be read: {provenance.broken}",
        f"* made by: `{provenance.command}`",
        "",
        "## Measured on the validation data",
        "",
        "These pictures chose the epoch, the calibration and the thresholds, so the figures flatter the detector; "
        "sources in training and validation are disjoint only if you made them so.",
        "",
        f"AUROC {auroc(logits, label):.3f} (95 % interval {low:.3f} to {high:.3f}), "
        f"AP {average_precision(logits, label):.3f}, TPR {tpr_at(logits, label, 0.01):.2f} at 1 % and "
        f"{tpr_at(logits, label, 0.05):.2f} at 5 % false positives, of {int((~label).sum())} real and "
        f"{int(label.sum())} generated pictures.",
        "",
        "| generator | pictures | AUROC against all real | TPR at 5 % FPR |",
        "|---|---|---|---|",
        *_by_generator(logits, label, np.asarray(sources)),
        "",
        "## Calibration and thresholds",
        "",
        f"Platt scaling at even odds; expected calibration error {calibration.ece_before:.3f} before, "
        f"{calibration.ece_after:.3f} after.",
        "",
        "| target FPR | threshold on p_generated | achieved (95 % interval) | TPR |",
        "|---|---|---|---|",
        *(
            f"| {t.target_fpr:.0%} | {t.value:.3f} | {t.achieved_fpr:.2%} ({t.interval[0]:.2%} to {t.interval[1]:.2%}) "
            f"| {t.tpr:.2f} |"
            for t in config.thresholds
        ),
        "",
        f"Verdict: `generated` above {verdict.generated_above:.3f}, `real` below {verdict.real_below:.3f}, "
        "`uncertain` between.",
        "",
        "## Limits",
        "",
        "A score says how a picture was made, as far as this detector can see it, and proves nothing. Generators, "
        "cameras and edits unlike the training data may score anything; so may screenshots, art, heavy compression and "
        "very small pictures. Do not use it alone to accuse anyone.",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _by_generator(logits: NDArray[np.float64], label: NDArray[np.bool_], sources: NDArray[np.str_]) -> list[str]:
    rows = []
    for source in sorted(set(sources[label].tolist())):
        chosen = ~label | (sources == source)
        of_it = int((label & (sources == source)).sum())
        area, hits = auroc(logits[chosen], label[chosen]), tpr_at(logits[chosen], label[chosen], 0.05)
        rows.append(f"| {source or '(unnamed)'} | {of_it} | {area:.3f} | {hits:.2f} |")
    return rows
