"""The bytes of a local file, up to a cap. Whatever else has a path is refused, not waited for."""

import os
import stat
from pathlib import Path

from radet.errors import FetchError, ImageError


def read_file(path: str | Path, max_bytes: int) -> bytes:
    """Raises ImageError not_an_image, FetchError too_large_bytes, and what the system says of a path: OSError, or
    ValueError for what is no name (a NUL, half of a surrogate pair)."""
    try:
        with open(path, "rb", opener=_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ImageError("not_an_image", "not a regular file")
            data = file.read(max_bytes + 1)
    except IsADirectoryError as error:
        raise ImageError("not_an_image", "a directory") from error
    if len(data) > max_bytes:
        raise FetchError("too_large_bytes", f"over the cap of {max_bytes:,} bytes")
    return data


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a named pipe is opened without waiting for who writes, and refused
