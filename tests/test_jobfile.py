"""Job files: what is sent, and what is refused before it is."""

import io
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from ray.job_submission import JobDetails, JobStatus, JobType
from rich.console import Console

from jobs import jobfile
from jobs.cli import app
from jobs.package import package
from jobs.submit import _package, _show
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


@pytest.mark.parametrize(("name", "submission"), [("train", "train-clip-first"), ("serve", "serve-endpoint")])
def test_what_lasts_longer_than_a_day_is_sent_once(name: str, submission: str) -> None:
    """The next day's would be another job beside it, with the same output or port."""
    job = jobfile.read(ROOT / "jobs" / f"{name}.yaml")
    assert f"{job.name}-{job.run}" == submission


@pytest.mark.parametrize("command", sorted(jobfile._SECTIONS))
def test_a_sections_keys_are_the_commands_options(command: str) -> None:
    commands: Any = typer.main.get_command(app)
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


def test_a_list_of_sources_is_an_argument_each(tmp_path: Path) -> None:
    job = jobfile.read(write(tmp_path, "name: night\nscore: {src: [s3://b/1, s3://b/2], out: s3://b/out}\n"))
    assert job.arguments[-3:] == ["--", "s3://b/1", "s3://b/2"]
    with pytest.raises(ConfigError, match=r"score\.src must be text"):
        jobfile.read(write(tmp_path, "name: night\nscore: {src: null, out: s3://b/out}\n"))


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
        (SCORE + "run: 2026-11-21\n", [], "run must be text, in quotes if need be, not 2026-11-21"),
        (SCORE, ["score.limit=many"], 'score.limit must be a whole number, not "many"'),
        (SCORE, ["train.data=x"], "no section 'train'"),
        (SCORE, ["limit"], "--set takes KEY=VALUE"),
        (SCORE + "env: [AWS_SECRET_ACCESS_KEY=x]\n", [], "looks like a secret"),
        (SCORE + "env: [oops]\n", [], "write NAME=VALUE"),
        (SCORE + "env: [my_password=x]\n", [], "in capitals, not 'my_password'"),
        ("name: t\ntrain: {data: a, val: b, config: c, out: d, workers: 2:8}\n", [], "in quotes"),
        ("name: s\nserve: {replicas: 1:4}\n", [], "serve.replicas: in quotes"),
        ("name: e\nevaluate: {data: a, out: b, model: x}\n", [], 'evaluate.model must be a list, not "x"'),
        ("- a\n- b\n", [], "must be an object"),
        ("- a\n- b\n", ["name=x"], "must be an object"),
        ("", ["score.limit=1"], "must be an object"),
        ("a: [", [], "cannot be read as YAML: line 1, column 5: "),
        (SCORE, ["score.limit=[1"], "--set score.limit=[1: what stands after = cannot be read as YAML"),
        (SCORE, ["score.limit=2026-13-45"], "cannot be read as YAML"),
        (SCORE, ["run=1", "env=[{]"], "cannot be read as YAML"),
        (SCORE, ["score.workers=0"], "score: Invalid value for '--workers'"),
        (SCORE, ["score.max_failed=5"], "score: Invalid value for '--max-failed'"),
        ("name: e\nevaluate: {data: a, out: b, limit: 1}\n", [], "evaluate: Invalid value for '--limit'"),
        ("name: s\nserve: {port: 99999}\n", [], "serve: Invalid value for '--port'"),
        ("name: t\ntrain: {data: a, val: b, config: c, out: d, workers: '8:2'}\n", [], "train.workers 8:2: at least 1"),
        ("name: s\nserve: {replicas: many}\n", [], "serve.replicas is a number or LEAST:MOST"),
    ],
)
def test_a_wrong_file_is_one_line_that_says_what_to_write(
    tmp_path: Path, text: str, overrides: list[str], says: str
) -> None:
    with pytest.raises(ConfigError, match=r"job\.yaml|--set") as refused:
        jobfile.read(write(tmp_path, text), overrides)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "line",
    [
        "MY_PASSWD=hunter2",
        "PGPASSWORD=hunter2",
        "DB_PASS=hunter2",
        "DB_PWD=hunter2",
        "DB_AUTH=hunter2",
        "PRIVATE_KEY=hunter2",
        "SSH_KEY=hunter2",
        "KEY=hunter2",
        "RADET_API_KEYS=hunter2",
        "HTTPS_PROXY=http://me:hunter2@proxy:3128",
        "HTTPS_PROXY=me:hunter2@proxy:3128",
        "DSN=postgresql://me:hunter2@db/x",
        "CERTIFICATE=-----BEGIN PRIVATE KEY-----\nhunter2",
    ],
)
def test_secrets_are_no_variables_and_are_not_repeated(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match="looks like a secret") as refused:
        jobfile.read(write(tmp_path, SCORE), [f"env={json.dumps([line])}"])
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("env", ["{KEY: hunter2}", "[KEY: hunter2]", "KEY=hunter2", "[[KEY=hunter2]]"])
def test_variables_that_are_written_otherwise_are_not_repeated(tmp_path: Path, env: str) -> None:
    with pytest.raises(ConfigError, match="env: a list, a line NAME=VALUE each") as refused:
        jobfile.read(write(tmp_path, f"{SCORE}env: {env}\n"))
    assert "hunter2" not in str(refused.value)


