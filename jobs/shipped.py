"""The YAML files that come with radet: recipes, and job files to begin from."""

import os
from collections.abc import Sequence
from pathlib import Path

from radet.errors import ConfigError

_HERE = Path(__file__).parent

RECIPES = tuple(sorted(file.name for file in _HERE.glob("train-*.yaml")))
JOB_FILES = tuple(sorted({file.name for file in _HERE.glob("*.yaml")} - set(RECIPES)))


def shipped(file: Path, names: Sequence[str]) -> Path | None:
    """The one of `names` that `file` means where no file lies there: NAME, or jobs/NAME as in a checkout."""
    return _HERE / file.name if file.name in names and file.parent in {Path(), Path("jobs")} else None


def here_or_shipped(file: Path, names: Sequence[str]) -> Path:
    """Raises ConfigError that lists `names`."""
    if os.path.exists(file):  # Path's raises where it may not look, or the name is too long
        return file
    found = shipped(file, names)
    if found is None:
        raise ConfigError(f"no such file: {file}; those in {_HERE} are found by name: {', '.join(names)}")
    return found
