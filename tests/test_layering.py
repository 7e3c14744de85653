"""The layers are law: radet <- pipelines <- jobs; the method knows of no engine; cluster/ holds no Python."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def test_cluster_holds_no_python() -> None:
    assert not list((ROOT / "cluster").rglob("*.py"))


def test_no_file_is_longer_than_one_sitting() -> None:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    lengths = {name: len((ROOT / name).read_text().splitlines()) for name in listed.stdout.split()}
    assert not {name: length for name, length in lengths.items() if length > 400}


@pytest.mark.parametrize("module", ["radet", "radet.config", "radet.errors", "jobs.cli", "pipelines.score"])
def test_drivers_and_help_do_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
