"""Every error that radet raises, in one tree.

* RadetError
  x ImageError            the bytes are at fault: the same bytes always give the same code
    - empty                 zero bytes
    - not_an_image          no known image signature (HTML, text, a directory ...)
    - unsupported_format    an image, but of a format that the decoder does not read (SVG, HEIC ...)
    - truncated             the data ends before the picture does
    - corrupt               the data is all there and still cannot be decoded
    - too_large_bytes       more bytes than the cap, refused before decoding
    - too_many_pixels       the header announces more pixels than the cap, refused before decoding
  x FetchError            the bytes could not be had
    - not_found             no such file, object or page
    - forbidden             no permission to read it; unless a web page says so         (transient)
    - timeout               no answer, or not all of it, in time                        (transient)
    - unreachable           no connection: DNS failure, refused, reset                  (transient)
    - http_status           an unexpected HTTP or S3 status; 429 and 5xx are            (transient)
    - too_large_bytes       more bytes than the cap, refused while reading
    - blocked_address       the URL leads to an address, port or scheme not allowed here  (transient)
    - bad_redirect          a redirect without a target, to a blocked place, or one too many
  x ModelError            the detector cannot be trusted to score
    - weights_missing       a weight file is not where the checkpoint says
    - weights_mismatch      the weights are not the ones that the checkpoint names
    - config_invalid        the checkpoint's config.json cannot be read as one
    - numeric_selftest_failed
  x ConfigError           the request cannot work as given: stops before any work

`code` is stable: it is the `status` of a Parquet row and the `error.code` of an HTTP answer. An ImageError or a
FetchError makes a row with that status and never fails a batch; the other two stop the run.
"""

from typing import ClassVar


class RadetError(Exception):
    """Base of all errors raised on purpose. `code` is one of the class's `codes`."""

    codes: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, code: str, message: str) -> None:
        if code not in self.codes:
            raise ValueError(f"{type(self).__name__} has no code {code!r}; it has {sorted(self.codes)}")
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Not by `args`, as exceptions usually are: Ray Data writes its own words into those on the way.
        return type(self), (self.code, self.message)


class ImageError(RadetError):
    """The bytes are no picture that can be scored. Permanent: the same bytes fail again."""

    codes = frozenset(
        {
            "empty",
            "not_an_image",
            "unsupported_format",
            "truncated",
            "corrupt",
            "too_large_bytes",
            "too_many_pixels",
        }
    )


_TRANSIENT = frozenset({"timeout", "unreachable", "forbidden", "blocked_address"})


class FetchError(RadetError):
    """The bytes could not be had. `transient`: another try may succeed, be it with another permission or setting."""

    codes = frozenset(
        {
            "not_found",
            "forbidden",
            "timeout",
            "unreachable",
            "http_status",
            "too_large_bytes",
            "blocked_address",
            "bad_redirect",
        }
    )

    def __init__(self, code: str, message: str, *, transient: bool | None = None) -> None:
        super().__init__(code, message)
        self.transient = code in _TRANSIENT if transient is None else transient

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_fetch_error, (self.code, self.message, self.transient)


class ModelError(RadetError):
    """The detector cannot be loaded, or is not the one it claims to be."""

    codes = frozenset({"weights_missing", "weights_mismatch", "config_invalid", "numeric_selftest_failed"})


class ConfigError(RadetError):
    """The request cannot work as given; the message says what to change."""

    codes = frozenset({"config"})

    def __init__(self, message: str) -> None:
        super().__init__("config", message)

    def __reduce__(self) -> tuple[object, ...]:
        return ConfigError, (self.message,)


def _rebuild_fetch_error(code: str, message: str, transient: bool) -> FetchError:
    return FetchError(code, message, transient=transient)
