"""Job files: what is sent, and what is refused before it is."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from jobs import jobfile
from jobs.cli import app
from jobs.package import package
from radet.errors import ConfigError

from .conftest import ROOT
from .nodes import radet

SCORE = "name: night\nscore: {src: s3://b/in, out: s3://b/out}\n"


def write(folder: Path, text: str) -> Path:
    file = folder / "job.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("name", ["nightly-score", "train", "evaluate", "serve"])
def test_the_job_files_that_ship_say_what_they_send(name: str) -> None:
    done = radet("submit", str(ROOT / "jobs" / f"{name}.yaml"), "--dry-run", "--set", "run=2026-11-21")
    assert done.returncode == 0, done.stderr
    sent = json.loads(done.stdout)
    assert sent["submission_id"].endswith("-2026-11-21")
    assert shlex.split(sent["entrypoint"])[:3] == ["radet", name.rsplit("-", maxsplit=1)[-1], "--address=auto"]


@pytest.mark.parametrize("command", sorted(jobfile._SECTIONS))
def test_a_sections_keys_are_the_commands_options(command: str) -> None:
    commands: Any = typer.main.get_command(app)
    if command not in commands.commands:
        pytest.skip(f"radet {command} is not there yet")
    known = {option.name for option in commands.commands[command].params}
    section = jobfile._SECTIONS[command]
    assert set(section.__dataclass_fields__) | {"address"} <= known


def test_values_stay_single_arguments(tmp_path: Path) -> None:
    src, out = "s3://b/$(touch x) 'a'; rm -rf /", "--rescore"
    job = jobfile.read(write(tmp_path, SCORE), [f"score.src={src}", f"score.out={out}", "score.limit=7"])
    arguments = shlex.split(job.entrypoint)
    assert arguments == job.arguments
    assert arguments[-2:] == ["--", src]
    assert "--out=--rescore" in arguments
    assert "--limit=7" in arguments
    assert "--rescore" not in arguments


def test_a_list_repeats_its_option(tmp_path: Path) -> None:
    text = "name: e\nevaluate: {data: d, out: o, model: [a, --b], format_neutral: true}\n"
    arguments = jobfile.read(write(tmp_path, text)).arguments
    expected = ["--address=auto", "--out=o", "--model=a", "--model=--b", "--format-neutral", "--", "d"]
    assert arguments == ["radet", "evaluate", *expected]


def test_overrides_keep_text_that_yaml_would_read_as_something_else(tmp_path: Path) -> None:
    train = "name: t\ntrain: {data: a, val: b, config: c, out: d}\n"
    job = jobfile.read(write(tmp_path, train), ["train.workers=2:8", "run=2026-11-21", "train.gpus=true"])
    assert job.train is not None
    assert (job.run, job.train.workers, job.train.gpus) == ("2026-11-21", "2:8", True)


@pytest.mark.parametrize(
    ("text", "overrides", "says"),
    [
        (SCORE + "colour: red\n", [], "unknown key 'colour'"),
        ("name: night\nscore: {src: a, out: b, worker: 2}\n", [], "score has the unknown key 'worker'"),
        ("name: night\nscore: {src: a}\n", [], "score lacks the key 'out': add it"),
        ("name: night\n", [], "one of the sections"),
        (SCORE + "serve: {}\n", [], "one of the sections"),
        (SCORE, ["name=Night Run"], "lower-case"),
        (SCORE, ["run=a/b"], "run: up to 63"),
        (SCORE, ["score.limit=many"], "score.limit must be int"),
        (SCORE, ["train.data=x"], "no section 'train'"),
        (SCORE, ["limit"], "--set takes KEY=VALUE"),
        (SCORE + "env: [AWS_SECRET_ACCESS_KEY=x]\n", [], "looks like a secret"),
        (SCORE + "env: [oops]\n", [], "write NAME=VALUE"),
        ("name: t\ntrain: {data: a, val: b, config: c, out: d, workers: 2:8}\n", [], "in quotes"),
        ("name: s\nserve: {replicas: 1:4}\n", [], "serve.replicas: in quotes"),
        ("name: e\nevaluate: {data: a, out: b, model: x}\n", [], "evaluate.model must be tuple"),
        ("- a\n- b\n", [], "must be an object"),
        ("a: [", [], "cannot be read as YAML"),
    ],
)
def test_a_wrong_file_is_one_line_that_says_what_to_write(
    tmp_path: Path, text: str, overrides: list[str], says: str
) -> None:
    with pytest.raises(ConfigError, match=r"job\.yaml|--set") as refused:
        jobfile.read(write(tmp_path, text), overrides)
    assert says in str(refused.value)


def test_a_recipe_is_read_before_it_is_sent(tmp_path: Path) -> None:
    train = "name: t\nworking_dir: .\ninclude: [r.yaml]\ntrain: {data: a, val: b, config: r.yaml, out: d}\n"
    (tmp_path / "r.yaml").write_text("name: x\nepoch: 3\n")
    done = radet("submit", str(write(tmp_path, train)), "--dry-run")
    assert done.returncode == 2
    assert "unknown key 'epoch'" in done.stderr
    done = radet("submit", str(write(tmp_path, train)), "--dry-run", "--set", "train.config=other.yaml")
    assert "not among the files that are sent" in done.stderr


def test_a_package_holds_what_was_named_and_is_the_same_each_time(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("a/x.py", "a/__pycache__/x.pyc", "a/.hidden", "b/big.bin", "c.yaml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    found = package(root, ["a", "c.yaml"])
    assert found.names == ("a/x.py", "c.yaml")
    archives = [tmp_path / "1.zip", tmp_path / "2.zip"]
    for archive in archives:
        found.write(archive)
        (root / "c.yaml").touch()
    assert archives[0].read_bytes() == archives[1].read_bytes()
    for part, says in (("../x", "outside"), ("d", "has no d")):
        with pytest.raises(ConfigError, match=says):
            package(root, [part])


def test_a_head_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = radet("submit", str(write(tmp_path, SCORE)), "--address", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "no Ray dashboard at http://127.0.0.1:9" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "http://HEAD:8265" in radet("jobs", "status", "--address", "auto").stderr


def test_a_log_that_is_streamed_again_is_shown_once() -> None:
    from jobs.client import _Log

    shown: list[str] = []
    log = _Log(shown.append)
    for stream in (["a", "bc"], [], ["abcd"], ["ab", "cdef", "g"]):
        log.rewind()
        for text in stream:
            log.take(text)
    assert "".join(shown) == "abcdefg"
