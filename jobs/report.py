"""`radet report`: a scoring run as a page."""

from typing import Annotated

import typer
from rich.console import Console


def report(
    out: Annotated[str, typer.Argument(metavar="OUT", help="What radet score wrote: a folder or s3://bucket/prefix.")],
    to: Annotated[str | None, typer.Option(help="The page's folder; default: OUT itself.")] = None,
    allow_http: Annotated[
        bool, typer.Option("--allow-http", help="Read http(s) uris for thumbnails, from public addresses only.")
    ] = False,
) -> None:
    """Draw a scoring run as one HTML page: totals, scores, verdicts, errors, duplicates, and the pictures most likely
    generated.

    [bold]Example[/bold]

      radet score photos/ --out scores/;  radet report scores/
    """
    from pipelines.run_report import run_page
    from pipelines.storage import open_folder

    target = to or out
    open_folder(target).write("report.html", run_page(out, allow_http=allow_http).encode())
    Console(highlight=False, markup=False).print(f"Report: {target.rstrip('/')}/report.html", soft_wrap=True)
