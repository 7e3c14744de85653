"""`radet analyze`: what a detector's evidence is made of."""

from typing import Annotated

import typer
from rich.console import Console

from jobs.bar import Bar
from jobs.options import Data, Device, Model
from jobs.stop import Stop

_BROKEN_SHOWN = 20


def analyze(
    data: Data,
    out: Annotated[str, typer.Option(help="Where the findings go: a folder or s3://bucket/prefix.")],
    model: Model = "radet-lite",
    reference: Annotated[
        str | None,
        typer.Option(
            help="Pictures that the generated ones are compared with, best what their generators learned from; "
            "labels are not needed. Default: the real pictures of DATA."
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=4, help="Analyse at most so many pictures: half of each class, sources in turn.")
    ] = 400,
    device: Device = "cpu",
) -> None:
    """Ask where a detector's evidence comes from, and whether it holds.

    * Layers and strengths: which block of the encoder separates the classes, and do generated pictures go on drifting
    more (or less) as the perturbation grows? Of each generator too: one may drift more and another less.

    * Controls: does the learned probe measure the picture, or write its own verdict into the drift?

    * Divergence: how far do features of generated pictures lie from a reference set's, layer by layer, beside the
    paper's Theorem 4.3 in numbers?

    OUT gets index.html (start there), analysis.json, a CSV file for each table, and each plot as PNG and SVG.
    docs/analysis.md says what every number means. A picture costs about 50 passes of the encoder, where a score costs
    two; a divergence needs 24 pictures of a source, and twice as many say more.

    [bold]Examples[/bold]

      radet analyze corpus/val --out findings/

      radet analyze labelled.csv --reference s3://bucket/training-set --model checkpoints/clip --out findings/
    """
    from pipelines.analyze import AnalyzeJob
    from pipelines.analyze import analyze as run

    job = AnalyzeJob(data=data, model=model, out=out, reference=reference, limit=limit, device=device)
    try:
        with Bar(Console(stderr=True, highlight=False, markup=False)) as bar:
            found = run(job, bar.show)
    except KeyboardInterrupt:
        raise Stop("stopped before the findings were written: run the same command again", 1) from None
    console = Console(highlight=False, markup=False)
    if found.broken:
        console.print(f"{len(found.broken)} pictures could not be read and were left out:")
        for location, error in sorted(found.broken.items())[:_BROKEN_SHOWN]:
            console.print(f"  {location}: {error}", soft_wrap=True)
    for sentence in found.findings:
        console.print(f"* {sentence}", soft_wrap=True)
    console.print(f"Page, tables and plots: {out}", soft_wrap=True)
