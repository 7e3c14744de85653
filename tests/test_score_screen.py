"""What a run tells while it goes on."""

import io
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from jobs import score_screen
from jobs.score_screen import ScoreScreen, show_nights, show_score
from pipelines.compare import Comparison, Nights, Shift
from pipelines.coordinator import Progress
from pipelines.index import Counts
from pipelines.score import Tally


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`now`, in seconds."""
    found = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(score_screen, "time", SimpleNamespace(monotonic=lambda: found.now))
    return found


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def screen(out: io.StringIO, clock: SimpleNamespace) -> Iterator[ScoreScreen]:
    shown = ScoreScreen(Console(file=out, width=120))
    shown.opened("images", {"scorers": 2, "loaders": 2, "staged": 0, "orphans_removed": 0})
    yield shown
    shown.close()


def progress(*, new: int, ahead: int = 0, listing: bool = False) -> Progress:
    counts = Counts(new=new, unchanged=0, resumed=0, repeated=0)
    return Progress(counts=counts, ahead=ahead, listing=listing, ignored={})


def test_the_rate_is_that_of_late_and_the_start_up_is_none_of_it(
    screen: ScoreScreen, out: io.StringIO, clock: SimpleNamespace
) -> None:
    clock.now += 20  # processes start
    screen.moved(Tally(rows=64, statuses={"ok": 64}), progress(new=6400))
    for batch in range(2, 31):
        clock.now += 2 if batch > 12 else 20  # first slow, then fast
        screen.moved(Tally(rows=64 * batch, statuses={"ok": 64 * batch}), progress(new=6400))
    lines = out.getvalue().splitlines()[1:]
    assert lines[0] == "64 of 6,400 rows"
    assert lines[1] == "128 of 6,400 rows · 3.2/s · 32 min 40 s left"
    assert lines[-1] == "1,920 of 6,400 rows · 16.8/s · 4 min 26 s left", "of all 276 s it would be 7.0/s"


def test_in_a_log_a_line_stays_a_line_however_long(out: io.StringIO, clock: SimpleNamespace) -> None:
    """Where there is no terminal, rich would take it for one of 80 columns."""
    source = "images under " + "/a/folder" * 20
    shown = ScoreScreen(Console(file=out, width=80))
    shown.opened(source, {"scorers": 2, "loaders": 2, "staged": 0, "orphans_removed": 0})
    statuses = dict.fromkeys(("ok", "corrupt", "empty", "forbidden", "not_an_image", "not_found", "truncated"), 1000)
    shown.moved(Tally(rows=7000, statuses=statuses), progress(new=7000))
    begun, moved = out.getvalue().splitlines()
    assert begun == f"Scoring {source}: 2 scoring, up to 2 loading"
    assert moved.endswith("1,000 truncated")


def test_a_command_says_itself_what_is_scored(out: io.StringIO) -> None:
    shown = ScoreScreen(Console(file=out), what="the pictures of ours/")
    shown.opened("uris in /tmp/x.jsonl", {"scorers": 1, "loaders": 1, "staged": 0, "orphans_removed": 0})
    assert out.getvalue() == "Scoring the pictures of ours/: 1 scoring, up to 1 loading\n"


def test_what_is_listed_counts_before_it_is_met(screen: ScoreScreen, out: io.StringIO, clock: SimpleNamespace) -> None:
    screen.moved(Tally(rows=64, statuses={"ok": 64}), progress(new=128, ahead=872))
    clock.now += 20
    screen.moved(Tally(rows=264, statuses={"ok": 262, "corrupt": 2}), progress(new=400, ahead=600))
    clock.now += 20
    screen.moved(Tally(rows=364, statuses={"ok": 364}), progress(new=400, ahead=600, listing=True))
    assert out.getvalue().splitlines()[1:] == [
        "64 of 1,000 rows",
        "264 of 1,000 rows · 10.0/s · 1 min 14 s left · 2 corrupt",
        "364 of 1,000+ rows · 7.5/s",
    ]


def test_nights_are_told_apart_by_what_has_shifted(out: io.StringIO) -> None:
    rest = {"earlier": 900, "later": 900, "median_earlier": 0.1, "median_later": 0.2, "ks": 0.5}
    steady = Shift(value="p_generated", psi=0.012, chance=0.5, **rest)  # type: ignore[arg-type]
    shifted = Shift(value="drift_cosine", psi=0.7, chance=1e-9, **rest)  # type: ignore[arg-type]
    for shifts in ([steady], [steady, shifted]):
        comparison = Comparison(model_id="m", rows=(900, 900), shifts=shifts, statuses={}, verdicts={})
        assert comparison.notable == (shifted in shifts)
        show_nights(Console(file=out, width=120), Nights(earlier="a", later="b", comparison=comparison), "o t/")
    first, second, third = out.getvalue().splitlines()
    assert first == "Against the run before, 900 then 900 rows: p_generated PSI 0.012: steady"
    assert second.startswith("Against the run before, 900 then 900 rows: drift_cosine PSI 0.700: a notable shift")
    assert third == "  radet drift 'o t/_runs/a.json' 'o t/_runs/b.json'"


def ended(*, rows: int = 9, ignored: dict[str, int] | None = None) -> dict[str, Any]:
    """What a run is told by at its end."""
    return {
        "model": "m",
        "model_id": "0",
        "run": "r",
        "source": "WebDataset tars under in",
        "rows": rows,
        "statuses": {"ok": rows},
        "verdicts": {"real": rows},
        "verdict": {"real_below": 0.25, "generated_above": 0.75},
        "digital_source_types": {},
        "highest": [],
        "inputs": {"new": 6, "resumed": 4, "unchanged": 0, "repeated": 0, "ignored": ignored or {}},
        "work": {"joined": 0, "same": 1, "rows": 0},
    }


def test_the_pictures_most_likely_generated_are_named_and_no_name_commands_the_terminal(out: io.StringIO) -> None:
    highest = [
        {"uri": "a [bold]b.jpg", "p_generated": 0.98765, "verdict": "generated"},
        {"uri": "\x1b[2Jc.jpg", "p_generated": 0.5, "verdict": "uncertain"},
    ]
    show_score(Console(file=out, width=20, highlight=False, markup=False), ended() | {"highest": highest}, "out")
    told = out.getvalue()
    assert "\nVerdicts: 9 real (generated above 0.750, real below 0.250)\n" in told
    assert "\n  0.988  generated  a [bold]b.jpg\n  0.500  uncertain  \N{REPLACEMENT CHARACTER}[2Jc.jpg\n" in told


@pytest.mark.parametrize(
    ("rows", "told"), [(9, []), (12, ["3 from an interrupted run over inputs that this one did not meet"])]
)
def test_rows_of_inputs_that_a_run_was_not_asked_for_are_told(out: io.StringIO, rows: int, told: list[str]) -> None:
    """What was staged of other ids, of another source, or of a file that is gone."""
    show_score(Console(file=out, width=120), ended(rows=rows), "out")
    assert [line for line in out.getvalue().splitlines() if "did not meet" in line] == told


def test_the_rate_of_a_whole_run_is_one_line(out: io.StringIO) -> None:
    work = {"rows": 9, "joined": 0, "same": 0, "scored": 9, "fetch_s": 1.0, "decode_s": 1.0, "score_s": 1.0}
    facts = {"work": work, "plan": {"loaders": 2, "scorers": 2}, "seconds": 42.0}
    show_score(Console(file=out, width=40), ended() | facts, "out")
    assert "\n0.2 images/s over 42 s, most of it spent on starting up or waiting\n" in out.getvalue()


def test_what_became_of_all_inputs_is_told(out: io.StringIO) -> None:
    inputs = {"new": 6, "resumed": 2, "unchanged": 1000, "repeated": 4, "ignored": {}}
    work = {"joined": 3, "same": 5, "rows": 0}
    facts = {"inputs": inputs, "work": work, "verdicts": {}, "digital_source_types": {"trainedAlgorithmicMedia": 2}}
    show_score(Console(file=out, width=40, highlight=False), ended(rows=3) | facts, "out")
    *_, told = out.getvalue().partition("Verdicts")
    assert told.splitlines() == [
        ": none, this model is not calibrated: drift and logit are given, a probability is not",
        "Files that tell their origin (digital_source_type, unverified): 2 trainedAlgorithmicMedia",
        "1,000 unchanged since an earlier run",
        "2 taken over from an interrupted run",
        "4 listed more than once",
        "3 of the same content as another, scored",
        "once",
        "5 read again and found to be the same",
        "Output: out (run r)",
        "As a page: radet report out",
    ]


def test_the_stage_that_held_the_others_up_is_named(out: io.StringIO) -> None:
    work = {"rows": 9000, "joined": 1000, "same": 3000, "scored": 4000} | {"fetch_s": 3000.0, "decode_s": 2500.0}
    facts = {"work": work | {"score_s": 4900.0}, "plan": {"loaders": 2, "scorers": 2}, "seconds": 3720.0}
    show_score(Console(file=out, width=120), ended() | facts, "out")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.getvalue().splitlines() if "│" in line]
    assert rows[-3:] == [
        ["fetch (in parallel)", "3.0", "32", "3%"],
        ["decode and crop", "2.0", "2", "34%"],
        ["score", "0.8", "2", "66%  <- bottleneck"],
    ]
    assert "\n2.4 images/s over 1 h 02 min\n" in out.getvalue()


def test_pictures_that_lie_beside_tars_are_told_to_be_left_alone(out: io.StringIO) -> None:
    show_score(Console(file=out, width=120), ended(ignored={".txt": 7, "": 1}), "out")
    assert "pictures" not in out.getvalue()
    show_score(Console(file=out, width=120), ended(ignored={".jpg": 3, ".txt": 7, ".png": 2}), "out")
    assert (
        "12 other files (.jpg, .png, .txt)\n5 of these are pictures beside WebDataset tars under in: " in out.getvalue()
    )


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        ({"ok": 9}, "As a page: radet report 'my out'"),
        ({"ok": 7, "corrupt": 2}, "As a page, with why inputs have no score: radet report 'my out'"),
    ],
)
def test_where_to_read_why_inputs_have_no_score_is_told(out: io.StringIO, statuses: dict[str, int], told: str) -> None:
    show_score(Console(file=out, width=60), ended() | {"statuses": statuses}, "my out")
    assert out.getvalue().splitlines()[-1] == told
