"""The `radet` command."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from jobs.analyze import analyze
from jobs.calibrate import calibrate
from jobs.drift import drift
from jobs.evaluate import evaluate
from jobs.explain import explain
from jobs.models import models
from jobs.report import report
from jobs.serve import serve
from jobs.submit import jobs, submit
from jobs.train import train
from radet.errors import RadetError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Detect AI-generated images by how much a frozen encoder's view of them drifts when they are perturbed.",
)
_console = Console(stderr=True, highlight=False)


app.add_typer(models, name="models")
app.command()(train)
app.command()(evaluate)
app.command()(explain)
app.command()(calibrate)
app.command()(report)
app.command()(analyze)
app.command()(serve)
app.command()(drift)
app.command()(submit)
app.add_typer(jobs, name="jobs")


@app.command()
def score(
    src: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A folder, s3://bucket/prefix, Parquet files, WebDataset tars, a .csv or .jsonl manifest, one image.",
        ),
    ],
    out: Annotated[str, typer.Option(help="Where the scores go: a folder or s3://bucket/prefix.")],
    model: Annotated[
        str, typer.Option(help="A bundled model's name, a checkpoint folder or hf://org/name.")
    ] = "radet-lite",
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster to run on; without it one is started here.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Score at most so many new inputs.")] = None,
    ids: Annotated[str | None, typer.Option(help="The column (or JSON field) with your own id for each image.")] = None,
    column: Annotated[
        str | None, typer.Option(help="The column with the image bytes or uris, where the name does not tell.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Scoring processes; default: one per GPU, else one per CPU core.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per pass of the detector.")] = 32,
    allow_http: Annotated[
        bool, typer.Option("--allow-http", help="Read http(s) uris, from public addresses only.")
    ] = False,
    rescore: Annotated[bool, typer.Option("--rescore", help="Score everything again, changed or not.")] = False,
) -> None:
    """Score every new or changed image of SRC and commit the scores as Parquet.

    Stop it, or let it crash, whenever: the same command goes on where it ended. Run it again on a grown corpus and only
    what is new or changed is scored. A broken image is a row with a status, never a failed run.

    [bold]Examples[/bold]

      radet score photos/ --out scores/

      radet score s3://bucket/images --out s3://bucket/scores --address auto

      radet score urls.csv --ids post_id --allow-http --out scores/

    [bold]Exit codes[/bold]: 0 every input has a row; 1 not yet, run the same command again; 2 the request cannot work.
    """
    from jobs.console import ScoreScreen, show_score
    from pipelines.commit import IncompleteError
    from pipelines.score import ScoreJob
    from pipelines.score import score as run

    screen = ScoreScreen(_console)
    job = ScoreJob(
        src=src,
        out=out,
        model=model,
        address=address,
        limit=limit,
        ids=ids,
        column=column,
        workers=workers,
        batch_size=batch_size,
        allow_http=allow_http,
        rescore=rescore,
    )
    try:
        manifest = run(job, screen)
    except IncompleteError as error:
        raise _Stop(str(error), 1) from error
    except KeyboardInterrupt:
        raise _Stop("stopped: what is scored so far is kept, run the same command again to go on", 1) from None
    finally:
        screen.close()
    show_score(Console(highlight=False), manifest, out)


class _Stop(Exception):  # noqa: N818 - not an error of the program: its end
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def main() -> None:
    """Entry point: errors raised on purpose are one line, everything else is a traceback."""
    try:
        app()
    except _Stop as stop:
        _console.print(f"radet: {stop}", style="yellow", soft_wrap=True)
        sys.exit(stop.code)
    except RadetError as error:
        _console.print(f"radet: {error}", style="red", soft_wrap=True, markup=False)
        sys.exit(2)
