"""Names of generators and detectors, as plots show them."""


def in_plot(name: str, most: int | None = None) -> str:
    """A name, of `most` characters, as matplotlib's text: between two dollars it would read a formula."""
    short = name if most is None or len(name) <= most else f"{name[: most - 1]}…"
    return short.replace("$", r"\$")
