"""`radet train`: a labelled corpus and a recipe in, a calibrated checkpoint out."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs.options import Address, Data
from jobs.shipped import RECIPES, here_or_shipped
from jobs.spans import span
from jobs.stop import Stop


def train(
    data: Data,
    val: Annotated[str, typer.Option(help="Other pictures of the same form: they choose epoch and thresholds.")],
    config: Annotated[Path, typer.Option(help=f"The recipe: a YAML file, or one of {', '.join(RECIPES)}.")],
    out: Annotated[str, typer.Option(help="The checkpoint: a folder or s3://bucket/prefix.")],
    workers: Annotated[
        str | None,
        typer.Option(
            help="Training processes: a number, or LEAST:MOST to be elastic. Without it one for each core of this "
            "machine (with --gpus each GPU), but no more than a step has micro-batches; on a cluster, one."
        ),
    ] = None,
    gpus: Annotated[bool, typer.Option("--gpus", help="One GPU for each worker.")] = False,
    address: Address = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that OUT holds.")] = False,
) -> None:
    """Train a detector and calibrate it.

    Labels are folder names: 0_real, real or nature; 1_fake, fake or ai; the path above is the generator. ForenSynths,
    AIGCDetectBenchmark and GenImage trees read as they are. A manifest (.csv, .jsonl, .parquet) has a uri column, a
    label column (real/fake, 0/1) and, if you like, a generator column. Pictures that cannot be read are skipped and
    listed at the end. Validate on generators that DATA does not have, or the thresholds will not hold.

    [bold]Examples[/bold]

      radet train corpus/train --val corpus/val --config jobs/train-lite.yaml --out checkpoints/lite

      radet train s3://b/train --val s3://b/val --config clip.yaml --out s3://b/clip --gpus --workers 2:8 --address auto
    """
    from jobs.train_screen import TrainScreen, publish
    from pipelines.train import TrainJob
    from pipelines.train import train as run
    from radet.recipe import Recipe

    job = TrainJob(
        recipe=Recipe.read(here_or_shipped(config, RECIPES)),
        data=data,
        val=val,
        out=out,
        workers=None if workers is None else span("--workers", workers),
        gpus=gpus,
        resume=resume,
        address=address,
    )
    console = Console(stderr=True, highlight=False, markup=False)
    try:
        with TrainScreen(console) as screen:
            run(job, screen, lambda trained: publish(job, trained, screen.events, console))
    except KeyboardInterrupt:
        raise Stop("stopped: finished epochs are kept, run the same command with --resume to go on", 1) from None
