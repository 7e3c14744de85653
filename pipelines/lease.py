"""One writer per output.

Local: an advisory lock on a file, which the kernel drops with its process, however it ends.
S3: an object that its holder creates with a conditional PUT and renews while it lives. Another writer watches it: if it
is renewed, the holder lives and the writer is refused; if it stays unchanged for `EXPIRY_S`, the holder is dead and the
writer takes over, again by a conditional PUT. A holder that could not renew it says so (`Lease.lost`) before that time
has passed. Everybody uses a clock of their own, so clocks need not agree.

S3 lets nobody write one object on the condition of another. So whoever commits for the holder asks `held` right before
the write that counts: it also renews the lock, and nobody else may take it until that write has long been done.
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self, TypeVar

from pipelines import s3
from pipelines.storage import LocalFolder, S3Folder, writing
from radet.errors import ConfigError, FetchError

NAME = "_lock"
RENEW_S = 3.0
EXPIRY_S = 15.0
_TRUSTED = 0.9  # of EXPIRY_S: so long after its last renewal a holder is sure that nobody has taken over
_PAUSE_S = 0.5  # between two looks at another's lock, and after a renewal that failed
_TRIES = 5
_HERE = ("host", "boot", "namespace")  # a process id means one process where these agree
_T = TypeVar("_T")


class Lease:
    """Held from `with` to its end; `id` is what `held` wants to know, also in another process."""

    def __init__(self, folder: LocalFolder | S3Folder) -> None:
        self.id = uuid.uuid4().hex
        self._folder = folder
        self._file: IO[str] | None = None
        self._lock: _Lock | None = None
        self._taken = False
        self._stop = threading.Event()
        self._renewer: threading.Thread | None = None

    @property
    def lost(self) -> bool:
        """Whether another writer has taken it, or may have: after a sleep, or without an answer of S3 for too long.

        False again where a renewal then finds that nobody has.
        """
        return self._lock is not None and (self._taken or time.monotonic() > self._lock.until)

    @property
    def taken(self) -> bool:
        """Whether another writer has taken it: what long work stops for, which an outage of S3 need not end."""
        return self._taken

    def __enter__(self) -> Self:
        holder = _holder() | {"lease": self.id}
        if isinstance(self._folder, LocalFolder):
            self._lock_file(self._folder, holder)
        else:
            self._lock = _Lock(self._folder, holder)
            _patiently(partial(_take, self._lock, self._folder.url))
            self._renewer = threading.Thread(target=self._renew, args=(self._lock,), daemon=True)
            self._renewer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._renewer is not None and self._lock is not None:
            self._stop.set()
            self._renewer.join()
            if not self.lost:
                with suppress(FetchError):  # it expires; what the run has done stands
                    self._lock.delete()

    def _lock_file(self, folder: LocalFolder, holder: dict[str, Any]) -> None:
        with writing(folder.url):
            folder.root.mkdir(parents=True, exist_ok=True)
            self._file = (folder.root / NAME).open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            other = _facts(self._file.read())
            self._file.close()
            raise _refusal(folder.url, other) from None
        with writing(folder.url):
            self._file.truncate(0)
            self._file.write(json.dumps(holder))
            self._file.flush()
            os.fsync(self._file.fileno())  # `held` may be asked on another machine

    def _renew(self, lock: "_Lock") -> None:
        pause = RENEW_S
        while not self._stop.wait(pause):
            try:
                lock.put(lock.etag)
                pause = RENEW_S
            except s3.PreconditionError:
                self._taken = True
                return
            except FetchError:  # a burst of 503s, or no answer
                pause = min(RENEW_S, _PAUSE_S)


def held(folder: LocalFolder | S3Folder, lease: str) -> bool:
    """Whether the lease with this id still has the folder, asked by any process.

    On S3 a yes also renews it, so it stays true for some seconds, whatever becomes of the holder.

    Raises:
        FetchError: S3 does not say.
    """
    if isinstance(folder, LocalFolder):
        try:
            return _facts(folder.read(NAME)).get("lease") == lease
        except FileNotFoundError:
            return False
    return _patiently(partial(_renewed_for, _Lock(folder, {"lease": lease})))


class _Seen(NamedTuple):
    """The lock as it was at one moment."""

    body: bytes
    etag: str


class _Lock:
    """The object on S3. `until` is how long, on this process's clock, what was last put is sure to stand."""

    def __init__(self, folder: S3Folder, holder: dict[str, Any]) -> None:
        self.holder = holder
        self.etag: str | None = None
        self.until = 0.0
        self._url = folder.object_url(NAME)
        # An answer that does not come must leave time to ask again before the lease expires.
        self._client = s3.new_client(connect_s=2, read_s=3, attempts=2)

    def seen(self) -> _Seen | None:
        """None where there is none."""
        try:
            return _Seen(*s3.get_tagged(self._url, by=self._client))
        except FetchError as error:
            if error.code != "not_found":
                raise
            return None

    def owned(self, seen: _Seen | None) -> bool:
        return seen is not None and _facts(seen.body).get("lease") == self.holder["lease"]

    def put(self, etag: str | None) -> None:
        """Write it where it has this ETag, or, with None, where there is none.

        Raises:
            PreconditionError: it is another's, or gone.
        """
        begun = time.monotonic()
        # Every renewal has another ETag.
        body = json.dumps(self.holder | {"renewal": uuid.uuid4().hex}).encode()
        try:
            found = s3.put(self._url, body, only_if_absent=etag is None, only_if_etag=etag, by=self._client)
        except s3.PreconditionError:
            # Where the answer to a write is lost, the client writes again, and finds the state that it made itself.
            seen = self.seen()
            if seen is None or not self.owned(seen):
                raise
            if seen.body != body:  # written by an earlier call, who knows when, or by `held`
                self.put(seen.etag)
                return
            found = seen.etag
        self.etag, self.until = found, begun + EXPIRY_S * _TRUSTED

    def delete(self) -> None:
        bucket, key = s3.split(self._url)
        s3.delete(bucket, [key], by=self._client)


