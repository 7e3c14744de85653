"""What kept a file from being read: was that the disk, the network, S3, or what it holds?"""

import errno

import aiohttp
import botocore.exceptions

from radet.errors import FetchError

_CLIENTS = (aiohttp.ClientError, botocore.exceptions.BotoCoreError)  # what s3fs passes on when it has tried enough
_NO_SUCH_NAME = (errno.ELOOP, errno.ENAMETOOLONG)

#: What reading such a file raises where it is at fault itself, or cannot be had.
READING = (OSError, UnicodeDecodeError, *_CLIENTS)


def outage(error: Exception) -> FetchError | None:
    """Why the file could not be had; None where its contents are at fault: then libraries set no errno."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, TimeoutError):
        code = "timeout"
    elif isinstance(error, (FileNotFoundError, NotADirectoryError)) or number in _NO_SUCH_NAME:
        code = "not_found"
    elif isinstance(error, PermissionError):
        code = "forbidden"
    elif isinstance(error, _CLIENTS) or number is not None:
        code = "unreachable"
    else:
        return None
    return FetchError(code, f"could not be read: {getattr(error, 'strerror', None) or error}")
