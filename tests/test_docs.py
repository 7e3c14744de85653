"""The documents' commands and snippets, run as far as they can be here."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from PIL import Image

from benchmarks import summary
from jobs.cli import app
from pipelines.index import digest
from pipelines.schema import JOIN
from pipelines.sink import read_scores
from radet.config import DetectorConfig, bundled, resolve

from .conftest import RADET, ROOT, as_a_user
from .documents import DOCUMENTS, TEXTS, commands, snippets, split
from .test_commit import block, commit, open_run, row

RADETS = {
    " ".join(words): words[1:] for text in TEXTS.values() for words in commands(text) if words[0].endswith("radet")
}


def test_there_are_commands() -> None:
    assert {words[0] for words in RADETS.values()} >= {
        "score",
        "train",
        "evaluate",
        "explain",
        "serve",
        "submit",
        "jobs",
    }


@pytest.mark.parametrize("command", RADETS)
def test_every_command_is_understood(command: str) -> None:
    group: Any = typer.main.get_command(app)
    name, *arguments = RADETS[command]
    found = group.commands[name]
    if hasattr(found, "commands"):  # radet models list
        name, *arguments = arguments
        found = found.commands[name]
    found.make_context(name, arguments)


def test_every_benchmark_and_file_that_is_named_is_there() -> None:
    for document, text in TEXTS.items():
        for module in re.findall(r"python -m ([a-z_.]+)", text):
            assert importlib.util.find_spec(module), f"{document}: {module}"
        for link in re.findall(r"\]\(([^)#:]+)(?:#[a-z-]+)?\)", text):
            assert (DOCUMENTS[document].parent / link).exists(), f"{document}: {link}"
        for result in re.findall(r"`(benchmarks/results/\w+\.json)`", text):
            assert (ROOT / result).is_file(), f"{document}: {result}"


def test_the_readmes_figures_are_those_that_were_measured() -> None:
    found = list(summary.lines())
    table = [line for line in TEXTS["README.md"].splitlines() if line.endswith("` |") and "`benchmarks." in line]
    assert table == [line.markdown() for line in found]
    assert {line.command.split()[0] for line in found} >= {"throughput", "cost", "serving"}
    for line in found:
        assert importlib.util.find_spec(f"benchmarks.{line.command.split()[0]}")
        assert line.ratio > 0


def test_figures_beside_the_table_are_those_that_were_measured() -> None:
    def results(name: str) -> Any:
        return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())["results"]

    readme, more = TEXTS["README.md"], TEXTS["docs/benchmarks.md"]
    for name, cost in zip(("radet-lite", "CLIP ViT-B/16 fp32"), results("cost"), strict=True):
        ms = [cost["parts"][part]["ms"] for part in ("encoder pass", "probe", "lowlevel", "whole")]
        assert f"| {name} | {' | '.join(f'{x:.0f}' for x in ms)} | {cost['parts']['whole']['gmac']:.1f} |" in more
    lite, clip = (results(f"throughput_{name}")[0]["pipeline"] for name in ("lite", "clip_b16_fp32"))
    assert f"scores {clip:.0f} images a second on two cores where `radet-lite`\nscores {lite:.0f}." in readme
    own = [process["own"] for name in ("parquet", "s3") for process in results(f"scale_{name}")["memory"].values()]
    assert f"no process with more than {max(x['late_mib'] - x['early_mib'] for x in own)} MiB of its own" in readme


@pytest.mark.parametrize("name", bundled())
def test_a_bundled_models_card_ends_with_the_verdicts_that_it_gives(name: str) -> None:
    """Not only those from before it was calibrated anew."""
    verdict = DetectorConfig.read(resolve(name)).verdict
    assert verdict is not None
    told = (resolve(name) / "README.md").read_text(encoding="utf-8").rpartition("\nVerdict: ")[2]
    assert told.startswith(f"`generated` above {verdict.generated_above:.3f}, `real` below {verdict.real_below:.3f},")


def test_every_heading_that_is_linked_to_is_there() -> None:
    headings = {
        name: {
            re.sub(r"[^a-z0-9 -]", "", line.lower()).strip().replace(" ", "-")
            for line in text.splitlines()
            if line.startswith("#")
        }
        for name, text in TEXTS.items()
    }
    for document, text in TEXTS.items():
        for file, heading in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
            target = (DOCUMENTS[document].parent / file).resolve() if file else DOCUMENTS[document]
            assert heading in headings[target.relative_to(ROOT).as_posix()], f"{document}: {file}#{heading}"


@pytest.fixture
def photo_folder(tmp_path: Path, photographs: list[Image.Image]) -> Path:
    """A folder of one's own, with everything in it that the README's first commands name."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, picture in enumerate(photographs):
        picture.save(photos / f"{number}.jpg")
    data = [path.read_bytes() for path in sorted(photos.iterdir())]
    pq.write_table(pa.table({"post_id": ["a", "b"], "image": data[:2]}), tmp_path / "posts.parquet")
    (tmp_path / "shards").mkdir()
    shutil.make_archive(str(tmp_path / "shards" / "0"), "tar", photos)
    (tmp_path / "urls.csv").write_text("uri\nphotos/0.jpg\nphotos/1.jpg\n")
    photographs[0].save(tmp_path / "holiday.jpg")
    photographs[1].save(tmp_path / "a.jpg")
    photographs[2].save(tmp_path / "b.png")
    for label, chosen in (("0_real", photographs[:3]), ("1_fake", photographs[3:])):
        folder = tmp_path / "corpus" / "test" / "made" / label
        folder.mkdir(parents=True)
        for number, picture in enumerate(chosen):
            picture.save(folder / f"{number}.png")
    return tmp_path


