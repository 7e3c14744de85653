"""The command line, as a user meets it: exit codes, one-line errors, help."""

import logging
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
from PIL import Image
from ray.exceptions import ActorDiedError

from jobs.serve import serve
from jobs.stop import SCORES_ARE_KEPT, Stop
from pipelines.lease import NAME as LOCK
from pipelines.lease import Lease
from pipelines.storage import open_folder
from radet.config import DetectorConfig, model_id, resolve
from radet.errors import ConfigError

from .conftest import RADET
from .corpus import write_corpus
from .ports import free_port
from .s3_server import S3Server


def radet(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [RADET, *arguments], env=os.environ | env, capture_output=True, text=True, check=False, timeout=120
    )


def refused(*arguments: str, **env: str) -> str:
    """The one line that a request which cannot work is answered with."""
    done = radet(*arguments, **env)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture
def corpus(tmp_path: Path, photographs: list[Image.Image]) -> str:
    write_corpus(tmp_path / "src", 3, photographs)
    return str(tmp_path / "src")


def test_help_teaches(tmp_path: Path) -> None:
    text = radet("score", "--help").stdout
    for word in ("--out", "--allow-http", "s3://bucket", "Exit codes"):
        assert word in text


def test_paragraphs_of_help_flow() -> None:
    """However wide the terminal is, lines end where it does and not where the docstring's do."""
    lines = [line.strip() for line in radet("train", "--help", COLUMNS="600").stdout.splitlines()]
    (labels,) = [line for line in lines if line.startswith("Labels are folder names")]
    assert labels.endswith("or the thresholds will not hold.")
    assert len([line for line in lines if line.startswith("radet train ")]) == 2  # examples stay apart
    lines = [line.strip() for line in radet("models", "convert", "--help", COLUMNS="600").stdout.splitlines()]
    assert any(line.endswith("fits thresholds of its own.") and line.startswith("radet-clip-b16") for line in lines)


def test_the_version_is_that_of_all_that_computes() -> None:
    done = radet("--version")
    assert done.returncode == 0
    told = dict(line.split(" ") for line in done.stdout.splitlines())
    assert {name: told[name] for name in ("radet", "torch", "ray")} == {
        name: version(name) for name in ("radet", "torch", "ray")
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["/no/such/folder", "--out", "o"], "no such file or folder: /no/such/folder"),
        (["gs://bucket/x", "--out", "o"], "gs://bucket/x; of addresses, s3://bucket/prefix is read"),
        (["{src}", "--out", "gs://bucket/x"], "give a local folder or s3://bucket/prefix"),
        (["", "--out", "o"], "an empty name is no source"),
        (["{src}", "--out", ""], "an empty name is no output"),
        (["{src}", "--out", "o", "--model", "radet-huge"], "radet-lite"),
        (["{src}", "--out", "o", "--ids", "post"], "--ids and --column go with"),
        (["https://example.org/a.jpg", "--out", "o"], "manifest"),
        (["{src}", "/no/such/folder", "--out", "o"], "no such file or folder: /no/such/folder"),
        (["{src}", "o", "--out", "o"], "o is what is to be scored"),
    ],
)
def test_a_request_that_cannot_work_is_one_line_and_writes_nothing(
    tmp_path: Path, corpus: str, arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in refused("score", *(argument.format(src=corpus) for argument in arguments))
    assert not (tmp_path / "o").exists()


def test_a_head_that_is_not_there_is_one_clear_line_at_once(tmp_path: Path, corpus: str) -> None:
    """Ray by itself asks it for a quarter of an hour."""
    for address in ("127.0.0.1:1", "no-such-host.invalid:6379"):
        assert f"no Ray cluster at {address}" in refused(
            "score", corpus, "--out", str(tmp_path / "o"), "--address", address
        )
    for address in ("http://127.0.0.1:8265", "head"):
        assert "give HEAD:6379" in refused("score", corpus, "--out", str(tmp_path / "o"), "--address", address)


@pytest.mark.s3
def test_wrong_s3_credentials_are_one_clear_line(s3: S3Server, corpus: str) -> None:
    wrong = {"AWS_SECRET_ACCESS_KEY": "not the secret"}
    for src, out in ((s3.url("anything"), "/tmp/o"), (corpus, s3.url("refused"))):
        line = refused("score", src, "--out", out, **wrong)
        assert "SignatureDoesNotMatch" in line
        assert "; check AWS_ACCESS_KEY_ID" in line
        assert ".;" not in line


@pytest.mark.s3
def test_a_missing_bucket_and_an_unreachable_server_are_one_clear_line(s3: S3Server, corpus: str) -> None:
    assert "nobucket" in refused("score", "s3://nobucket/x", "--out", "/tmp/o")
    nowhere = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "2"}
    assert "could not be reached" in refused("score", s3.url("x"), "--out", "/tmp/o", **nowhere)


