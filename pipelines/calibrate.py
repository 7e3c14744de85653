"""Calibration of a finished checkpoint on other pictures: the same evidence, another probability, other thresholds.

A false-positive rate holds for photographs like those it was measured on; this measures it on yours.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.evaluate import scores_of
from pipelines.evaluation_inputs import input_id, manifest_of
from pipelines.items import display
from pipelines.labelled import list_labelled
from pipelines.new_folder import new_checkpoint, whole
from pipelines.s3 import greet
from pipelines.score import ScoreJob, Watcher, score
from pipelines.sink import read_scores
from pipelines.storage import open_folder
from pipelines.weights import find_encoders, local_model
from radet.calibration import RATES, fit_platt, fit_thresholds, fit_verdict, probability, require_enough
from radet.config import DetectorConfig, resolve
from radet.degradations import CLEAN, conditions
from radet.errors import ConfigError
from radet.thresholds import ThresholdConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateJob:
    """Which checkpoint, on which labelled pictures, and the folder of the new one (pipelines.new_folder).

    `rates`       false-positive rates; the verdict "generated" keeps the largest
    `suites`      as an evaluation's: conditions under which the rates are to be kept too
    `evaluation`  the OUT of an evaluation, whose scores are used where it has them and added to where not
    """

    data: str
    model: str
    out: str
    rates: tuple[float, ...] = RATES
    suites: str = CLEAN
    evaluation: str | None = None
    address: str | None = None
    workers: int | None = None
    allow_http: bool = False


def calibrate(job: CalibrateJob, watcher: Watcher) -> DetectorConfig:
    """Score, fit, write the new checkpoint; returns its config.

    Raises ConfigError for rates outside (0, 1), an unknown condition, a folder that is not new, or fewer than 20
    pictures of a class that can be scored under one; ModelError.
    """
    if not job.rates or not all(0 < rate < 1 for rate in job.rates):
        raise ConfigError("rates are shares between 0 and 1, such as 0.01")
    greet(job.model, job.data)
    folder = resolve(local_model(job.model))
    chosen = conditions(job.suites)
    config = DetectorConfig.read(folder)
    out = new_checkpoint(job.out)
    labelled = list_labelled(job.data)
    made_N = labelled.generated
    require_enough(display(job.data), int((~made_N).sum()), int(made_N.sum()))
    with tempfile.TemporaryDirectory(prefix="radet-calibrate-") as scratch:
        open_folder(scratch).write("inputs.jsonl", manifest_of(labelled, chosen))
        scored = ScoreJob(
            src=f"{scratch}/inputs.jsonl",
            out=scores_of(job.evaluation or scratch, config.name),
            model=job.model,
            ids="id",
            address=job.address,
            workers=job.workers,
            allow_http=job.allow_http,
        )
        manifest = score(scored, watcher)
        table = read_scores(scored.out, columns=["id", "error", "logit", "model_id"])
        table = table.filter(pc.equal(table["model_id"], manifest["model_id"]))
        logit_CN, failed = _logits(table, labelled.locations, chosen)
    read_CN = np.isfinite(logit_CN)
    real, made = (int((read_CN & of_it).sum(1).min()) for of_it in (~made_N, made_N))
    which = " that can be scored" + ("" if len(chosen) == 1 else " under every condition")
    require_enough(display(job.data), real, made, which + failed)
    logit_CN, label_N = logit_CN[:, read_CN[0]], made_N[read_CN[0]]
    fitted_on = display(f"{job.data}: {labelled.summary()}")
    calibration = fit_platt(logit_CN[0], label_N, fitted_on, before=config.calibration)
    p_N, *others = probability(logit_CN, calibration)
    degraded = dict(zip(chosen[1:], others, strict=True))
    fitted = replace(
        config,
        calibration=calibration,
        thresholds=fit_thresholds(p_N, label_N, job.rates, degraded),
        verdict=fit_verdict(p_N, label_N, fpr=max(job.rates), degraded=degraded),
    )
    _publish(folder, out, fitted)
    return fitted


def _logits(table: pa.Table, locations: list[str], chosen: list[str]) -> tuple[NDArray[np.float64], str]:
    """The logits of these pictures under each condition, [C, N], nan where there is none; and why, of the first."""
    known = {row["id"]: row for row in table.to_pylist()}
    rows = [[known.get(input_id(place, condition), {}) for place in locations] for condition in chosen]
    failed = (f" (not {row['id']}: {row['error']})" for of_it in rows for row in of_it if row.get("error"))
    return np.array([[row.get("logit") for row in of_it] for of_it in rows], float), next(failed, "")


def _publish(folder: Path, out: Path, config: DetectorConfig) -> None:
    """The checkpoint with another config and, since probabilities changed, other golden scores."""
    from radet.detector import Detector  # noqa: PLC0415 - torch, which drivers do without until here
    from radet.selftest import write_golden  # noqa: PLC0415

    find_encoders()
    detector = Detector.from_pretrained(folder)
    detector.config = config
    with whole(out) as made:
        detector.save_pretrained(made)
        write_golden(Detector.from_pretrained(made, precision="fp32"), made)
        (made / "README.md").write_text(_card(folder, config), encoding="utf-8")


def _card(folder: Path, config: DetectorConfig) -> str:
    """The card of the checkpoint that this one was made from, with a section on the new calibration."""
    from radet.card import threshold_lines  # noqa: PLC0415 - torch, as above

    before = folder / "README.md"
    text = before.read_text(encoding="utf-8") if before.is_file() else f"# {config.name}\n"
    assert config.calibration is not None
    lines = [
        text.rstrip(),
        "",
        "## Calibrated anew",
        "",
        f"On {config.calibration.fitted_on}. What is said of calibration and thresholds above held before.",
        "",
        *threshold_lines(config),
        *_under_conditions(config.thresholds),
        "",
    ]
    return "\n".join(lines)


def _under_conditions(thresholds: tuple[ThresholdConfig, ...]) -> list[str]:
    """What the thresholds make of degraded pictures, as a table; nothing where nobody asked for any."""
    if not thresholds[0].degraded:
        return []
    return [
        "",
        "The rates are kept on degraded copies of these pictures too, so as they are it is less than the target:",
        "",
        "| condition | " + " | ".join(f"FPR at {100 * t.target_fpr:g}% | TPR" for t in thresholds) + " |",
        "|---|" + "---|---|" * len(thresholds),
        *(
            f"| {rates[0].condition} | " + " | ".join(f"{one.fpr:.1%} | {one.tpr:.2f}" for one in rates) + " |"
            for rates in zip(*(t.degraded for t in thresholds), strict=True)
        ),
    ]
