"""`radet score`."""

import shlex
from typing import Annotated

import typer
from rich.console import Console

from jobs.options import Address, AllowHttp, BatchSize, Model, Workers
from jobs.stop import SCORES_ARE_KEPT, Stop
from radet.errors import RadetError


def score(
    src: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC",
            help="A folder, s3://bucket/prefix, Parquet files, WebDataset tars, a .csv, .tsv or .jsonl manifest, or an "
            "image; several are read one after another.",
        ),
    ],
    out: Annotated[str, typer.Option(help="Where the scores go: a folder or s3://bucket/prefix.")],
    model: Model = "radet-lite",
    address: Address = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Score at most so many inputs: new, changed and, up to half, those that an earlier run failed at. Web "
            "pages that have a score are then not read again.",
        ),
    ] = None,
    ids: Annotated[str | None, typer.Option(help="The column (or JSON field) with your own id for each image.")] = None,
    column: Annotated[
        str | None, typer.Option(help="The column with the image bytes or uris, where the name does not tell.")
    ] = None,
    workers: Workers = None,
    batch_size: BatchSize = None,
    allow_http: AllowHttp = False,
    rescore: Annotated[bool, typer.Option("--rescore", help="Score everything again, changed or not.")] = False,
    max_failed: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="End with exit code 3 if a larger share of what this run has read has no score. A run that finds "
            "nothing new is judged with the one before it: sending it again does not hide that.",
        ),
    ] = None,
) -> None:
    """Score every new or changed image of SRC and commit the scores as Parquet.

    Stop it, or let it crash, whenever: the same command goes on where it ended. Run it again on a grown corpus and only
    what is new or changed is scored. A broken image is a row with a status, never a failed run.

    [bold]Examples[/bold]

      radet score photos/ --out scores/

      radet score s3://bucket/images --out s3://bucket/scores --address auto

      radet score urls.csv --ids post_id --allow-http --out scores/

    [bold]Exit codes[/bold]: 0 every input has a row; 1 not yet, run the same command again; 2 the request cannot work;
    3 every input has a row, and too many say that there is no score (--max-failed).
    """
    from jobs.score_screen import ScoreScreen, show_nights, show_score
    from pipelines.commit import IncompleteError
    from pipelines.compare import compare_nights
    from pipelines.score import ScoreJob
    from pipelines.score import score as run
    from pipelines.unscored import unscored

    screen = ScoreScreen(Console(stderr=True, highlight=False, markup=False))
    job = ScoreJob(
        src=tuple(src),
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
        raise Stop(str(error), 1) from error
    except KeyboardInterrupt:
        raise Stop(SCORES_ARE_KEPT, 1) from None
    finally:
        screen.close()
    console = Console(highlight=False, markup=False)
    show_score(console, manifest, out)
    try:
        show_nights(console, compare_nights(out, manifest), out)
    except (RadetError, OSError, ValueError) as error:  # it is beside the point: this run is committed
        console.print(f"Against the run before: cannot be told, {error}", soft_wrap=True)
    if max_failed is None:
        return
    found = unscored(out, manifest)
    if found.failed > max_failed * found.inputs:
        raise Stop(
            f"{found.failed:,} of {found.inputs:,} inputs have no score ({found.failed / found.inputs:.1%}), more than "
            f"--max-failed {max_failed:.1%}; they are committed, and `radet report {shlex.quote(out)}` lists them",
            3,
        )
