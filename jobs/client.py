"""The Jobs API of a cluster's head, as far as `radet submit` and `radet jobs` need it.

Two traps of Ray's client are dealt with here: RAY_ADDRESS in the environment wins over the address that is given, and
no token is sent, though there is one, unless RAY_AUTH_MODE says so.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from jobs.jobfile import without_password
from jobs.stop import Stop
from radet.errors import ConfigError

for _name in ("dashboard_sdk", "job.sdk"):  # they tell of each upload, and of each stream that ends
    logging.getLogger(f"ray.dashboard.modules.{_name}").setLevel(logging.WARNING)

_PATIENCE_S = 60.0  # without an answer, before the head is given up
_POLL_S = 1.0
_STREAM_S = 600.0  # of a log, before it is asked for anew

Details = Any  # ray.job_submission.JobDetails; Ray is untyped here


class Cluster:
    """A head that answers. Raises ConfigError where it does not, or wants another token."""

    def __init__(self, address: str) -> None:
        if not _is_web_address(address):
            raise ConfigError(f"--address is the head's dashboard, http://HEAD:8265, not {without_password(address)!r}")
        self._address = address.rstrip("/")
        self.address = without_password(self._address)  # as messages name it
        os.environ["RAY_API_SERVER_ADDRESS"] = self._address
        self._client = self._connect()

    def command(self, name: str, submission: str = "") -> str:
        """`radet jobs NAME` for this head, to be copied."""
        return " ".join(filter(None, ["radet jobs", name, submission, "--address", self.address]))

    def find(self, submission: str) -> Details | None:
        """The job of that submission id, or None."""
        try:
            return self._client.get_job_info(submission)
        except (OSError, RuntimeError) as error:
            if "status code 404" in str(error):
                return None
            raise self._failed(error) from error

    def get(self, submission: str) -> Details:
        """As `find`. Raises ConfigError if there is none."""
        found = self.find(submission)
        if found is None:
            raise ConfigError(f"{self.address} has no job {submission!r}: `{self.command('status')}` lists them")
        return found

    def all(self) -> list[Details]:
        """Every submitted job that the head remembers, the latest first."""
        with self._asking():
            jobs = [job for job in self._client.list_jobs() if job.submission_id]
        return sorted(jobs, key=lambda job: job.start_time or 0, reverse=True)

    def send(
        self, submission: str, entrypoint: str, runtime_env: dict[str, Any], metadata: dict[str, str] | None = None
    ) -> bool:
        """Start a job; False if another submitter has just taken the id."""
        try:
            self._client.submit_job(
                submission_id=submission, entrypoint=entrypoint, runtime_env=runtime_env, metadata=metadata
            )
        except (OSError, RuntimeError) as error:
            if self.find(submission) is not None:
                return False
            raise self._failed(error) from error
        return True

    def stop(self, submission: str) -> bool:
        """Ask a job to end; False if it had ended."""
        self.get(submission)
        with self._asking():
            return bool(self._client.stop_job(submission))

    def logs(self, submission: str) -> str:
        """All that a job has written so far."""
        self.get(submission)
        with self._asking():
            return str(self._client.get_job_logs(submission))

    def follow(self, submission: str, write: Callable[[str], None]) -> Details:
        """Pass on what the job writes, from its first line, until it ends; then its details.

        Raises Stop when the head has not answered for a minute.
        """
        self.get(submission)
        log, answered = _Log(write), time.monotonic()
        while True:
            try:
                asyncio.run(self._tail(submission, log))
                job = self._client.get_job_info(submission)
                answered = time.monotonic()
                if job.status.is_terminal():
                    asyncio.run(self._tail(submission, log))  # what came after the stream had ended
                    return job
            except (OSError, RuntimeError, aiohttp.ClientError) as error:
                if log.heard:  # in this stream, which may have lasted for hours
                    answered = time.monotonic()
                elif time.monotonic() - answered > _PATIENCE_S:
                    message = f"lost {self.address}: {submission} may go on; see `{self.command('status', submission)}`"
                    raise Stop(message, 1) from error
            time.sleep(_POLL_S)

    async def _tail(self, submission: str, log: "_Log") -> None:
        """One stream, for a while: from a head that is gone without a word, nothing comes and no end either."""
        log.rewind()
        with suppress(TimeoutError):
            async with asyncio.timeout(_STREAM_S):
                async for text in self._client.tail_job_logs(submission):
                    log.take(text)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> ConfigError:
        return ConfigError(f"{self.address} does not do it: {without_password(_line(error))}")

    def _connect(self) -> Any:
        try:
            return JobSubmissionClient(self._address)
        except AuthenticationError as error:
            token = None if os.environ.get("RAY_AUTH_MODE") else _token()
            if token is None:
                raise self._refused() from error
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"no Ray dashboard at {self.address}: {without_password(_line(error))}") from error
        try:
            return JobSubmissionClient(self._address, headers={"Authorization": f"Bearer {token}"})
        except AuthenticationError as error:
            raise self._refused() from error

    def _refused(self) -> ConfigError:
        mend = "give it as RAY_AUTH_TOKEN, with RAY_AUTH_MODE=token"
        return ConfigError(f"{self.address} wants a token that it knows (`ray get-auth-token` on the head): {mend}")


class _Log:
    """Every stream of a log begins at its first line: passes on what was not passed on before."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._shown = self._seen = 0  # characters: passed on at all, and come by in this stream

    @property
    def heard(self) -> bool:
        """Whether anything came in this stream."""
        return self._seen > 0

    def rewind(self) -> None:
        self._seen = 0

    def take(self, text: str) -> None:
        new = text[max(0, self._shown - self._seen) :]
        self._seen += len(text)
        self._shown = max(self._shown, self._seen)
        if new:
            self._write(new)


def exit_code(job: Details) -> int:
    """What the submitter's own process ends with: the driver's code, 1 where it had none."""
    if job.status == JobStatus.SUCCEEDED:
        return 0
    code = job.driver_exit_code
    return code if isinstance(code, int) and 0 < code < 256 else 1


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:  # half of an IPv6 address
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _token() -> str | None:
    """The token where Ray itself looks for it, in Ray's order."""
    if "RAY_AUTH_TOKEN" in os.environ:
        return os.environ["RAY_AUTH_TOKEN"]
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        return file.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
