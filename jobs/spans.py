"""LEAST:MOST, as options write a number that may move."""

from radet.errors import ConfigError


def span(option: str, text: str) -> tuple[int, int]:
    """ "2" is (2, 2), "1:4" is (1, 4). Raises ConfigError that names the option."""
    least, colon, most = text.partition(":")
    try:
        found = (int(least), int(most if colon else least))
    except ValueError:
        raise ConfigError(f"{option} is a number or LEAST:MOST, not {text!r}") from None
    if not 1 <= found[0] <= found[1]:
        raise ConfigError(f"{option} {text}: at least 1, and LEAST not above MOST")
    return found
