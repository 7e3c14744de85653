"""What the benchmarks' command lines have in common."""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from radet.errors import ConfigError, RadetError


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """The docstring's lines as they are; the default after each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def new_parser(doc: str | None, *, save: bool = True) -> argparse.ArgumentParser:
    """For a module that `python -m benchmarks.NAME` runs: its docstring, and --save."""
    name = Path(sys.argv[0]).stem
    found = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=doc, formatter_class=_Help)
    if save:
        found.add_argument("--save", metavar="NAME", help="write benchmarks/results/NAME.json, over what is there")
    return found


def run_main(main: Callable[[], None]) -> None:
    """What the command `radet` says in one line is one line here, too."""
    try:
        main()
    except RadetError as error:
        sys.exit(str(error))


def require_modules(python: str, *names: str) -> None:
    """Raises ConfigError unless that interpreter imports them: better now than after the first hour."""
    try:
        done = subprocess.run([python, "-c", f"import {', '.join(names)}"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise ConfigError(f"{python} cannot be started: {error.strerror}") from None
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(f"{python} does not import {' and '.join(names)}: {why}")