def test_what_is_no_secret_may_be_a_variable(tmp_path: Path) -> None:
    lines = [
        "AWS_REGION=eu-central-1",
        "AWS_ENDPOINT_URL=http://minio:9000/a@b",
        "RADET_HTTP_TRUSTED=images:80,other:81",
        "HTTPS_PROXY=http://proxy:3128",
        "PASSES=3",
        "RAY_AUTH_MODE=token",
    ]
    job = jobfile.read(write(tmp_path, SCORE), [f"env={json.dumps(lines)}"])
    assert [f"{name}={value}" for name, value in job.environment.items()] == lines


def test_a_recipe_is_read_before_it_is_sent(tmp_path: Path) -> None:
    train = "name: t\nworking_dir: .\ninclude: [r.yaml]\ntrain: {data: a, val: b, config: r.yaml, out: /d}\n"
    (tmp_path / "r.yaml").write_text("name: x\nepoch: 3\n")
    done = radet("submit", str(write(tmp_path, train)), "--dry-run")
    assert done.returncode == 2
    assert "unknown key 'epoch'" in done.stderr
    done = radet("submit", str(write(tmp_path, train)), "--dry-run", "--set", "train.config=other.yaml")
    assert "not among the files that are sent" in done.stderr
    (tmp_path / "sub").mkdir()
    (tmp_path / "r.yaml").rename(tmp_path / "sub" / "real.yaml")
    (tmp_path / "r.yaml").symlink_to("sub/real.yaml")
    for spelled in ("r.yaml", "./r.yaml", "sub/../r.yaml"):
        done = radet("submit", str(tmp_path / "job.yaml"), "--dry-run", "--set", f"train.config={spelled}")
        assert "unknown key 'epoch'" in done.stderr, "a link, and any way to spell it"


def test_a_recipe_that_is_not_sent_is_radets_own(tmp_path: Path) -> None:
    """Not another one of that name, which lies here and stays here."""
    file = write(tmp_path, "name: t\ntrain: {data: s3://b/a, val: s3://b/v, config: train-lite.yaml, out: s3://b/o}\n")
    assert _package(jobfile.read(file), file) is None
    with pytest.raises(
        ConfigError, match=r"my\.yaml is not among the files that are sent: see working_dir and include"
    ):
        _package(jobfile.read(file, ["train.config=my.yaml"]), file)
    (tmp_path / "train-lite.yaml").write_text("name: mine\n")
    with pytest.raises(ConfigError, match=r"train-lite\.yaml is not among the files that are sent"):
        _package(jobfile.read(file), file)
    assert _package(jobfile.read(file, ["train.config=/opt/other.yaml"]), file) is None


