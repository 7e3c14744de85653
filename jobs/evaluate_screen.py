"""What an evaluation shows on a terminal."""

from rich.console import Console
from rich.table import Table

from jobs.score_screen import ScoreScreen
from pipelines.evaluate import EvaluateWatcher, Evaluation
from pipelines.labelled import Labelled
from radet.degradations import CLEAN


class EvaluateScreen(EvaluateWatcher):
    """Which detector is at work, and how far its run is."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._total = 0
        self._screen: ScoreScreen | None = None

    def opened(self, labelled: Labelled, conditions: list[str], detectors: list[str]) -> None:
        self._total = len(detectors)
        parts = [
            f"{len(of)} {word}{'s' * (len(of) != 1)}"
            for of, word in ((detectors, "detector"), (conditions, "condition"))
        ]
        self._console.print(f"{labelled.summary()}; {', '.join(parts)}", soft_wrap=True)

    def detector(self, number: int, name: str) -> ScoreScreen:
        self.close()
        self._console.rule(f"{number + 1} of {self._total}: {name}", align="left")
        self._screen = ScoreScreen(self._console)
        return self._screen

    def close(self) -> None:
        if self._screen is not None:
            self._screen.close()


def show_evaluation(console: Console, found: Evaluation, out: str) -> None:
    """The table at the end."""
    table = Table(title="pictures as they are", title_justify="left")
    table.add_column("detector")
    for name in ("AUROC", "95 %", "TPR@1%", "TPR@5%", "accuracy", "FPR"):
        table.add_column(name, justify="right", min_width=len("0.751-0.810") if name == "95 %" else None)
    for contender in found.contenders:
        row = found.row(contender.name, CLEAN) or {}
        low, high = row.get("intervals", {}).get("auroc", (None, None))
        cells = ["-", "-"] if low is None else [f"{row['auroc']:.3f}", f"{low:.3f}-{high:.3f}"]
        cells += [f"{row[name]:.1%}" if name in row else "-" for name in ("tpr_at_1", "tpr_at_5", "accuracy", "fpr")]
        table.add_row(contender.name, *cells)
    console.print(table)
    if found.failures:
        console.print(f"{len(found.failures):,} inputs could not be scored; the report lists them")
    console.print(f"Report: {out.rstrip('/')}/report.html", soft_wrap=True)
