"""`radet report`: the page of a scoring run says what its rows say."""

import hashlib
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from jobs.cli import app
from jobs.stop import Stop
from pipelines import run_report
from pipelines.commit import Commit
from pipelines.run_report import run_page
from pipelines.sink import read_scores
from radet.errors import ConfigError

from .browser import SIZES, chromium, violations
from .corpus import write_corpus
from .test_commit import LEASE, block, open_run, row


class _Page(HTMLParser):
    """The page's tables as rows of cells, its pictures, and every address that it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.pictures: list[tuple[str, str]] = []
        self.fetched: list[str] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = True
            self.rows[-1].append("")
        if tag == "img":
            self.pictures.append((given["alt"], given["src"]))
        self.fetched += [given[name] for name in ("src", "href") if name in given and given[name][:5] != "data:"]

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def scored(
    ray_session: None, photographs: list[Image.Image], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A folder with copies and broken files, and what scoring it wrote."""
    folder, out = tmp_path_factory.mktemp("pictures"), tmp_path_factory.mktemp("scores") / "my out"
    write_corpus(folder, 12, photographs)
    shutil.copy(folder / "0" / "00000.jpg", folder / "copy.jpg")
    shutil.copy(folder / "0" / "00000.jpg", folder / "<b>another & copy.jpg")
    (folder / "empty.jpg").touch()
    (folder / "page.jpg").write_text("<html>not a picture</html>")
    result = CliRunner().invoke(app, ["score", str(folder), "--out", str(out), "--max-failed", "0.1"])
    assert isinstance(result.exception, Stop), result.output
    assert result.exception.code == 3
    assert "2 of 16 inputs have no score (12.5%), more than --max-failed 10.0%" in str(result.exception)
    assert f"`radet report '{out}'` lists them" in str(result.exception)
    return folder, out


