"""What a run shows on a terminal: a progress line while it runs, a table when it ends."""

import shlex
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipelines.coordinator import Progress
from pipelines.items import IMAGE_SUFFIXES
from pipelines.score import Tally, Watcher

if TYPE_CHECKING:
    from pipelines.compare import Nights

_PLAIN_EVERY_S = 10.0  # where the output is a log, not a terminal
_RATE_S, _RATE_POINTS = 60.0, 8  # the rate is that of the last minute, and of so many batches at least
_BUSY = 0.5  # a stage that was busy for less of the time did not hold the others up


class ScoreScreen(Watcher):
    """Progress of a scoring run: rows done, rate, errors by kind, time left."""

    def __init__(self, console: Console, what: str | None = None) -> None:
        """`what` is scored, where that is told otherwise than by the source, such as a list that the command wrote."""
        self._console = console
        self._what = what
        self._live: Live | None = None
        self._points: deque[tuple[float, int]] = deque()  # when so many rows were done
        self._shown = 0.0

    def opened(self, source: str, facts: dict[str, Any]) -> None:
        told = f"Scoring {self._what or source}: {facts['scorers']} scoring, up to {facts['loaders']} loading"
        self._console.print(told, soft_wrap=True)
        if facts["staged"]:
            self._console.print(f"Resuming: {facts['staged']:,} inputs are already scored by an interrupted run")
        if facts["orphans_removed"]:
            self._console.print(f"Removed {facts['orphans_removed']:,} files that no run had committed")
        if self._console.is_terminal:
            self._live = Live(Text("starting ..."), console=self._console, transient=True, refresh_per_second=4)
            self._live.start()

    def moved(self, tally: Tally, progress: Progress) -> None:
        line = self._line(tally, progress)
        if self._live is not None:
            self._live.update(Text(line))
        elif time.monotonic() - self._shown > _PLAIN_EVERY_S:
            self._shown = time.monotonic()
            self._console.print(line, highlight=False, soft_wrap=True)

    def committing(self) -> None:
        self.close()
        self._console.print("Committing ...")

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _line(self, tally: Tally, progress: Progress) -> str:
        todo = progress.counts.new + progress.ahead
        parts = [f"{tally.rows:,} of {todo:,}{'+' if progress.listing else ''} rows"]
        if rate := self._rate(tally.rows):
            parts.append(f"{rate:,.1f}/s")
            if not progress.listing:
                parts.append(f"{_duration((todo - tally.rows) / rate)} left")
        parts += [f"{count:,} {status}" for status, count in sorted(tally.statuses.items()) if status != "ok"]
        return " · ".join(parts)

    def _rate(self, rows: int) -> float:
        """Rows a second of late; 0 until a second batch is there: how long the first took is mostly starting up."""
        now, points = time.monotonic(), self._points
        points.append((now, rows))
        while len(points) > _RATE_POINTS and points[1][0] < now - _RATE_S:
            points.popleft()
        begun, before = points[0]
        return (rows - before) / (now - begun) if now > begun else 0.0


