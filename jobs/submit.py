"""`radet submit` and `radet jobs`: the same commands, on a cluster's head."""

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jobs.jobfile import JobFile, read, without_password
from jobs.package import Package, package
from jobs.shipped import JOB_FILES, RECIPES, here_or_shipped, shipped
from radet.errors import ConfigError

if TYPE_CHECKING:
    from jobs.client import Cluster, Details

_HERE = "http://127.0.0.1:8265"
_ADDRESS = Annotated[
    str | None,
    typer.Option(envvar="RAY_API_SERVER_ADDRESS", help=f"The head's dashboard, http://HEAD:8265; default {_HERE}."),
]
_ID = Annotated[str, typer.Argument(metavar="ID", help="The job's id: NAME-RUN, or NAME-DATE.")]

_SENT = "radet_sent"  # a job's metadata: the digest of its files and variables

jobs = typer.Typer(no_args_is_help=True, help="See and stop what was submitted.")
_say = partial(Console(stderr=True, highlight=False, markup=False).print, soft_wrap=True)  # lines to be copied


def submit(
    job: Annotated[
        Path, typer.Argument(metavar="JOB.yaml", help=f"What to run: a YAML file, or one of {', '.join(JOB_FILES)}.")
    ],
    address: _ADDRESS = None,
    wait: Annotated[bool, typer.Option(help="Follow the log, and end with the job's exit code.")] = True,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Overrides the file: score.limit=100.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent.")] = False,
) -> None:
    """Run a job on an existing Ray cluster.

    A job has an id, its name and the date: sent twice in a night it runs once, and the second command follows it. If it
    has failed or was cancelled, it is started again, and goes on where it ended. Another command under an id that is at
    work or has succeeded is refused. Ctrl-C ends the watching, not the job.

    [bold]Examples[/bold]

      radet submit jobs/nightly-score.yaml --address http://head:8265

      radet submit jobs/nightly-score.yaml --set score.limit=1000 --set name=try --dry-run

    [bold]Exit codes[/bold]: the job's own (see `radet score --help`); 1 if the head is lost, too; 2 it cannot be sent.
    """
    job = here_or_shipped(job, JOB_FILES)
    wanted = read(job, overrides or ())
    _require_lasting(wanted)
    found = _package(wanted, job)
    address = address or wanted.address or _HERE
    run = wanted.run or datetime.now(UTC).date().isoformat()
    if dry_run:
        sys.stdout.write(json.dumps(_described(wanted, found, address, run), indent=2) + "\n")
        return
    from jobs.client import Cluster

    cluster = Cluster(address)
    submission = _submit(cluster, wanted, found, f"{wanted.name}-{run}")
    if not wait:
        return
    try:
        _end(cluster.follow(submission, _pass_on))
    except KeyboardInterrupt:
        see, end = cluster.command("logs", submission), cluster.command("cancel", submission)
        _say(f"\n{submission} goes on: `{see}` or `{end}`")
        raise typer.Exit(130) from None


@jobs.command()
def status(
    submission: Annotated[str | None, typer.Argument(metavar="ID", help="One job's: NAME-RUN, or NAME-DATE.")] = None,
    address: _ADDRESS = None,
) -> None:
    """Show one job, or all that the head remembers."""
    cluster = _cluster(address)
    found = cluster.all() if submission is None else [cluster.get(submission)]
    _show(Console(highlight=False, markup=False), found)


@jobs.command()
def logs(
    submission: _ID,
    address: _ADDRESS = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends, and end with its exit code.")
    ] = False,
) -> None:
    """Print what a job has written."""
    cluster = _cluster(address)
    if follow:
        _end(cluster.follow(submission, _pass_on))
    else:
        _pass_on(cluster.logs(submission))


@jobs.command()
def cancel(submission: _ID, address: _ADDRESS = None) -> None:
    """Stop a job. What it has scored or trained so far is kept: submitted again, it goes on."""
    cluster = _cluster(address)
    if cluster.stop(submission):
        _say(f"{submission}: stopping")
        return
    again = re.compile(re.escape(submission) + r"-\d+")
    at_work = [one.submission_id for one in cluster.all() if not one.status.is_terminal()]
    later = [f"; {name} is at work: `{cluster.command('cancel', name)}`" for name in at_work if again.fullmatch(name)]
    _say(f"{submission}: had ended already{''.join(later)}")


