"""The layers are law: radet <- pipelines <- jobs; the method knows of no engine; cluster/ holds no Python."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import radet

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "radet": {"ray", "fastapi", "starlette", "s3fs", "fsspec", "botocore", "pyarrow", "pandas", "pipelines", "jobs"},
    "pipelines": {"jobs", "typer", "rich"},
}


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("layer", sorted(FORBIDDEN))
def test_no_layer_imports_what_is_above_it(layer: str) -> None:
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files
    wrong = {str(file.relative_to(ROOT)): set(imports(file)) & FORBIDDEN[layer] for file in files}
    assert not {file: names for file, names in wrong.items() if names}


def test_what_is_imported_is_declared() -> None:
    """Not only there because a dependency happens to bring it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["dev"]  # jobs.sample is the checkout's
    declared = {re.split(r"[\[>=]", line)[0].replace("_", "-") for line in lines}
    brings = packages_distributions()
    layers = ("radet", "pipelines", "jobs")
    asked = {name for layer in layers for file in (ROOT / layer).rglob("*.py") for name in imports(file)}
    asked -= {*sys.stdlib_module_names, *layers, "_typeshed"}
    assert len(asked) > 20
    found = {name: {one.lower().replace("_", "-") for one in brings.get(name, [name])} for name in asked}
    assert not {name for name, packages in found.items() if not packages & declared}


def test_cluster_holds_no_python() -> None:
    assert not list((ROOT / "cluster").rglob("*.py"))


def test_no_file_is_longer_than_one_sitting() -> None:
    files = [
        file for part in ("radet", "pipelines", "jobs", "tests", "benchmarks") for file in (ROOT / part).rglob("*.py")
    ]
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in files}
    assert len(lengths) > 100
    assert not {name: length for name, length in lengths.items() if length > 400}


@pytest.mark.parametrize("module", ["radet", "radet.config", "radet.errors", "jobs.cli", "pipelines.score"])
def test_drivers_and_help_do_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_notebooks_and_type_checkers_know_every_public_name() -> None:
    """`Detector` is no attribute yet before its first use; types count where py.typed is installed beside them."""
    assert set(radet.__all__) <= set(dir(radet))
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["radet"]
    assert "py.typed" in told
    assert (ROOT / "radet" / "py.typed").is_file()
