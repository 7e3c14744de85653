"""`radet evaluate`: labelled pictures and detectors in, tables and a report out."""

from typing import Annotated

import typer
from rich.console import Console

from jobs.options import Address, AllowHttp, BatchSize, Data, Workers
from jobs.stop import SCORES_ARE_KEPT, Stop


def evaluate(
    data: Data,
    out: Annotated[str, typer.Option(help="Where tables and report go: a folder or s3://bucket/prefix.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A detector to evaluate, named as for radet score; repeat it for several. Default: radet-lite."
        ),
    ] = None,
    peers: Annotated[
        list[str] | None,
        typer.Option(
            help="Evaluate published methods too (RIGID, MINDER, contrastive blur, WaRPAD's direction, linear probe), "
            "on this model's encoder; may be repeated."
        ),
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            help="Degradations, with commas between: clean, jpeg, blur, webp, resize, thumbnail, social, noise, or one "
            "strength such as jpeg:60."
        ),
    ] = "clean",
    format_neutral: Annotated[
        bool,
        typer.Option("--format-neutral", help="Everything once more, all pictures resized and saved as JPEG alike."),
    ] = False,
    groups: Annotated[
        str | None,
        typer.Option(
            help="Which real and generated pictures show the same kind of thing, to be told apart among themselves: a "
            "manifest (.csv) with a uri and a pair_group column. Default: those of one folder."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="At most so many pictures, drawn from all.")] = None,
    address: Address = None,
    workers: Workers = None,
    batch_size: BatchSize = None,
    allow_http: AllowHttp = False,
) -> None:
    """Measure detectors on labelled pictures: how good, on which generators, after which degradations, at what rate of
    false positives.

    Scores come from the same pipeline as those of [bold]radet score[/bold], so they are the same scores. Stop it
    whenever: the same command goes on where it ended.

    [bold]Examples[/bold]

      radet evaluate corpus/test --out report/

      radet evaluate corpus/test --model radet-lite --model checkpoints/mine --peers radet-lite --suite jpeg,blur,social
      --format-neutral --out report/

    OUT then holds report.html (open it), metrics.json and tables/*.csv; docs/evaluation.md says how to read them.
    """
    from jobs.evaluate_screen import EvaluateScreen, show_evaluation
    from pipelines.evaluate import EvaluateJob
    from pipelines.evaluate import evaluate as run
    from pipelines.items import display
    from pipelines.report import evaluation_page
    from pipelines.storage import open_folder

    console = Console(stderr=True, highlight=False, markup=False)
    job = EvaluateJob(
        data=data,
        out=out,
        models=tuple(model or ["radet-lite"]),
        peers=tuple(peers or ()),
        suites=suite,
        neutral=format_neutral,
        groups=groups,
        limit=limit,
        address=address,
        workers=workers,
        batch_size=batch_size,
        allow_http=allow_http,
    )
    screen = EvaluateScreen(console)
    try:
        found = run(job, screen)
    except KeyboardInterrupt:
        raise Stop(SCORES_ARE_KEPT, 1) from None
    finally:
        screen.close()
    console.print("Drawing the report ...")
    open_folder(out).write("report.html", evaluation_page(found, display(data), allow_http=allow_http).encode())
    show_evaluation(Console(highlight=False, markup=False), found, out)
    judged = found.row(found.contenders[0].name) or {}
    if lacking := [kind for kind in ("real", "generated") if not judged.get(kind)]:
        raise Stop(f"no {' and no '.join(lacking)} picture could be scored, so nothing is judged: see the report", 1)
