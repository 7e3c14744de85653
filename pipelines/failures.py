"""What goes wrong online: the codes that only a request has, and the HTTP status of every code.

400  bad_request, config, empty, blocked_address      the request itself
401  unauthorized                                     no key, or none that is known
404  no_such_page      405  method_not_allowed
408  body_timeout      the body did not arrive in time
413  too_large_bytes, too_many_pixels, too_many_items  over a cap
415  not_an_image, unsupported_format                 not a kind of file that is read
422  truncated, corrupt; not_found, forbidden, unreachable, http_status, bad_redirect, timeout   of a url
429  rate_limited                                     with Retry-After
500  internal
503  overloaded, not_ready, and every code of ModelError, with Retry-After
"""

from typing import Any

from radet.errors import ConfigError, FetchError, ImageError, ModelError, RadetError


class RequestError(RadetError):
    """The request is at fault, or the service cannot take it now. `retry_after_s` where waiting helps."""

    codes = frozenset(
        {
            "bad_request",
            "unauthorized",
            "no_such_page",
            "method_not_allowed",
            "body_timeout",
            "too_large_bytes",
            "too_many_items",
            "rate_limited",
            "overloaded",
            "not_ready",
            "internal",
        }
    )

    def __init__(self, code: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(code, message)
        self.retry_after_s = retry_after_s


_BY_CODE = {
    "bad_request": 400,
    "config": 400,
    "empty": 400,
    "blocked_address": 400,
    "unauthorized": 401,
    "no_such_page": 404,
    "method_not_allowed": 405,
    "body_timeout": 408,
    "too_large_bytes": 413,
    "too_many_pixels": 413,
    "too_many_items": 413,
    "not_an_image": 415,
    "unsupported_format": 415,
    "rate_limited": 429,
    "internal": 500,
    "overloaded": 503,
    "not_ready": 503,
    **dict.fromkeys(sorted(ModelError.codes), 503),
}
_BY_CODE |= {code: 422 for code in sorted(ImageError.codes | FetchError.codes) if code not in _BY_CODE}

_RETRY_AFTER_S = 1.0

#: What a stranger may learn of an error that is not about his request.
_NOT_READY = "the detector is not ready: see /readyz"


def http_status(error: RadetError) -> int:
    """The status of an answer that consists of this error."""
    return _BY_CODE[error.code]


def retry_after(error: RadetError) -> int | None:
    """Whole seconds for Retry-After, where the same request may succeed later."""
    seconds = getattr(error, "retry_after_s", None)
    if seconds is None and http_status(error) == 503:
        seconds = _RETRY_AFTER_S
    return None if seconds is None else max(1, round(seconds + 0.5))


def describe(error: RadetError) -> dict[str, str]:
    """`code` and `message` as a caller sees them: a detector's errors name files, so only their code is told."""
    message = _NOT_READY if isinstance(error, ModelError | ConfigError) else error.message
    return {"code": error.code, "message": message}


def envelope(error: RadetError, request_id: str) -> dict[str, Any]:
    """The body of an error answer."""
    return {"error": describe(error) | {"request_id": request_id}}