@pytest.mark.parametrize("out", ["scores", "./scores", "~/scores"])
def test_results_do_not_go_where_the_job_runs(tmp_path: Path, out: str) -> None:
    """There Ray deletes them."""
    done = radet("submit", str(write(tmp_path, SCORE)), "--dry-run", "--set", f"score.out={out}")
    assert done.returncode == 2
    assert f"score.out: s3://BUCKET/PREFIX, or a path that begins with /, not '{out}'" in done.stderr
    done = radet("submit", str(tmp_path / "job.yaml"), "--dry-run", "--set", "score.out=/mnt/scores")
    assert done.returncode == 0


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
    for part, says in (("../x", "outside"), ("d", "has no d: name what is to be sent"), ("/etc/hosts", "outside")):
        with pytest.raises(ConfigError, match=says):
            package(root, [part])
    with pytest.raises(ConfigError, match="working_dir: no such folder: "):
        package(tmp_path / "other", [])


def test_a_package_is_code_and_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.package._MAX_BYTES", 1_000_000)
    (tmp_path / "weights").write_bytes(bytes(1_000_000))
    assert package(tmp_path, ["."]).size == 1_000_000
    (tmp_path / "a.py").write_text("1")
    with pytest.raises(ConfigError, match="1 MB in 2 files, over 1 MB: name less in include"):
        package(tmp_path, ["."])


def test_a_packages_digest_is_one_of_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    digests = [package(tmp_path, ["."]).digest()]
    (tmp_path / "a").touch()
    assert package(tmp_path, ["."]).digest() == digests[0]
    (tmp_path / "a").write_text("2")
    digests.append(package(tmp_path, ["."]).digest())
    (tmp_path / "a").rename(tmp_path / "b")
    digests.append(package(tmp_path, ["."]).digest())
    assert len(set(digests)) == 3


def test_links_in_a_package_stay_inside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "real.yaml").write_text("x: 1")
    (root / "here.yaml").symlink_to("sub/real.yaml")
    assert package(root, ["."]).names == ("here.yaml", "sub/real.yaml")
    assert package(root, ["here.yaml"]).names == ("here.yaml",), "by the name that the job knows"
    (tmp_path / "passwd").write_text("x")
    (root / "sub" / "out.yaml").symlink_to(tmp_path / "passwd")
    for part in (".", "sub", "sub/out.yaml"):
        with pytest.raises(ConfigError, match=r"sub/out\.yaml is, or leads, outside"):
            package(root, [part])


@pytest.mark.parametrize("name", ["tls.pem", "server.KEY", "id_rsa", "credentials.json", "secrets.yaml", "plain.txt"])
def test_secrets_are_not_packed(tmp_path: Path, name: str) -> None:
    for harmless in ("secrets.py", "secretary.txt", "id_rs.md"):
        (tmp_path / harmless).write_text("x")
    assert len(package(tmp_path, ["."]).names) == 3
    (tmp_path / name).write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n" if name == "plain.txt" else "x")
    with pytest.raises(ConfigError, match=f"include: {name} looks like a secret"):
        package(tmp_path, ["."])


@pytest.mark.parametrize("secret", ["me:hunter2", "me:hunt@er2", "me", ":@"])
def test_an_address_in_a_message_loses_all_of_its_password(secret: str) -> None:
    text = "Failed at http://{}head:8265/jobs?by=me@work: http://{}head"
    assert jobfile.without_password(text.format(f"{secret}@", f"{secret}@")) == text.format("", "")


def test_a_jobs_state_is_told_whole_in_a_narrow_terminal_and_in_a_pipe() -> None:
    command = "radet score --address=auto --out=s3://bucket/scores -- s3://bucket/images"
    job = JobDetails(
        type=JobType.SUBMISSION,
        submission_id="nightly-score-for-the-department-of-something-long-2026-11-27-2",
        status=JobStatus.SUCCEEDED,
        entrypoint=command,
        start_time=1764200000000,
    )
    shown = io.StringIO()
    _show(Console(file=shown, width=80, force_terminal=True, color_system=None), [job])
    lines = shown.getvalue().splitlines()
    assert any(" SUCCEEDED " in line and " 2025-11-26 23:33:20 " in line for line in lines)
    assert max(map(len, lines)) <= 80
    shown = io.StringIO()
    _show(Console(file=shown, width=80), [job])
    assert shown.getvalue() == f"{job.submission_id}  SUCCEEDED  2025-11-26 23:33:20  {command}\n"
