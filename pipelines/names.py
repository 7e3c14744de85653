"""Names of generators and detectors, as pages and plots show them."""


def named(source: str) -> str:
    """A generator's; the pictures of a tree with 0_real and 1_fake at its root have none."""
    return source or "(unnamed)"


def in_plot(name: str, most: int | None = None) -> str:
    """A name, of `most` characters, as matplotlib's text: between two dollars it would read a formula."""
    short = name if most is None or len(name) <= most else f"{name[: most - 1]}…"
    return short.replace("$", r"\$")
