"""What pip installs has all that the checkout has, and finds it from any folder."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from .conftest import ROOT

PACKAGES = ("radet", "pipelines", "jobs")
BUILD = "from setuptools import build_meta as b; b.build_wheel('dist'); b.build_sdist('dist')"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, made elsewhere: building writes beside the sources."""
    folder = tmp_path_factory.mktemp("build")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    subprocess.run([sys.executable, "-c", BUILD], cwd=folder, check=True, capture_output=True)
    return folder / "dist"


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(*built.glob("*.whl")) as wheel:
        wheel.extractall(folder)
    return folder


def test_every_file_of_a_package_is_in_the_wheel_and_in_the_sdist(built: Path, installed: Path) -> None:
    ours = {
        file.relative_to(ROOT).as_posix()
        for name in PACKAGES
        for file in (ROOT / name).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert not {name for name in ours if not (installed / name).is_file()}
    with tarfile.open(*built.glob("*.tar.gz")) as sdist:
        assert not ours - {name.partition("/")[2] for name in sdist.getnames()}


def command(installed: Path, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`radet` as installed, called from a folder without sources."""
    line = [sys.executable, "-P", "-m", "jobs.cli", *arguments]
    env = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("name", ["nightly-score.yaml", "jobs/train.yaml"])
def test_job_files_and_recipes_are_found_by_name_from_any_folder(installed: Path, tmp_path: Path, name: str) -> None:
    done = command(installed, tmp_path, "submit", name, "--dry-run")
    assert done.returncode == 0, done.stderr
    recipe = "--config=train-lite.yaml"  # found, and read: what is missing comes after it
    done = command(installed, tmp_path, "train", "no-such-corpus", "--val=v", recipe, f"--out={tmp_path / 'out'}")
    assert "no such file or folder: no-such-corpus" in done.stderr
