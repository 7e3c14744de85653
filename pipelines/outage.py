"""A tar or Parquet file that could not be read to its end: was that the disk, the network, S3, or what it holds?"""

import aiohttp
import botocore.exceptions

from radet.errors import FetchError

_CLIENTS = (aiohttp.ClientError, botocore.exceptions.BotoCoreError)  # what s3fs passes on when it has tried enough
_CODES = {FileNotFoundError: "not_found", PermissionError: "forbidden"}

#: What reading such a file raises where it is at fault itself, or cannot be had.
READING = (OSError, UnicodeDecodeError, *_CLIENTS)


def outage(error: Exception) -> FetchError | None:
    """What kept it from being read; None where its contents did, of which no library gives a number of the system's."""
    if isinstance(error, TimeoutError):
        return FetchError("timeout", f"no answer in time: {error}")
    if isinstance(error, _CLIENTS) or (isinstance(error, OSError) and error.errno is not None):
        code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), "unreachable")
        return FetchError(code, f"could not be read: {error}")
    return None
