"""A job file: one YAML, one frozen dataclass, checked before anything is sent to a cluster.

The section's name is the command, its keys are the command's options:

    name: nightly-score
    score:
      src: s3://bucket/images
      out: s3://bucket/scores
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from jobs.spans import span
from radet.errors import ConfigError
from radet.typed import from_yaml

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_VARIABLE = re.compile(r"([A-Z][A-Z0-9_]*)=(.*)", re.DOTALL)
_SECRET = re.compile(
    r"SECRET|TOKEN|PASSW|PASSPHRASE|CREDENTIAL|AUTHORIZATION|COOKIE|(ACCESS|API|PRIVATE)_?KEY|(^|_)(PASS|PWD|AUTH|KEYS?)$"
)
_SECRET_VALUE = re.compile(r"(^|://)[^/?#\s]*:[^/?#\s]+@|-----BEGIN")  # user:password@host, a key


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSection:
    """`radet score SRC... --out OUT`; see its --help. `src` may be a list."""

    src: str | tuple[str, ...]
    out: str
    model: str = "radet-lite"
    limit: int | None = None
    ids: str | None = None
    column: str | None = None
    workers: int | None = None
    batch_size: int | None = None
    allow_http: bool = False
    rescore: bool = False
    max_failed: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSection:
    """`radet train DATA --val VAL --config RECIPE --out OUT`; see its --help.

    `config`   the recipe: a file below `working_dir`, one of radet's own by its name, or an absolute path in the image
    `workers`  in quotes: "2", or "2:8" to be elastic
    `resume`   on by default: a job that is sent again goes on, and one that never began begins
    """

    data: str
    val: str
    config: str
    out: str
    workers: str = "1"
    gpus: bool = False
    resume: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSection:
    """`radet evaluate DATA --out OUT`; see its --help. `model` and `peers` are lists."""

    data: str
    out: str
    model: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    suite: str | None = None
    format_neutral: bool = False
    groups: str | None = None
    limit: int | None = None
    workers: int | None = None
    batch_size: int | None = None
    allow_http: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSection:
    """`radet serve`; see its --help. The job runs as long as the endpoint does. `replicas` in quotes, as `workers`."""

    model: str = "radet-lite"
    host: str | None = None
    port: int | None = None
    replicas: str | None = None
    gpus: bool = False
    allow_url: bool = False


Section = ScoreSection | TrainSection | EvaluateSection | ServeSection
_SECTIONS: dict[str, type[Section]] = {
    "score": ScoreSection,
    "train": TrainSection,
    "evaluate": EvaluateSection,
    "serve": ServeSection,
}
_SPANS = (("train", "workers"), ("serve", "replicas"))
_POSITIONAL = {"score": "src", "train": "data", "evaluate": "data", "serve": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFile:
    """What to run and how to send it. Exactly one of `score`, `train`, `evaluate` and `serve` is given.

    `name`         lower-case letters, digits and dashes
    `run`          what tells one submission from the next; default: today's date, UTC. The two make the submission id
    `address`      the head's dashboard, http://HEAD:8265
    `env`          NAME=VALUE for the job's processes. Everyone who sees the dashboard can read it, so no secrets: those
                   come from the nodes' own environment (instance role, Kubernetes secret)
    `working_dir`  a folder to send, relative to the job file; none where the nodes' image has all that is wanted
    `include`      what of it is sent: files and folders
    """

    name: str
    run: str | None = None
    address: str | None = None
    env: tuple[str, ...] = ()
    working_dir: str | None = None
    include: tuple[str, ...] = ("radet", "pipelines", "jobs")
    score: ScoreSection | None = None
    train: TrainSection | None = None
    evaluate: EvaluateSection | None = None
    serve: ServeSection | None = None

    def __post_init__(self) -> None:
        given = [name for name in _SECTIONS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(
                f"one of the sections {', '.join(_SECTIONS)} says what to run; here are {given or 'none'}"
            )
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"name: up to 63 lower-case letters, digits and dashes, not {self.name!r}")
        if self.run is not None and not _RUN.fullmatch(self.run):
            raise ConfigError(f"run: up to 63 letters, digits, dots, dashes and underscores, not {self.run!r}")
        for line in self.env:
            matched = _VARIABLE.fullmatch(line)
            if matched is None:
                raise ConfigError(f"env: write NAME=VALUE, in capitals, not {line.partition('=')[0]!r}")
            if _SECRET.search(matched[1]) or _SECRET_VALUE.search(matched[2]):
                raise ConfigError(
                    f"env: {matched[1]} looks like a secret, and the dashboard shows a job's variables: give it to the "
                    "nodes themselves (instance role, Kubernetes secret)"
                )
        self._require_understood()

    def _require_understood(self) -> None:
        """The command reads its line here as it would there."""
        import typer
        from typer.exceptions import TyperException

        from jobs.cli import app  # which imports this file

        for section, key in _SPANS:
            if section == self.command and (text := getattr(getattr(self, section), key)) is not None:
                span(f"{section}.{key}", text)
        commands: Any = typer.main.get_command(app)
        _, name, *arguments = self.arguments
        try:
            commands.commands[name].make_context(name, arguments)
        except TyperException as error:
            raise ConfigError(f"{name}: {error.format_message()}") from None

    @property
    def command(self) -> str:
        return next(name for name in _SECTIONS if getattr(self, name) is not None)

    @property
    def environment(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.env)

    @property
    def arguments(self) -> list[str]:
        """The command line, an argument each. Values are bound to their option, so that none is taken for another."""
        section, positional = getattr(self, self.command), _POSITIONAL[self.command]
        found = ["radet", self.command, "--address=auto"]
        for field in fields(section):
            value, option = getattr(section, field.name), f"--{field.name.replace('_', '-')}"
            if field.name == positional or value is None or value is False:
                continue
            values = value if isinstance(value, tuple) else (value,)
            found += [option if one is True else f"{option}={one}" for one in values]
        if positional is None:
            return found
        given = getattr(section, positional)
        return [*found, "--", *(given if isinstance(given, tuple) else (given,))]

    @property
    def entrypoint(self) -> str:
        """The command line for the shell that Ray starts it with."""
        return shlex.join(self.arguments)


def read(file: Path, overrides: Sequence[str] = ()) -> JobFile:
    """The job that a YAML file describes, with `key=value` overrides, such as `score.limit=100`.

    Raises ConfigError that names the file, the key and what to write there.
    """

    def change(data: Any) -> None:
        if not isinstance(data, dict):
            return  # which is refused where it is read
        for override in overrides:
            _override(data, override)
        for section, key in _SPANS:
            given = data.get(section)
            if isinstance(given, dict) and isinstance(given.get(key), int):
                raise ConfigError(f'{section}.{key}: in quotes, "2" or "2:8", which YAML reads as another number')
        env = data.get("env", [])
        if not isinstance(env, list) or not all(isinstance(line, str) for line in env):
            raise ConfigError("env: a list, a line NAME=VALUE each")  # which does not repeat what may be a secret

    return from_yaml(JobFile, file, change)


def without_password(text: str) -> str:
    """As it may be shown: an address may hold one, for a proxy before the head."""
    return re.sub(r"//[^/?#\s]*@", "//", text)  # to the last @: a password may hold one, too


def _override(data: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    *parents, last = path.split(".")
    if not equals or not all((*parents, last)):
        raise ConfigError(f"--set takes KEY=VALUE or SECTION.KEY=VALUE, not {override!r}")
    for parent in parents:
        if not isinstance(data.get(parent), dict):
            raise ConfigError(f"--set {override}: the file has no section {parent!r}")
        data = data[parent]
    try:
        data[last] = text if _is_text(parents, last) else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError):  # ValueError: a date in month 13
        raise ConfigError(f"--set {override}: what stands after = cannot be read as YAML") from None


def _is_text(parents: list[str], last: str) -> bool:
    """Whether a key holds text, which YAML might read as a date (run=2026-11-21) or a number (workers=2:8)."""
    owner: type[Any] | None = JobFile if not parents else _SECTIONS.get(parents[0])
    hint = owner.__annotations__.get(last) if owner is not None else None
    return hint in (str, str | None)
