"""`radet drift`: have scores shifted between two scoring runs?"""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

_WIDTH = 80  # columns that the table needs: in a narrower terminal its lines run on, and say what they say


def drift(
    earlier: Annotated[str, typer.Argument(metavar="A", help="The reference: an output, or OUT/_runs/RUN.json.")],
    later: Annotated[str, typer.Argument(metavar="B", help="What is compared with it.")],
) -> None:
    """Compare the scores of two outputs, or of two nights of one.

    PSI below 0.1: nothing happened; above 0.25 (and no accident of few pictures): look at the pictures, or at what
    delivers them. It does not say which of them changed, nor that any score is wrong.

    [bold]Examples[/bold]

      radet drift scores-may/ scores-june/

      radet drift scores/_runs/20261120T020000123456Z-a1b2c3.json scores/_runs/20261121T020000654321Z-d4e5f6.json

    [bold]Exit codes[/bold]: 0 no notable shift; 1 a notable one; 2 the request cannot work.
    """
    from pipelines.compare import LEAST, compare

    found = compare(earlier, later)
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, _WIDTH)
    before, after = found.shifts[0].earlier, found.shifts[0].later
    told = f"{found.rows[0]:,} rows with {before:,} scores, then {found.rows[1]:,} with {after:,}"
    console.print(f"model {found.model_id}: {told}", soft_wrap=True)
    table = Table()
    for word in ("value", "median", "PSI", "KS", "by chance", ""):
        table.add_column(word, no_wrap=word != "median")
    for shift in found.shifts:
        table.add_row(
            shift.value,
            f"{shift.median_earlier:.3g} -> {shift.median_later:.3g}",
            f"{shift.psi:.3f}",
            f"{shift.ks:.3f}",
            f"{shift.chance:.2g}",
            "shifted" if shift.notable else "",
        )
    console.print(table)
    for word, shares in (("verdicts", found.verdicts), ("statuses", found.statuses)):
        told = ", ".join(f"{name} {a:.1%} -> {b:.1%}" for name, (a, b) in shares.items())
        console.print(f"{word}: {told or 'none'}", soft_wrap=True)
    few = min(before, after) < LEAST
    if found.notable:
        console.print("A notable shift: look at the pictures, or at what delivers them.", soft_wrap=True)
    else:
        console.print(f"No notable shift{' that so few scores could show' * few}.", soft_wrap=True)
    if few:
        told = f"Below {LEAST} scores a PSI is large by accident, even where nothing has changed: read `by chance`."
        console.print(told, soft_wrap=True)
    if found.notable:
        raise typer.Exit(1)
