"""cluster/README.md: its submissions could be sent, its files are there, its arithmetic adds up."""

import json
import os
import re
import subprocess

import pytest

from .conftest import RADET, ROOT
from .documents import TEXTS, commands

TEXT = TEXTS["cluster/README.md"]
COMMANDS = commands(TEXT)


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[:2] == ["radet", "submit"]], ids=" ".join)
def test_every_submission_could_be_sent(words: list[str]) -> None:
    command = [RADET, *words[1:], "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "radet score" in done.stdout


def test_every_file_that_is_named_is_there() -> None:
    named = {part for words in COMMANDS for part in words if re.search(r"^(cluster|jobs)/", part)}
    named |= {
        f"cluster/{name}" for name in re.findall(r"`((?:kuberay|grafana)/[a-z.-]+|[a-z-]+\.yaml|Dockerfile)`", TEXT)
    }
    missing = {name for name in named if not (ROOT / name).exists()}
    named_jobs = {name for name in missing if (ROOT / name.replace("cluster/", "cluster/kuberay/")).exists()}
    assert not missing - named_jobs
    for source in re.findall(r"`(benchmarks/results/\S+?|pipelines/\S+?)`", TEXT):
        assert (ROOT / source).is_file(), source


def test_the_arithmetic_adds_up() -> None:
    """The worked example, from the table above it."""
    found = json.loads((ROOT / "benchmarks" / "results" / "gpu.json").read_text())
    card = found["results"][0]
    scorer = card["scorer"]
    assert (found["machine"]["card"], card["tower"]) == ("NVIDIA H200", "clip-l14")
    assert scorer["images_per_s_256"] * scorer["gflop"] / 1000 == pytest.approx(0.33 * 989, rel=0.02)
    small = json.loads((ROOT / "benchmarks" / "results" / "precision.json").read_text())["results"]["ways"]
    rates = {way["precision"]: way["images_per_s"] for way in small if not way["compiled"]}
    assert f"{rates['fp32']:.0f} images/s in fp32, {rates['bf16']:,.0f} in bf16" in TEXT
    assert rates["bf16"] * 70 / 1000 == pytest.approx(0.23 * 989, rel=0.05)
    for tflops, gflop, rate, ms, cores in ((121, 70, 570, 2.4, 1.4), (989, 324, 1010, 2.4, 2.4)):
        assert 0.33 * tflops * 1000 / gflop == pytest.approx(rate, rel=0.01)
        assert rate * ms / 1000 == pytest.approx(cores, abs=0.06)
    assert pytest.approx(0.48, abs=0.01) == 1e6 / 570 / 3600 * 0.98
    assert pytest.approx(1.38, abs=0.01) == 1e6 / 1010 / 3600 * 5
    for name, rate, hours in (("lite", "32", 9), ("clip_b16_fp32", "2.44", 114)):
        found = json.loads((ROOT / "benchmarks" / "results" / f"throughput_{name}.json").read_text())
        assert found["results"][0]["pipeline"] / found["machine"]["cores"] == pytest.approx(float(rate), rel=0.01)
        assert f" {rate} images/s a core " in TEXT
        assert pytest.approx(hours, rel=0.05) == 1e6 / float(rate) / 3600


@pytest.mark.parametrize(("result", "place"), [("scale_parquet", 0), ("scale_s3", 1)])
def test_what_grows_with_a_night_is_what_was_measured(result: str, place: int) -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / f"{result}.json").read_text())["results"]
    section = TEXT.partition("## How large a night")[2].partition("\n## ")[0]
    million, table = found["images"] / 1e6, section.partition("The same with corpus and output on S3")[2 * place]
    empty, _, resumed = (run["opened_after_s"] for run in found["runs"])
    staged = found["runs"][-1]["taken_up"] / 1e6
    rss = found["memory"]["coordinator"]["rss"]
    slopes = {  # a million inputs: seconds, or MiB
        "taking up": (resumed - empty) / staged,
        "commit": found["runs"][-1]["commit_s"] / million,
        **dict.fromkeys(("opening", "a night later"), (found["second_night"]["opened_after_s"] - empty) / million),
        "the coordinator": rss["late_mib"] - rss["early_mib"],
    }
    units = {"s": 1, "min": 60, "h": 3600, "MiB": 1, "GiB": 1024}
    told = 0
    for what, slope in slopes.items():
        for row in (line for line in table.splitlines() if line.startswith(f"| {what}")):
            told += 1
            for cell, times in zip(row.split(" | ")[2:], (10, 1000)[: 2 - place], strict=True):
                number, unit = cell.rstrip(" |").split()
                assert float(number) * units[unit] == pytest.approx(slope * times, rel=0.06), (what, cell)
    assert told == (4, 3)[place]
