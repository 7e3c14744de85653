"""Inputs as they would look after a trip through the web: a location that names a degradation (radet.degradations).

    degraded://jpeg:75!/photos/a.jpg        degraded://blur:1.5!s3://bucket/a.png

What is read there is the degraded picture as a PNG, so that hashing, decoding, cropping and scoring are what they are
for every other input.
"""

from radet.errors import FetchError

_SCHEME = "degraded://"


def degraded(location: str, condition: str) -> str:
    """The location of the degraded picture; `condition` as radet.degradations writes it."""
    return f"{_SCHEME}{condition}!{location}"


def split(location: str) -> tuple[str, str] | None:
    """(condition, location of the original); None for a location that names no degradation.

    Raises FetchError for a degraded picture of a degraded one: a condition is a chain already.
    """
    if not location.startswith(_SCHEME):
        return None
    condition, _, original = location.removeprefix(_SCHEME).partition("!")
    if original.startswith(_SCHEME):
        raise FetchError("not_found", "a degraded picture of a degraded one: join conditions with +")
    return condition, original