@pytest.mark.ray
@pytest.mark.slow
def test_a_share_of_failures_that_is_allowed_ends_well(scored: tuple[Path, Path], tmp_path: Path) -> None:
    _, out = scored
    shutil.copytree(out, tmp_path / "out")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "empty.jpg").touch()
    arguments = ["score", str(tmp_path / "more"), "--out", str(tmp_path / "out"), "--max-failed", "1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "Against the run before" not in result.output
    assert len(read_scores(str(tmp_path / "out"))) == 17


@pytest.mark.ray
def test_it_counts_what_the_rows_say(scored: tuple[Path, Path]) -> None:
    folder, out = scored
    text = run_page(str(out))
    page, rows = _Page(text), read_scores(str(out)).to_pylist()
    tiles = dict(re.findall(r"<div><b>([^<]*)</b><span>([^<]*)</span></div>", text))
    assert {name: value for value, name in tiles.items() if name in ("inputs", "scored", "not scored")} == {
        "inputs": "16",
        "scored": "14",
        "not scored": "2",
    }
    assert ["ok", "14"] in page.rows
    assert [str(folder / "empty.jpg"), "empty"] in [row[:2] for row in page.rows]
    assert [str(folder / "page.jpg"), "not_an_image"] in [row[:2] for row in page.rows]
    for verdict in ("real", "uncertain", "generated"):
        count = sum(row["verdict"] == verdict for row in rows)
        assert ([verdict, str(count)] in page.rows) == (count > 0)
    assert [str(folder / "0" / "00000.jpg"), "3"] in page.rows, "copies, by the first name"


@pytest.mark.ray
def test_it_shows_the_likeliest_once_each_and_fetches_nothing(scored: tuple[Path, Path]) -> None:
    _, out = scored
    page, rows = _Page(run_page(str(out))), read_scores(str(out)).to_pylist()
    ok = sorted((row for row in rows if row["status"] == "ok"), key=lambda row: (-row["p_generated"], row["uri"]))
    first_of = list({row["sha256"]: row["uri"] for row in reversed(ok)}.values())
    assert [alt for alt, _ in page.pictures] == first_of[::-1]
    assert all(src.startswith("data:image/") for _, src in page.pictures)
    assert page.fetched == []


@pytest.mark.ray
def test_the_command_writes_it_beside_the_rows_or_elsewhere(scored: tuple[Path, Path], tmp_path: Path) -> None:
    _, out = scored
    for arguments, target in (([], out), (["--to", str(tmp_path / "page")], tmp_path / "page")):
        result = CliRunner().invoke(app, ["report", str(out), *arguments])
        assert result.exit_code == 0, result.output
        assert (target / "report.html").read_text().startswith("<!doctype html>")
    assert len(read_scores(str(out), verify=True)) == 16, "the page is no part of the scores"


def test_an_output_without_a_run_has_no_page(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no committed run"):
        run_page(str(tmp_path))


def test_of_many_failures_the_latest_are_shown(tmp_path: Path) -> None:
    out, work = str(tmp_path / "out"), {"rows": 60, "scored": 0}
    facts = {"model": "m", "finished": "2026-01-01", "seconds": 1.0, "inputs": {"unchanged": 0}, "work": work}
    for night in ("monday", "tuesday"):
        names = [f"{night} {number}" for number in range(60)]
        ledger, index, run = open_run(out, tmp_path, names)
        ledger.stage(run, block(*(row(name, "1", status="corrupt", logit=None) for name in names)))
        Commit(ledger, index, run, LEASE).write(facts)
    text = run_page(out)
    assert "The latest 50 of 120." in text
    shown = [cells[0] for cells in _Page(text).rows if cells[1:2] == ["corrupt"]]
    assert shown == [f"tuesday {number}" for number in range(59, 9, -1)]


def test_counts_add_up_however_much_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_report, "_COPIES", 1)
    monkeypatch.setattr(run_report, "_RUNS", 1)
    out = str(tmp_path / "out")
    facts = {"model": "m", "finished": "2026-01-01", "seconds": 1.0, "inputs": {"unchanged": 0}, "work": {"rows": 0}}
    for night, names in (("monday", "abc"), ("tuesday", "defg")):
        ledger, index, run = open_run(out, tmp_path, [f"{night} {name}" for name in names])
        evidence: dict[str, Any] = {"phash": "0", "p_generated": 0.25, "verdict": "real"}
        rows = [row(f"{night} {name}", "1" if night == "monday" else "2", **evidence) for name in names]
        rows[-1] |= {"status": "empty", "sha256": None, "p_generated": None, "verdict": None, "logit": None}
        ledger.stage(run, block(*rows))
        Commit(ledger, index, run, LEASE).write(facts)
    text = run_page(out)
    page = _Page(text)
    assert "1 picture looks like another one" in text
    assert "Of 2 contents that several inputs share, those with the most copies:" in text
    assert ["tuesday d", "3"] in page.rows
    assert not any(cells[:1] == ["monday a"] for cells in page.rows)
    assert "The latest 1 of 2 runs." in text
    assert [cells[3:6] for cells in page.rows if cells[0] == run] == [["4", "3", "1"]]
    assert "Without a picture:" in text, "none of them is a file"


def test_it_is_of_the_latest_model_and_its_rate_of_the_last_run_in_which_that_did_anything(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    for name, model, rows in (("a", "m", 20), ("b", "m", 30), ("c", "other", 900), ("", "m", 0)):
        work = {"rows": rows, "scored": rows}
        facts = {"model": "m", "finished": "2026-01-01", "seconds": 10.0, "inputs": {"unchanged": 0}, "work": work}
        ledger, index, run = open_run(out, tmp_path, list(name), model)
        if name:
            ledger.stage(run, block(row(name, name, model_id=model, phash="0")))
        Commit(ledger, index, run, LEASE).write(facts)
    text = run_page(out)
    tiles = {name: value for value, name in re.findall(r"<div><b>([^<]*)</b><span>([^<]*)</span></div>", text)}
    assert (tiles["inputs"], tiles["images per second, latest run"]) == ("2", "3.0")
    assert "copies" not in text, "each has a content of its own"


def test_a_picture_that_was_replaced_is_not_shown_as_the_one_that_was_scored(
    tmp_path: Path, photographs: list[Image.Image]
) -> None:
    out, rows = str(tmp_path / "out"), []
    facts = {"model": "m", "finished": "2026-01-01", "seconds": 1.0, "inputs": {"unchanged": 0}, "work": {"rows": 0}}
    for name, picture in (("same.png", photographs[0]), ("replaced.png", photographs[1])):
        picture.resize((64, 64)).save(tmp_path / name)
        content = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        rows.append(row(str(tmp_path / name), "1", sha256=content, phash="0", p_generated=0.5, verdict="uncertain"))
    ledger, index, run = open_run(out, tmp_path, [one["uri"] for one in rows])
    ledger.stage(run, block(*rows))
    Commit(ledger, index, run, LEASE).write(facts)
    photographs[2].resize((64, 64)).save(tmp_path / "replaced.png")
    assert [alt for alt, _ in _Page(run_page(out)).pictures] == [str(tmp_path / "same.png")]


def test_a_picture_that_was_moved_is_shown_where_it_is_now(tmp_path: Path, photographs: list[Image.Image]) -> None:
    out, facts = str(tmp_path / "out"), {"model": "m", "finished": "2026-01-01", "seconds": 1.0}
    photographs[0].save(tmp_path / "sorted.jpg")
    content = hashlib.sha256((tmp_path / "sorted.jpg").read_bytes()).hexdigest()
    for name in ("a inbox.jpg", "sorted.jpg"):
        path = str(tmp_path / name)
        ledger, index, run = open_run(out, tmp_path, [path])
        ledger.stage(run, block(row(path, "1", sha256=content, p_generated=0.25, verdict="real")))
        Commit(ledger, index, run, LEASE).write(facts | {"inputs": {"unchanged": 0}, "work": {"rows": 1, "scored": 1}})
    ((name, src),) = _Page(run_page(out)).pictures
    assert name == str(tmp_path / "sorted.jpg")
    assert src.startswith("data:image/")


@pytest.mark.browser
def test_the_columns_beside_a_long_name_can_be_seen(tmp_path: Path) -> None:
    out, name = str(tmp_path / "out"), "long" * 60
    work = {"rows": 1, "scored": 0}
    facts = {"model": "m", "finished": "2026-01-01", "seconds": 1.0, "inputs": {"unchanged": 0}, "work": work}
    ledger, index, run = open_run(out, tmp_path, [name])
    ledger.stage(run, block(row(name, "1", status="empty", error="zero bytes", logit=None)))
    Commit(ledger, index, run, LEASE).write(facts)
    (tmp_path / "report.html").write_text(run_page(out))
    with chromium() as browser:
        for width, height in SIZES.values():
            opened = browser.new_page(viewport={"width": width, "height": height})
            opened.goto((tmp_path / "report.html").as_uri())
            why = opened.get_by_role("cell", name="zero bytes")
            why.scroll_into_view_if_needed()
            covered = why.evaluate(
                """one => {
                  const box = one.getBoundingClientRect();
                  return document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2) !== one;
                }"""
            )
            assert not covered
            assert not violations(opened)