@pytest.mark.parametrize(
    "command",
    [
        ("train", "s3://b/train", "--val", "s3://b/val", "--config", "train-lite.yaml", "--out", "s3://b/out"),
        ("evaluate", "s3://b/val", "--out", "s3://b/out"),
        ("models", "selftest", "s3://b/model"),
    ],
)
def test_where_nothing_listens_for_s3_every_command_says_which_setting_to_check(command: tuple[str, ...]) -> None:
    nowhere = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    assert "check AWS_ENDPOINT_URL" in refused(*command, **nowhere)


def test_a_run_that_is_told_to_end_says_how_to_go_on(tmp_path: Path) -> None:
    """By SIGTERM, as from a timeout or a scheduler; left to itself, Ray aborts with a trace of its C++."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"127.0.0.1:{server.getsockname()[1]}"
        urls = tmp_path / "urls.csv"
        urls.write_text(f"uri\nhttp://{host}/a.jpg\n")
        process = subprocess.Popen(
            [RADET, "score", str(urls), "--out", str(tmp_path / "out"), "--allow-http"],
            env=os.environ | {"RADET_HTTP_TRUSTED": host},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        server.settimeout(100)
        with server.accept()[0]:  # a loader asks, and waits for an answer
            process.terminate()
            _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert told.splitlines()[-1] == f"radet: {SCORES_ARE_KEPT}"
    assert "SIGTERM" not in told


def test_a_run_that_is_told_to_end_while_ray_starts_says_so(tmp_path: Path, corpus: str) -> None:
    process = psutil.Popen(
        [RADET, "score", corpus, "--out", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not process.children():  # Ray's first process
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    said, told = process.communicate(timeout=60)
    assert (process.returncode, said, told) == (1, "", f"radet: {SCORES_ARE_KEPT}\n")


def test_a_service_for_which_there_is_no_room_is_refused() -> None:
    """Serve would wait for another machine."""
    count = 2 * (os.cpu_count() or 1)
    assert f"{count} scorers want {count} CPUs, and Ray finds" in refused("serve", "--replicas", str(count))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_service_can_be_stopped_while_it_starts(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [RADET, "serve", "--port", str(free_port())], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "Starting radet-lite ...\n"
    process.send_signal(number)
    said, told = process.communicate(timeout=60)
    assert (process.returncode, said, told) == (1, "", "radet: stopped before the service was ready\n")


@pytest.mark.parametrize("options", [[], ["--haproxy"]])
def test_a_port_that_is_taken_is_told_before_anything_starts(options: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"127.0.0.1:{port}: Address already in use; see --port" in refused("serve", "--port", port, *options)


@pytest.mark.parametrize(
    ("name", "value", "options", "told"),
    [
        ("RADET_HTTP_TRUSTED", "BAD", ["--allow-url"], "a trusted HTTP server is written host:port"),
        ("RADET_API_KEYS", "", [], "RADET_API_KEYS holds no key"),
        ("RADET_API_KEYS", "", ["--address", "127.0.0.1:1"], "RADET_API_KEYS holds no key"),
        ("RADET_API_KEYS_FILE", "/nowhere/keys", [], "/nowhere/keys cannot be read"),
    ],
)
def test_what_replicas_could_not_start_with_is_told_before_anything_starts(
    name: str, value: str, options: list[str], told: str
) -> None:
    assert told in refused("serve", "--port", str(free_port()), *options, **{name: value})


@pytest.fixture
def unserved(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """`radet serve` without a cluster, in this process: a test says how its start ends."""
    monkeypatch.setenv("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", "0.5")  # which the command would leave behind
    monkeypatch.setattr("pipelines.cluster.connected", lambda _: nullcontext())
    monkeypatch.setattr("pipelines.serve.require_place", lambda *_: None)
    monkeypatch.setattr("pipelines.serve.stop", lambda **_: None)
    monkeypatch.setattr("pipelines.alive.lost", lambda: None)  # it asks a Ray that is not there, and would start one
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield monkeypatch
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_a_stop_that_the_start_swallows_is_none_the_less_one(unserved: pytest.MonkeyPatch) -> None:
    """Whoever catches too much while Ray and Serve come up, the service must not stay."""

    def start(*_: object, **__: object) -> None:
        assert not logging.getLogger("ray.serve").isEnabledFor(logging.INFO)  # shutdown says there that nothing ran
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    unserved.setattr("pipelines.serve.start", start)
    with pytest.raises(Stop, match="before the service was ready"):
        serve(address="127.0.0.1:1")


def test_a_service_whose_proxy_does_not_come_up_is_told_in_a_line(unserved: pytest.MonkeyPatch) -> None:
    def start(*_: object, **__: object) -> None:
        raise ActorDiedError

    unserved.setattr("pipelines.serve.start", start)
    with pytest.raises(ConfigError, match=r"^the service did not start: .* too busy; try again \(The actor died .*\)$"):
        serve(address="127.0.0.1:1")


def test_a_second_writer_is_refused(tmp_path: Path, corpus: str) -> None:
    out = str(tmp_path / "out")
    with Lease(open_folder(out)):
        assert "another run is writing" in refused("score", corpus, "--out", out)


def test_a_second_evaluation_is_refused(tmp_path: Path, corpus: str) -> None:
    """Each writes which inputs are to be scored, for all of its detectors."""
    for label in ("0_real", "1_fake"):
        shutil.copytree(corpus, tmp_path / "tree" / label)
    out = str(tmp_path / "out")
    with Lease(open_folder(out)):
        assert "another run is writing" in refused("evaluate", str(tmp_path / "tree"), "--out", out)
    assert [path.name for path in Path(out).iterdir()] == [LOCK]


def test_models_are_listed_and_checked() -> None:
    assert "radet-lite" in radet("models", "list").stdout
    done = radet("models", "selftest", "radet-lite")
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout


def test_a_detector_that_measures_nothing_is_not_made(tmp_path: Path) -> None:
    encoder = ["--family", "timm", "--encoder", "tf_efficientnet_lite0", "--weights", "hub:x", "--real", str(tmp_path)]
    done = radet("models", "fit", "--probe", "none", *encoder, "--out", str(tmp_path / "made"))
    assert done.returncode == 2
    assert "'none' is not one of 'gaussian'" in " ".join(done.stderr.split())


@pytest.mark.parametrize("image", ["https://example.org/a.jpg", "s3://bucket/a.jpg"])
def test_what_is_no_file_is_not_explained(tmp_path: Path, image: str) -> None:
    assert f"{image} is no file: " in refused("explain", image, "--out", str(tmp_path / "why"))


def test_a_folder_to_explain_is_told_that_pictures_are_named(tmp_path: Path) -> None:
    told = refused("explain", str(tmp_path), "--out", str(tmp_path / "why"))
    assert told.endswith(f"is a folder: name the pictures in it, as {tmp_path}/*.jpg does")
    assert not (tmp_path / "why").exists()
    assert not (tmp_path / "why").exists()


def test_a_detector_in_another_precision_is_another_detector(tmp_path: Path) -> None:
    lite, quick, back = resolve("radet-lite"), tmp_path / "quick", tmp_path / "back"
    done = radet("models", "convert", "radet-lite", "--precision", "bf16", "--out", str(quick))
    assert done.returncode == 0, done.stderr
    assert model_id(quick) == model_id(lite, precision="bf16") != model_id(lite)
    assert f"{model_id(quick)}, bf16" in done.stdout
    assert (DetectorConfig.read(quick).name, DetectorConfig.read(quick).precision) == ("quick", "bf16")
    assert (quick / "golden.json").read_bytes() == (lite / "golden.json").read_bytes()
    assert (quick / "README.md").read_text().startswith(f"> radet-lite (`{model_id(lite)}`) in bf16")
    assert radet("models", "convert", str(quick), "--precision", "fp32", "--out", str(back)).returncode == 0
    assert model_id(back) == model_id(lite)
    assert "name another folder" in refused("models", "convert", str(back), "--precision", "bf16", "--out", str(back))
    assert model_id(back) == model_id(lite)
