"""Bytes of one input, wherever it lies: a local file, an S3 object, a web page, a row of a Parquet file; or one of
these, degraded.

Batch and online share it.
"""

import os
import re
from dataclasses import replace
from typing import NamedTuple

from pipelines import degraded, s3
from pipelines.cells import Cell
from pipelines.http import HttpPolicy, HttpReader
from pipelines.items import display
from pipelines.outage import outage
from radet.errors import ConfigError, FetchError
from radet.files import read_file

MAX_BYTES = 64 << 20

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class Stat(NamedTuple):
    """What can be said of an input without reading it."""

    size: int | None  # bytes
    version: str | None  # changes when the content may have: etag, or size and modification time


class Fetcher:
    """Thread-safe. HTTP is refused unless it is allowed; see pipelines.http for what it then still refuses."""

    def __init__(self, *, allow_http: bool, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._http = HttpReader(replace(HttpPolicy.from_environment(), max_bytes=max_bytes)) if allow_http else None

    def look(self, location: str) -> Stat:
        """Size and version of a local file or an S3 object; both unknown for a URL.

        Raises:
            FetchError, ImageError
        """
        if (parts := degraded.split(location)) is not None:
            found = self.look(parts[1])
            return Stat(found.size, None if found.version is None else f"{parts[0]} {found.version}")
        if (cell := Cell.parse(location)) is not None:
            return Stat(None, cell.version)
        if is_http(location):
            return Stat(None, None)
        if location.startswith("s3://"):
            item = s3.head(location)
            return Stat(item.size, object_version(item))
        with _errors():
            status = os.stat(_path(location))
        return Stat(status.st_size, file_version(status))

    def read(self, location: str) -> bytes:
        """All bytes, up to the cap.

        Raises:
            FetchError, ImageError
        """
        if (parts := degraded.split(location)) is not None:
            from radet.degradations import degrade  # noqa: PLC0415 - drivers name locations and decode nothing

            original = self.read(parts[1])
            try:
                return degrade(original, parts[0])
            except ConfigError as error:
                raise FetchError("not_found", error.message) from error
        if (cell := Cell.parse(location)) is not None:
            return self._capped(cell.read())
        if is_http(location):
            if self._http is None:
                raise FetchError("blocked_address", "reading from the web is off: allow it with --allow-http")
            return self._http.read(location)
        if location.startswith("s3://"):
            return s3.get(location, max_bytes=self._max_bytes)
        with _errors():
            return read_file(_path(location), self._max_bytes)

    def _capped(self, data: bytes) -> bytes:
        if len(data) > self._max_bytes:
            raise FetchError("too_large_bytes", f"over the cap of {self._max_bytes:,} bytes")
        return data


def is_http(location: str) -> bool:
    """Whether it is a web address, in whatever capitals."""
    return location[:8].lower().startswith(("http://", "https://"))


def _path(location: str) -> str:
    if not location:
        raise FetchError("not_found", "no uri is given")
    if (scheme := _SCHEME.match(location)) is not None:
        raise FetchError("not_found", f"{scheme[0]} is not read: give a path, s3:// or http(s)://")
    return location


def file_version(status: os.stat_result) -> str:
    """Changes when a local file's content may have: size in bytes and modification time in nanoseconds."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def object_version(item: s3.Object) -> str:
    """The same of an S3 object: size in bytes and ETag."""
    return f"{item.size}-{item.etag}"


class _errors:  # noqa: N801 - reads as the statement it stands for; a generator would cost more than the read
    """OSError, and what is no name for a file, as FetchError."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError):  # a NUL, or half of a surrogate pair
            raise FetchError("not_found", "no file can have such a name") from error
        if isinstance(error, OSError) and (lost := outage(error)) is not None:
            if lost.code == "not_found" and display(name := str(error.filename)) != name:  # as older Excels write lists
                raise FetchError("not_found", f"{lost}; its name is no UTF-8: save the list as UTF-8") from error
            raise lost from error
