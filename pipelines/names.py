"""Names of generators and detectors, as plots show them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def in_plot(name: str, most: int | None = None) -> str:
    """A name, of `most` characters, as matplotlib's text: between two dollars it would read a formula."""
    short = name if most is None or len(name) <= most else f"{name[: most - 1]}…"
    return short.replace("$", r"\$")


@contextmanager
def any_script() -> Iterator[None]:
    """No warning for each letter that matplotlib's font lacks: plots show a box for it, and tables have the name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ ", UserWarning)
        yield
