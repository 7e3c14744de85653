"""S3, through one botocore client per process (and one for each lease, which cannot wait as long).

Endpoint, region, credentials and retries come from the standard AWS places (AWS_ENDPOINT_URL, AWS_REGION,
AWS_ACCESS_KEY_ID, AWS_MAX_ATTEMPTS, profiles, instance roles). botocore is used rather than a filesystem layer because
the pipeline needs three things that such layers hide: listing a page at a time, conditional PUTs, and an object's ETag
together with its bytes. It retries throttling and 5xx by itself, with backoff; what is raised here has already been
retried.
"""

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import botocore.config
import botocore.exceptions
import botocore.session

from radet.errors import ConfigError, FetchError

_FORBIDDEN = {"AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
_NOT_FOUND = {"NoSuchKey", "NoSuchBucket", "404", "NotFound"}
_COPIED_AT_ONCE = 4 << 20
_BODY_ATTEMPTS = 8  # as many as botocore makes for an answer that does not begin
_BODY_PAUSE_S = 0.1  # before the second, at most; twice as long before each further one
_BROKEN_OFF = (
    botocore.exceptions.IncompleteReadError,
    botocore.exceptions.ReadTimeoutError,
    botocore.exceptions.ResponseStreamingError,
)
_NOBODY = (botocore.exceptions.EndpointConnectionError, botocore.exceptions.ConnectTimeoutError)
_T = TypeVar("_T")
_CONFLICT = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}

# botocore, and s3fs by it, knows AWS_DEFAULT_REGION alone; every other SDK of AWS, and EKS, says AWS_REGION.
if _region := os.environ.get("AWS_REGION"):
    os.environ.setdefault("AWS_DEFAULT_REGION", _region)


class Object(NamedTuple):
    """One listed object."""

    key: str
    size: int  # bytes
    etag: str


class PreconditionError(Exception):
    """A conditional PUT found another state than the one it required."""


@lru_cache(maxsize=1)
def client() -> Any:
    """This process's S3 client; thread-safe."""
    return new_client()


