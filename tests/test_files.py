"""What lies at a path is read up to a cap, or refused at once."""

import os
import re
import subprocess
import sys

import pytest

from radet.crop import CropPolicy
from radet.errors import RadetError
from radet.files import read_file
from radet.rows import read_row


def code_of(path, cap: int = 100) -> str:
    try:
        read_file(path, cap)
    except RadetError as error:
        return error.code
    return "ok"


def test_the_cap_is_inclusive(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 100)
    assert read_file(tmp_path / "a", 100) == b"x" * 100
    assert code_of(tmp_path / "a", 99) == "too_large_bytes"


def test_what_is_no_file_is_refused_at_once_and_leaves_nothing_open(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    before = os.listdir("/proc/self/fd")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        assert code_of(path) == "not_an_image"
    assert os.listdir("/proc/self/fd") == before


def test_a_file_far_over_the_cap_is_not_read(tmp_path):
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(3 << 30)
    script = (
        "import sys; from pathlib import Path; from radet.crop import CropPolicy; from radet.rows import read_row\n"
        "print(read_row(sys.argv[1], 0, CropPolicy()).facts['status'], Path('/proc/self/status').read_text())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "sparse.jpg"], capture_output=True, check=True, text=True
    )
    assert done.stdout.split()[0] == "too_large_bytes"
    assert int(re.search(r"VmHWM:\s+(\d+)", done.stdout)[1]) < 1 << 20  # KiB


@pytest.mark.parametrize(
    ("name", "expected"),
    [("absent.png", "not_found"), ("nul\0.png", "not_found"), ("x" * 5000, "not_found"), (".", "not_an_image")],
)
def test_a_path_that_leads_nowhere_is_a_row(tmp_path, name, expected):
    row = read_row(f"{tmp_path}/{name}", 0, CropPolicy())
    assert (row.facts["status"], row.crop) == (expected, None)


def test_a_loop_of_links_is_not_found_and_a_closed_file_forbidden(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "closed").write_bytes(b"")
    (tmp_path / "closed").chmod(0)
    assert read_row(tmp_path / "loop", 0, CropPolicy()).facts["status"] == "not_found"
    expected = "empty" if os.access(tmp_path / "closed", os.R_OK) else "forbidden"  # root reads everything
    assert read_row(tmp_path / "closed", 0, CropPolicy()).facts["status"] == expected