def test_the_python_snippet(photo_folder: Path) -> None:
    [snippet] = snippets(TEXTS["README.md"], "python")
    done = subprocess.run(
        [sys.executable, "-c", snippet], cwd=photo_folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["a.jpg", "ok"], ["#1", "ok"]]


def test_the_query_gives_the_rows_that_our_own_reader_gives(tmp_path: Path) -> None:
    nights = ([row("a", "1"), row("b", "2")], [row("a", "3"), row("c", "4")], [row("a", "1", JOIN)])
    for night, rows in enumerate(nights):
        version = digest(f"night {night}")
        ledger, index, run = open_run(str(tmp_path / "scores"), tmp_path, [])
        index.admit(0, [(one["_key"], version) for one in rows])
        when = datetime(2026, 1, 1 + night, tzinfo=UTC)
        ledger.stage(run, block(*(one | {"scored_at": when, "_version": version} for one in rows)))
        commit(ledger, index, run)
    [query] = snippets(TEXTS["README.md"], "sql")
    with duckdb.connect() as connection:
        connection.execute(f"SET file_search_path = '{tmp_path}'")
        found = connection.sql(query).to_arrow_table()
    ours = read_scores(str(tmp_path / "scores"))
    assert found.column_names == ours.column_names
    rows = [table.cast(ours.schema).sort_by("id").to_pylist() for table in (found, ours)]
    assert rows[0] == rows[1]
    assert sorted(found["logit"].to_pylist()) == [1.0, 2.0, 4.0]


@pytest.mark.slow
@pytest.mark.ray
def test_the_readmes_first_commands(photo_folder: Path) -> None:
    """One after the other, as they stand; those that want a bucket, or never end, have tests of their own."""
    snippet = next(one for one in snippets(TEXTS["README.md"], "sh") if "radet report" in one)
    lines = [words for words in split(snippet) if "s3:" not in str(words) and words[:2] != ["radet", "serve"]]
    for words in lines:
        done = subprocess.run(
            [RADET, *words[1:]], cwd=photo_folder, env=as_a_user(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
    assert len(lines) == 10
    table = read_scores(str(photo_folder / "scores"))
    assert set(table["status"].to_pylist()) == {"ok"}
    assert table.num_rows == 6 + 2 + 6 + 2
    assert {"a", "b"} < set(table["id"].to_pylist())
    for made in ("scores/report.html", "why/holiday.png", "evaluation/report.html"):
        assert (photo_folder / made).stat().st_size > 1000, made
