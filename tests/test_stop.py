"""Ctrl-C: a sentence that says what is left and how to go on."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipelines.storage import TEMPORARY

from .conftest import RADET, as_a_user
from .corpus import write_corpus


def interrupted(at_work: Callable[["subprocess.Popen[str]"], None], *arguments: str) -> tuple[int, str]:
    """Exit code and last line of a command that gets a Ctrl-C once it is at work."""
    # As from a terminal: a shell's job in the background, such as these tests may be, is told to ignore it.
    command = ["env", "--default-signal=INT", RADET, *arguments]
    process = subprocess.Popen(command, env=as_a_user(), stderr=subprocess.PIPE, text=True)
    try:
        at_work(process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, said.splitlines()[-1]


@pytest.fixture
def data(tmp_path: Path, photographs: list[Image.Image]) -> str:
    for label in ("0_real", "1_fake"):
        write_corpus(tmp_path / "data" / label, 200, photographs)
    return str(tmp_path / "data")


def test_an_analysis(tmp_path: Path, data: str) -> None:
    out = tmp_path / "out"

    def at_work(process: "subprocess.Popen[str]") -> None:
        while not out.is_dir():  # as soon as the request has been looked at
            assert process.poll() is None
            time.sleep(0.02)

    code, said = interrupted(at_work, "analyze", data, "--out", str(out))
    assert (code, said) == (1, "radet: stopped before the findings were written: run the same command again")
    assert not [name for name in os.listdir(out) if not name.startswith(TEMPORARY)]


@pytest.mark.ray
def test_a_calibration(tmp_path: Path, data: str) -> None:
    def at_work(process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Scoring ")

    code, said = interrupted(at_work, "calibrate", data, "--out", str(tmp_path / "out"))
    assert (code, said) == (1, "radet: stopped before the checkpoint was written: run the same command again")
    assert os.listdir(tmp_path / "out") == []
