"""The `radet` command."""

import inspect
import io
import re
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
from jobs.score import score
from jobs.serve import serve
from jobs.stop import Stop
from jobs.submit import jobs, submit
from jobs.train import train
from radet.errors import RadetError
from radet.software import software

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Detect AI-generated images by how much a frozen encoder's view of them drifts when they are perturbed.\n\n"
    "Begin with [bold]radet score photos/ --out scores/[/bold], where photos/ is a folder of pictures. "
    "[bold]radet COMMAND --help[/bold] has examples.",
)
_console = Console(stderr=True, highlight=False, markup=False)


def _say_versions(asked: bool) -> None:
    if asked:
        typer.echo("\n".join(f"{name} {release}" for name, release in software().items()))
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_say_versions,
            is_eager=True,
            help="Print the versions of radet and of what it computes with.",
        ),
    ] = False,
) -> None:
    pass


app.command()(score)
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


def _flowing(text: str) -> str:
    """A docstring whose paragraphs flow: typer keeps their line breaks, which are ragged in a narrower terminal."""
    return re.sub(r"(?<!\n)\n +(?=\S)|(?<!\n)\n(?!\n)", " ", inspect.cleandoc(text))


for _group in (app, models, jobs):
    for _command in _group.registered_commands:
        assert _command.callback is not None
        _command.help = _flowing(_command.callback.__doc__ or "")


def main() -> None:
    """Entry point: errors raised on purpose are one line, everything else is a traceback."""
    for stream in (sys.stdout, sys.stderr):  # names of files are not always what a terminal can show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except Stop as stop:
        _console.print(f"radet: {stop}", style="yellow", soft_wrap=True)
        sys.exit(stop.code)
    except RadetError as error:
        _console.print(f"radet: {error}", style="red", soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
