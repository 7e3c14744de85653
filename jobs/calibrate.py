"""`radet calibrate`: a checkpoint and your own labelled pictures in, the checkpoint with your thresholds out."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jobs.options import Address, AllowHttp, Data, Model, NewCheckpoint, Workers
from jobs.stop import Stop
from radet.config import DetectorConfig


def calibrate(
    data: Data,
    out: NewCheckpoint,
    model: Model = "radet-lite",
    fpr: Annotated[
        list[float] | None,
        typer.Option(
            help="A false-positive rate to give a threshold for; may be repeated. Verdicts keep the largest. Default: "
            "0.01, 0.03 and 0.05."
        ),
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            help="Keep the rates after these degradations too, such as resize,jpeg: see radet evaluate --help."
        ),
    ] = "clean",
    evaluation: Annotated[
        str | None, typer.Option(help="The OUT of an evaluation of DATA: what it has scored is not scored again.")
    ] = None,
    address: Address = None,
    workers: Workers = None,
    allow_http: AllowHttp = False,
) -> None:
    """Fit probability, thresholds and verdicts on your own pictures.

    A stated false-positive rate holds for photographs like those it was measured on. Give some hundreds of your own,
    and pictures of generators that you expect; the detector and the order of its scores stay as they are. Pictures
    that were made smaller or sent on may score higher than their originals: with --suite, thresholds are high enough
    for such copies of your pictures too.

    [bold]Example[/bold]

      radet calibrate ours/ --fpr 0.01 --fpr 0.001 --suite resize,jpeg,social --out checkpoints/lite-ours

      radet score photos/ --model checkpoints/lite-ours --out scores/
    """
    from jobs.score_screen import ScoreScreen
    from pipelines.calibrate import CalibrateJob
    from pipelines.calibrate import calibrate as run
    from pipelines.items import display
    from radet.calibration import RATES

    screen = ScoreScreen(Console(stderr=True, highlight=False, markup=False), what=f"the pictures of {display(data)}")
    job = CalibrateJob(
        data=data,
        model=model,
        out=out,
        rates=tuple(fpr or RATES),
        suites=suite,
        evaluation=evaluation,
        address=address,
        workers=workers,
        allow_http=allow_http,
    )
    try:
        config = run(job, screen)
    except KeyboardInterrupt:
        raise Stop("stopped before the checkpoint was written: run the same command again", 1) from None
    finally:
        screen.close()
    show_calibration(Console(highlight=False, markup=False), config, out)


def show_calibration(console: Console, config: DetectorConfig, out: str) -> None:
    """What the new thresholds do, as a table."""
    worst = ["worst degraded"] if config.thresholds[0].degraded else []
    table = Table("target FPR", "threshold", "achieved", "95 % interval", "finds", *worst)
    for threshold in config.thresholds:
        low, high = threshold.interval
        table.add_row(
            f"{100 * threshold.target_fpr:g}%",
            f"{threshold.value:.4f}",
            f"{threshold.achieved_fpr:.2%}",
            f"{low:.2%} to {high:.2%}",
            f"{threshold.tpr:.1%}",
            *(f"{one.fpr:.2%} ({one.condition})" for one in sorted(threshold.degraded, key=lambda one: -one.fpr)[:1]),
        )
    console.print(table)
    count = config.thresholds[0].images
    if below := [f"{100 * one.target_fpr:g}%" for one in config.thresholds if one.target_fpr * count < 1]:
        console.print(
            f"{count:,} real pictures are too few to measure {', '.join(below)}: such a threshold lies above all of "
            "them, and promises no more",
            style="yellow",
            soft_wrap=True,
        )
    assert config.calibration is not None
    assert config.verdict is not None
    real, generated = config.verdict.real_below, config.verdict.generated_above
    console.print(f"Verdict: generated above {generated:.4f}, real below {real:.4f}, uncertain between", soft_wrap=True)
    before, after = config.calibration.ece_before, config.calibration.ece_after
    console.print(f"Expected calibration error {before:.3f} before, {after:.3f} after")
    console.print(f"Checkpoint: {out}", soft_wrap=True)