def _show(console: Console, found: list["Details"]) -> None:
    """A table; where there is no terminal, a line a job, whole."""
    table = Table()
    for column, one_line in (("id", False), ("status", True), ("began (UTC)", True), ("command", False)):
        table.add_column(column, overflow="fold", no_wrap=one_line)
    for job in found:
        began = datetime.fromtimestamp((job.start_time or 0) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        row = (job.submission_id, str(job.status), began, job.entrypoint)
        if console.is_terminal:
            table.add_row(*row)
        else:
            console.print("  ".join(row), soft_wrap=True)
    if console.is_terminal:
        console.print(table)


def _cluster(address: str | None) -> "Cluster":
    from jobs.client import Cluster

    return Cluster(address or _HERE)


def _submit(cluster: "Cluster", wanted: JobFile, found: Package | None, base: str) -> str:
    """Send the job, or find the one that is at work; the submission id."""
    submission, number, sent = base, 1, _digest(wanted, found)
    while (before := cluster.find(submission)) is not None:
        state = str(before.status)
        other = None
        if before.entrypoint != wanted.entrypoint:
            other = "another command"
        elif (before.metadata or {}).get(_SENT, sent) != sent:
            other = "other files, or another env"
        if state == "SUCCEEDED":
            if other is not None:
                raise ConfigError(
                    f"{submission} has succeeded already, with {other}: for this give --set run=SOMETHING"
                )
            _say(f"{submission} has succeeded already, nothing is sent; to run it anew: --set run=SOMETHING")
            return submission
        if not before.status.is_terminal():
            if other is not None:
                message = f"{submission} is at work with {other}: wait, `{cluster.command('cancel', submission)}`, or "
                raise ConfigError(message + "give --set name=ANOTHER")
            _say(f"{submission} is at work already, nothing is sent")
            return submission
        number += 1
        _say(f"{submission} has ended before: {state.lower()}")
        submission = f"{base}-{number}"
    if not _send(cluster, wanted, found, submission, sent):
        return _submit(cluster, wanted, found, base)
    _say(f"Submitted {submission} to {cluster.address}: {wanted.entrypoint}")
    return submission


def _send(cluster: "Cluster", wanted: JobFile, found: Package | None, submission: str, digest: str) -> bool:
    runtime_env: dict[str, Any] = {"env_vars": wanted.environment}
    with tempfile.TemporaryDirectory() as folder:
        if found is not None:
            archive = Path(folder) / "job.zip"
            found.write(archive)
            runtime_env["working_dir"] = str(archive)
        return cluster.send(submission, wanted.entrypoint, runtime_env, {_SENT: digest})


def _digest(wanted: JobFile, found: Package | None) -> str:
    """Of what travels beside the command."""
    parts = [json.dumps(wanted.environment, sort_keys=True), "" if found is None else found.digest()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _package(wanted: JobFile, file: Path) -> Package | None:
    """The folder to send."""
    root = (file.parent / (wanted.working_dir or ".")).resolve()
    found = None if wanted.working_dir is None else package(root, wanted.include)
    if wanted.train is not None and not Path(wanted.train.config).is_absolute():
        _require_recipe(wanted.train.config, root, () if found is None else found.names)
    return found


def _require_lasting(wanted: JobFile) -> None:
    """A run says that all went well, and what it wrote into the folder that Ray lets a job run in is soon gone."""
    out = getattr(getattr(wanted, wanted.command), "out", None)
    if out is not None and "://" not in out and not Path(out).is_absolute():
        raise ConfigError(f"{wanted.command}.out: s3://BUCKET/PREFIX, or a path that begins with /, not {out!r}")


def _require_recipe(config: str, root: Path, sent: Sequence[str]) -> None:
    """One that is not there, is wrong, or is another than the one that is meant, is not found out on the cluster."""
    from radet.recipe import Recipe

    ours, here = shipped(Path(config), RECIPES), root / config
    if os.path.normpath(config) in sent:
        Recipe.read(here)
    elif ours is None or (here.exists() and not here.samefile(ours)):
        raise ConfigError(f"train.config: {config} is not among the files that are sent: see working_dir and include")


def _described(wanted: JobFile, found: Package | None, address: str, run: str) -> dict[str, Any]:
    folder = None
    if found is not None:
        folder = {"root": str(found.root), "files": len(found.names), "bytes": found.size}
    return {
        "address": without_password(address),
        "submission_id": f"{wanted.name}-{run}",
        "entrypoint": wanted.entrypoint,
        "env_vars": wanted.environment,
        "working_dir": folder,
    }


def _pass_on(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _end(job: "Details") -> None:
    from jobs.client import exit_code

    code = exit_code(job)
    if code and job.message and job.driver_exit_code is None:
        _say(f"{job.submission_id}: {job.message}", style="yellow")
    _say(f"{job.submission_id} {str(job.status).lower()}")
    if code:
        raise typer.Exit(code)