def show_score(console: Console, manifest: dict[str, Any], out: str) -> None:
    """The table at the end of a run."""
    inputs, work = manifest["inputs"], manifest["work"]
    console.print(f"{manifest['rows']:,} rows by {manifest['model']} ({manifest['model_id']})")
    if manifest["rows"]:
        rows = Table("status")
        rows.add_column("rows", justify="right")
        for status, count in manifest["statuses"].items():
            rows.add_row(status, f"{count:,}")
        console.print(rows)
    if manifest["verdicts"]:
        verdicts = ", ".join(f"{count:,} {verdict}" for verdict, count in manifest["verdicts"].items())
        band = manifest["verdict"]
        ends = f"generated above {band['generated_above']:.3f}, real below {band['real_below']:.3f}"
        console.print(f"Verdicts: {verdicts} ({ends})", soft_wrap=True)
        console.print("Most likely generated, by p_generated:")
        for row in manifest["highest"]:
            line = f"  {row['p_generated']:.3f}  {row['verdict']:9}  {_printable(row['uri'])}"
            console.print(line, soft_wrap=True)
    elif manifest["statuses"].get("ok"):
        message = "Verdicts: none, this model is not calibrated: drift and logit are given, a probability is not"
        console.print(message, soft_wrap=True)
    if origins := manifest["digital_source_types"]:
        named = ", ".join(f"{count:,} {code}" for code, count in origins.items())
        console.print(f"Files that tell their origin (digital_source_type, unverified): {named}", soft_wrap=True)
    others = manifest["rows"] + work["same"] - inputs["new"] - inputs["resumed"]
    notes = [
        (inputs["unchanged"], "unchanged since an earlier run"),
        (inputs["resumed"], "taken over from an interrupted run"),
        (others, "from an interrupted run over inputs that this one did not meet"),
        (inputs["repeated"], "listed more than once"),
        (work["joined"], "of the same content as another, scored once"),
        (work["same"], "read again and found to be the same"),
        (sum(inputs["ignored"].values()), f"other files ({', '.join(sorted(inputs['ignored']))})"),
    ]
    for count, note in notes:
        if count > 0:
            console.print(f"{count:,} {note}")
    if beside := sum(count for suffix, count in inputs["ignored"].items() if suffix in IMAGE_SUFFIXES):
        mend = "to have them scored, give them a folder of their own"
        console.print(f"{beside:,} of these are pictures beside {manifest['source']}: {mend}", soft_wrap=True)
    if work["rows"]:
        stages, rate = _stages(manifest)
        console.print(stages)
        console.print(rate, soft_wrap=True)
    console.print(f"Output: {out} (run {manifest['run']})", soft_wrap=True)
    why = ", with why inputs have no score" if set(manifest["statuses"]) - {"ok"} else ""
    console.print(f"As a page{why}: radet report {shlex.quote(out)}", soft_wrap=True)


def show_nights(console: Console, nights: "Nights | None", out: str) -> None:
    """One line on how this run's scores lie against those of the run before; none where there is none."""
    if nights is None:
        return
    shifts, rows = nights.comparison.shifts, nights.comparison.rows
    told = next((shift for shift in shifts if shift.notable), shifts[0])
    judged = "a notable shift: look at the pictures, or at what delivers them" if told.notable else "steady"
    console.print(
        f"Against the run before, {rows[0]:,} then {rows[1]:,} rows: {told.value} PSI {told.psi:.3f}: {judged}",
        soft_wrap=True,
    )
    if told.notable:
        runs = [f"{out.rstrip('/')}/_runs/{run}.json" for run in (nights.earlier, nights.later)]
        console.print(f"  {shlex.join(['radet', 'drift', *runs])}", soft_wrap=True)


def _stages(manifest: dict[str, Any]) -> tuple[Table, str]:
    """Per stage: what one worker does a second, how many work at once, and how busy they were; the run's own rate."""
    work, plan, seconds = manifest["work"], manifest["plan"], manifest["seconds"]
    table = Table()
    for column in ("stage", "images/s per worker", "workers", "busy"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    stages = [
        ("fetch (in parallel)", work["rows"], work["fetch_s"], plan["loaders"] * 16),
        ("decode and crop", work["rows"] - work["joined"] - work["same"], work["decode_s"], plan["loaders"]),
        ("score", work["scored"], work["score_s"], plan["scorers"]),
    ]
    busy = {name: spent / (workers * seconds) for name, _, spent, workers in stages}
    slowest = max(busy, key=lambda name: busy[name])
    whole = f"{work['rows'] / seconds:,.1f} images/s over {_duration(seconds)}"
    if busy[slowest] < _BUSY:
        slowest, whole = "", f"{whole}, most of it spent on starting up or waiting"
    for name, count, spent, workers in stages:
        rate = f"{count / spent:,.1f}" if count and spent else "-"
        mark = "  <- bottleneck" if name == slowest else ""
        table.add_row(name, rate, str(workers), f"{busy[name]:.0%}{mark}")
    return table, whole


def _printable(uri: str) -> str:
    """A name may hold what a terminal would take for a command."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in uri)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