def new_client(*, connect_s: float = 5, read_s: float = 30, attempts: int | None = None) -> Any:
    """A client that waits as long as it is told, for each of its attempts. Raises ConfigError for settings that cannot
    be: AWS_ENDPOINT_URL without http://, a profile that is not there ..."""
    try:
        session = botocore.session.get_session()
        retries = {
            "mode": session.get_config_variable("retry_mode") or "standard",
            "total_max_attempts": attempts or session.get_config_variable("max_attempts") or 8,
        }
        return session.create_client(
            "s3",
            region_name=session.get_config_variable("region") or "us-east-1",
            config=botocore.config.Config(
                retries=retries,
                connect_timeout=connect_s,
                read_timeout=read_s,
                max_pool_connections=64,
                # Many S3-compatible servers do not know the newer default checksums.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
    except (ValueError, botocore.exceptions.BotoCoreError) as error:
        raise ConfigError(f"no S3 client by these AWS settings: {error}") from error


def greet(*urls: str) -> None:
    """Before a command's first request, where one of these is on S3: raises FetchError after seconds where nothing
    listens, which `client` finds out after a minute and a half. Whatever answers will do."""
    url = next((url for url in urls if url.startswith("s3://")), None)
    if url is None:
        return
    try:
        new_client(connect_s=3, attempts=4).head_bucket(Bucket=split(url)[0])
    except _NOBODY as error:
        mend = "check AWS_ENDPOINT_URL, and that its server runs"
        raise FetchError("unreachable", f"S3 could not be reached for {url}: {error}; {mend}") from error
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError):
        return


def split(url: str) -> tuple[str, str]:
    """`s3://bucket/a/b` -> (`bucket`, `a/b`). Keys are taken as they are, never unescaped."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


@contextmanager
def _errors(what: str) -> Iterator[None]:
    """botocore's exceptions as FetchError (or PreconditionError)."""
    try:
        yield
    except botocore.exceptions.ClientError as error:
        detail = error.response.get("Error", {})
        code = str(detail.get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in _CONFLICT:
            raise PreconditionError(what) from error
        message = f"S3 answered {code or status} for {what}: {(detail.get('Message') or 'no message').rstrip('.')}"
        if code in _FORBIDDEN or status in (401, 403):
            mend = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they may do there"
            raise FetchError("forbidden", f"{message}; {mend}") from error
        if code in _NOT_FOUND or status == 404:
            raise FetchError("not_found", message) from error
        raise FetchError("http_status", message, transient=status == 429 or status >= 500) from error
    except botocore.exceptions.NoCredentialsError as error:
        mend = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile or role"
        raise FetchError("forbidden", f"no S3 credentials for {what}: {mend}") from error
    except (botocore.exceptions.ParamValidationError, UnicodeEncodeError) as error:
        raise FetchError("not_found", f"{what} can be the name of no object") from error
    except (botocore.exceptions.ReadTimeoutError, botocore.exceptions.ConnectTimeoutError) as error:
        raise FetchError("timeout", f"S3 did not answer in time for {what}") from error
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.HTTPClientError) as error:
        raise FetchError("unreachable", f"S3 could not be reached for {what}: {error}") from error


def pages(bucket: str, prefix: str, *, limit: int | None = None) -> Iterator[list[Object]]:
    """The objects under a prefix, a page (<= 1000) at a time; never the whole listing at once."""
    paginator = client().get_paginator("list_objects_v2")
    config = {} if limit is None else {"PageSize": limit, "MaxItems": limit}
    with _errors(f"s3://{bucket}/{prefix}"):
        for page in paginator.paginate(Bucket=bucket, Prefix=prefix, PaginationConfig=config):
            yield [Object(o["Key"], o["Size"], o["ETag"].strip('"')) for o in page.get("Contents", [])]


def head(url: str) -> Object:
    """Size and ETag of one object."""
    bucket, key = split(url)
    with _errors(url):
        answer = client().head_object(Bucket=bucket, Key=key)
    return Object(key, answer["ContentLength"], answer["ETag"].strip('"'))


def get(url: str, *, max_bytes: int | None = None) -> bytes:
    """The object's bytes.

    Raises:
        FetchError: also `too_large_bytes`, judged by the announced length before reading.
    """

    def read(answer: dict[str, Any]) -> bytes:
        if max_bytes is not None and answer["ContentLength"] > max_bytes:
            message = f"{answer['ContentLength']:,} bytes, over the cap of {max_bytes:,}"
            raise FetchError("too_large_bytes", message)
        data: bytes = answer["Body"].read()
        return data

    return _got(url, read)


def get_tagged(url: str, *, by: Any) -> tuple[bytes, str]:
    """An object's bytes and ETag, of one moment, `by` a client."""
    return _got(url, lambda answer: (answer["Body"].read(), answer["ETag"].strip('"')), by)


def download(url: str, target: Path) -> None:
    """Write an object of any size to a local file, a few megabytes in memory at a time. Not atomic."""

    def write(answer: dict[str, Any]) -> None:
        with target.open("wb") as file:
            shutil.copyfileobj(answer["Body"], file, _COPIED_AT_ONCE)

    _got(url, write)


def _got(url: str, use: Callable[[dict[str, Any]], _T], by: Any = None) -> _T:
    """What `use` makes of the answer. botocore asks again until an answer begins; one that breaks off is ours to ask
    for again. (As a context manager the body would be urllib3's own, whose errors and length nobody checks.)"""
    bucket, key = split(url)
    with _errors(url):
        for attempt in range(1, _BODY_ATTEMPTS + 1):
            answer = (by or client()).get_object(Bucket=bucket, Key=key)
            try:
                return use(answer)
            except _BROKEN_OFF:
                if attempt == _BODY_ATTEMPTS:
                    raise
            finally:
                answer["Body"].close()
            time.sleep(random.uniform(0, _BODY_PAUSE_S * 2 ** (attempt - 1)))  # noqa: S311 - no secret
    raise AssertionError("unreachable: the last attempt returns or raises")


def put(
    url: str,
    data: bytes | IO[bytes],
    *,
    only_if_absent: bool = False,
    only_if_etag: str | None = None,
    by: Any = None,
) -> str:
    """Write one object in one request (readers see all of it or nothing), `by` another client or the process's own;
    returns its ETag.

    Raises:
        PreconditionError: the condition did not hold.
    """
    bucket, key = split(url)
    condition: dict[str, str] = {}
    if only_if_absent:
        condition["IfNoneMatch"] = "*"
    if only_if_etag is not None:
        condition["IfMatch"] = only_if_etag
    try:
        with _errors(url):
            answer = (by or client()).put_object(Bucket=bucket, Key=key, Body=data, **condition)
    except FetchError as error:
        if error.code == "not_found" and only_if_etag is not None:  # AWS's words for an object that is gone
            raise PreconditionError(url) from error
        raise
    return str(answer["ETag"]).strip('"')


def delete(bucket: str, keys: list[str], *, by: Any = None) -> None:
    """Delete objects; those that are gone already are no error."""
    for start in range(0, len(keys), 1000):
        batch = [{"Key": key} for key in keys[start : start + 1000]]
        with _errors(f"s3://{bucket}"):
            answer = (by or client()).delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
        if answer.get("Errors"):
            first = answer["Errors"][0]
            raise FetchError("http_status", f"S3 did not delete {first.get('Key')}: {first.get('Message')}")