def _take(lock: _Lock, url: str) -> None:
    for _ in range(_TRIES):  # its holder may end, and another begin, between any two requests
        with suppress(s3.PreconditionError):
            return lock.put(None)
        seen = lock.seen()
        if seen is not None:
            _outwait(lock, seen, url)
            with suppress(s3.PreconditionError):
                return lock.put(seen.etag)
    raise _refusal(url, {})


def _outwait(lock: _Lock, first: _Seen, url: str) -> None:
    """Return when the lock's holder has ended or is dead."""
    holder = _facts(first.body)
    deadline = time.monotonic() + EXPIRY_S
    while not _dead_here(holder) and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
        seen = lock.seen()
        if seen is None:
            return
        if seen.etag != first.etag:
            raise _refusal(url, holder)


def _renewed_for(lock: _Lock) -> bool:
    seen = lock.seen()
    if seen is None or not lock.owned(seen):
        return False
    lock.holder = _facts(seen.body)  # who holds it stays who took it
    try:
        lock.put(seen.etag)
    except s3.PreconditionError:
        return False
    return True


def _patiently(ask: Callable[[], _T]) -> _T:
    """`ask`, again where S3 did not answer: the lock's client soon gives up."""
    for _ in range(_TRIES - 1):
        try:
            return ask()
        except FetchError as error:
            if not error.transient:
                raise
    return ask()


def _refusal(url: str, holder: dict[str, Any]) -> ConfigError:
    who = f"{holder.get('host', 'an unknown host')}, process {holder.get('pid', 'unknown')}"
    return ConfigError(f"another run is writing to {url} ({who}): wait for it to end, or write somewhere else")


def _facts(body: str | bytes) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(body)
    except ValueError:  # a file whose holder is about to write it
        return {}
    return facts


def _holder() -> dict[str, Any]:
    """This process; without `_HERE` where the system does not tell."""
    holder = {"host": socket.gethostname(), "pid": os.getpid()}
    try:
        return holder | {
            # Containers may share a host's name, and have process ids of their own.
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "namespace": os.readlink("/proc/self/ns/pid"),
            "started": _started("self"),
        }
    except OSError:
        return holder


def _dead_here(holder: dict[str, Any]) -> bool:
    """Whether the holder is known to be dead, as a process of this machine."""
    here = _holder()
    return all(name in here and holder.get(name) == here[name] for name in _HERE) and not _alive(holder)


def _alive(holder: dict[str, Any]) -> bool:
    pid, started = int(holder["pid"]), str(holder["started"])
    try:
        os.kill(pid, 0)
        return _started(pid) == started  # else the id has gone to another process
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True


def _started(pid: int | str) -> str:
    """When a process started, in the kernel's ticks. Raises OSError."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
