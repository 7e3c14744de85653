"""`radet drift`: two outputs, or two runs of one, side by side."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from jobs.drift import drift
from pipelines.compare import Nights, compare, compare_nights
from pipelines.schema import SCORE
from radet.errors import ConfigError

from .test_cli import radet

Write = Callable[..., str]

RUN = [f"2026010{number}T000000000000Z-abcdef" for number in range(10)]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Commits a run of `p` to an output, as a scoring run does."""

    def one(out: str, run: str, p: np.ndarray, model: str = "m1", broken: int = 0) -> str:
        folder = tmp_path / out
        for name in ("parts", "_runs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        rows = [
            {
                "id": f"{run}-{number}",
                "uri": f"{run}-{number}",
                "status": "ok",
                "logit": float(np.log(value / (1 - value))),
                "p_generated": float(value),
                "verdict": "generated" if value > 0.7 else "real" if value < 0.2 else "uncertain",
                "drift_cosine": float(value) / 5,
                "drift_mahalanobis": 1e-5 * float(value),
                "model_id": model,
                "scored_at": datetime.now(UTC),
            }
            for number, value in enumerate(p)
        ]
        rows += [
            {"id": f"b{n}", "uri": f"b{n}", "status": "truncated", "model_id": model, "scored_at": datetime.now(UTC)}
            for n in range(broken)
        ]
        name = f"parts/{run}-00000.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=SCORE), folder / name)
        part = {"name": name, "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}
        manifest = folder / "_runs" / f"{run}.json"
        facts = {"rows": len(rows), "statuses": {"ok": len(p), "truncated": broken}, "model_id": model}
        manifest.write_text(json.dumps({"run": run, "parts": [part], **facts}))
        return str(manifest)

    return one


def test_the_same_pictures_have_not_shifted(write: Write, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    write("a", RUN[1], rng.beta(2, 5, 900))
    write("b", RUN[2], rng.beta(2, 5, 700), broken=7)
    found = compare(str(tmp_path / "a"), str(tmp_path / "b"))
    assert not found.notable
    assert found.rows == (900, 707)
    assert [shift.value for shift in found.shifts] == ["p_generated", "logit", "drift_cosine", "drift_mahalanobis"]
    assert found.statuses["truncated"] == (0.0, pytest.approx(7 / 707))
    assert sum(a for a, _ in found.verdicts.values()) == pytest.approx(1)


def test_other_pictures_have(write: Write) -> None:
    rng = np.random.default_rng(1)
    monday, tuesday = write("a", RUN[1], rng.beta(2, 5, 900)), write("a", RUN[2], rng.beta(5, 2, 900))
    found = compare(monday, tuesday)
    assert found.notable
    assert found.rows == (900, 900)
    assert found.shifts[0].psi > 1
    assert found.shifts[0].median_earlier < found.shifts[0].median_later
    done = radet("drift", monday, tuesday)
    assert (done.returncode, "shifted" in done.stdout) == (1, True), done.stderr
    assert radet("drift", monday, monday).returncode == 0


@pytest.mark.parametrize("columns", [80, 40])
def test_a_comparison_is_told_in_full_however_narrow_the_terminal(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    rng = np.random.default_rng(1)
    monday = write("a", RUN[1], rng.beta(2, 5, 1200))
    with pytest.raises(typer.Exit):
        drift(monday, write("a", RUN[2], rng.beta(5, 2, 1100), broken=1))
    told = capsys.readouterr().out
    assert "model m1: 1,200 rows with 1,200 scores, then 1,101 with 1,100\n" in told
    assert "drift_mahalanobis" in told
    assert "…" not in told


def test_few_pictures_are_no_shift(write: Write) -> None:
    rng = np.random.default_rng(3)
    one, two = write("a", RUN[1], rng.beta(2, 5, 8)), write("a", RUN[2], rng.beta(2, 5, 8))
    assert not compare(one, two).notable


def test_what_a_comparison_means_is_said_in_words(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(3)
    few = write("few", RUN[1], rng.beta(2, 5, 11))
    assert compare(few, few).shifts[0].psi > 0.25, "though nothing has changed"
    drift(few, few)
    told = capsys.readouterr().out
    assert "No notable shift that so few scores could show.\n" in told
    assert "Below 100 scores a PSI is large by accident" in told
    many = write("many", RUN[1], rng.beta(2, 5, 300))
    drift(many, many)
    assert capsys.readouterr().out.endswith("\nNo notable shift.\n")
    with pytest.raises(typer.Exit):
        drift(many, write("other", RUN[1], rng.beta(5, 2, 300)))
    assert capsys.readouterr().out.endswith("\nA notable shift: look at the pictures, or at what delivers them.\n")


def test_scores_of_different_models_are_not_compared(write: Write, tmp_path: Path) -> None:
    p = np.random.default_rng(1).beta(2, 5, 50)
    one, two = write("a", RUN[1], p), write("b", RUN[2], p, model="m2")
    with pytest.raises(ConfigError, match="no model in common"):
        compare(one, two)
    write("b", RUN[3], p)
    assert compare(one, str(tmp_path / "b")).model_id == "m1"
    write("a", RUN[4], p, model="m2")
    assert [compare(*map(str, (tmp_path / x, tmp_path / y))).model_id for x, y in ("ab", "ba")] == ["m1", "m2"]
    with pytest.raises(ConfigError, match="no committed run"):
        compare(str(tmp_path / "a" / "_runs" / f"{RUN[9]}.json"), two)


def test_a_night_is_compared_with_the_last_one_that_says_something(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(4)
    out = str(tmp_path / "a")

    def night(run: str, p: np.ndarray, model: str = "m1") -> Nights | None:
        return compare_nights(out, json.loads(Path(write("a", run, p, model=model)).read_text()))

    assert night(RUN[1], rng.beta(2, 5, 300)) is None, "there is none before"
    assert night(RUN[2], rng.beta(5, 2, 20)) is None, "too few to say anything"
    steady = night(RUN[3], rng.beta(2, 5, 300))
    assert steady is not None
    assert (steady.earlier, steady.later) == (RUN[1], RUN[3])
    assert steady.comparison.rows == (300, 300)
    assert not steady.comparison.notable
    assert night(RUN[4], rng.beta(2, 5, 300), model="m2") is None, "another model's scores are no yardstick"
    shifted = night(RUN[5], rng.beta(5, 2, 300))
    assert shifted is not None
    assert (shifted.earlier, shifted.comparison.notable) == (RUN[3], True)
    monkeypatch.setattr("pipelines.compare._MOST", 299)
    assert night(RUN[6], rng.beta(5, 2, 200)) is None, "those before are too large to be read in passing"
    assert night(RUN[7], rng.beta(5, 2, 300)) is None, "so is this one"
    small = night(RUN[8], rng.beta(5, 2, 200))
    assert small is not None
    assert small.earlier == RUN[6]


def test_an_output_without_rows_is_no_trace(write: Write, tmp_path: Path) -> None:
    for out in "ab":
        write(out, RUN[1], np.empty(0))
    with pytest.raises(ConfigError, match="no model in common"):
        compare(str(tmp_path / "a"), str(tmp_path / "b"))


def test_a_part_that_was_deleted_is_named(write: Write, tmp_path: Path) -> None:
    write("a", RUN[1], np.array([0.5]))
    (tmp_path / "a" / "parts" / f"{RUN[1]}-00000.parquet").unlink()
    with pytest.raises(ConfigError, match=rf"a/parts/{RUN[1]}-00000.parquet is gone"):
        compare(str(tmp_path / "a"), str(tmp_path / "a"))
