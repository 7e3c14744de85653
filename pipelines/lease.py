"""One writer per output.

Local: an advisory lock on a file, which the kernel drops with its process, however it ends.
S3: an object that its holder creates with a conditional PUT and renews while it lives. Another writer watches it: if it
is renewed, the holder lives and the writer is refused; if it stays unchanged for `EXPIRY_S`, the holder is dead and the
writer takes over, again by a conditional PUT. Only the watcher's own clock is used, so clocks need not agree.
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from types import TracebackType
from typing import IO, Self

from pipelines import s3
from pipelines.storage import LocalFolder, S3Folder, writing
from radet.errors import ConfigError, FetchError

NAME = "_lock"
RENEW_S = 3.0
EXPIRY_S = 15.0


def _holder() -> dict[str, str | int]:
    return {"host": socket.gethostname(), "pid": os.getpid()}


def _refusal(url: str, holder: str) -> ConfigError:
    return ConfigError(f"another run is writing to {url} ({holder}): wait for it to end, or write somewhere else")


class Lease:
    """Held from `with` to its end. `lost` turns true if another writer took it (a process asleep for too long)."""

    def __init__(self, folder: LocalFolder | S3Folder) -> None:
        self._folder = folder
        self._file: IO[str] | None = None
        self._etag: str | None = None
        self._stop = threading.Event()
        self._renewer: threading.Thread | None = None
        self._id = uuid.uuid4().hex
        self.lost = False

    def __enter__(self) -> Self:
        if isinstance(self._folder, LocalFolder):
            self._lock_file(self._folder)
        else:
            self._etag = self._take_object(self._folder)
            self._renewer = threading.Thread(target=self._renew, args=(self._folder,), daemon=True)
            self._renewer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._renewer is not None and isinstance(self._folder, S3Folder):
            self._stop.set()
            self._renewer.join()
            if not self.lost:
                self._folder.delete([NAME])

    def _lock_file(self, folder: LocalFolder) -> None:
        with writing(folder.url):
            folder.root.mkdir(parents=True, exist_ok=True)
            self._file = (folder.root / NAME).open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip()
            self._file.close()
            raise _refusal(folder.url, holder) from None
        self._file.truncate(0)
        self._file.write(json.dumps(_holder()))
        self._file.flush()

    def _take_object(self, folder: S3Folder) -> str:
        url = folder.object_url(NAME)
        try:
            return self._put(folder, only_if_absent=True)
        except s3.PreconditionError:
            pass
        holder = json.loads(folder.read(NAME))
        first = s3.head(url).etag
        deadline = time.monotonic() + EXPIRY_S
        dead_here = holder.get("host") == socket.gethostname() and not _alive(int(holder.get("pid", 0)))
        while not dead_here and time.monotonic() < deadline:
            time.sleep(0.5)
            if s3.head(url).etag != first:
                raise _refusal(folder.url, f"{holder.get('host')}, process {holder.get('pid')}")
        try:
            return self._put(folder, only_if_etag=first)
        except s3.PreconditionError:
            raise _refusal(folder.url, "a run that started this moment") from None

    def _renew(self, folder: S3Folder) -> None:
        while not self._stop.wait(RENEW_S):
            try:
                self._etag = self._put(folder, only_if_etag=self._etag)
            except s3.PreconditionError:
                self.lost = True
                return
            except FetchError:
                continue  # a burst of 503s; the lease ends only when nobody renews it for EXPIRY_S

    def _put(self, folder: S3Folder, *, only_if_absent: bool = False, only_if_etag: str | None = None) -> str:
        """Write the lock on a condition; its ETag."""
        # The time makes every renewal another ETag; nobody compares it with a clock.
        body = json.dumps(_holder() | {"lease": self._id, "renewed": time.time()}).encode()
        try:
            return s3.put(folder.object_url(NAME), body, only_if_absent=only_if_absent, only_if_etag=only_if_etag)
        except s3.PreconditionError:
            # Where the answer to a write is lost, the client writes again, and finds the state that it made itself.
            etag = self._own(folder)
            if etag is None:
                raise
            return etag

    def _own(self, folder: S3Folder) -> str | None:
        """The lock's ETag if this lease wrote it. Asked first, so that it is never newer than the content."""
        try:
            etag = s3.head(folder.object_url(NAME)).etag
            holder = json.loads(folder.read(NAME))
        except FileNotFoundError:
            return None
        except FetchError as error:
            if error.code != "not_found":
                raise
            return None
        return etag if holder.get("lease") == self._id else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
