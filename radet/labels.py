"""Labels of training and evaluation trees: `<generator>/0_real/x.jpg`, `<generator>/1_fake/y.png`, at any depth.

Wang2020/ForenSynths, AIGCDetectBenchmark and GenImage (`nature`, `ai`) trees read as they are.
"""

from pathlib import PurePosixPath
from typing import NamedTuple

_REAL = frozenset({"0_real", "real", "nature"})
_GENERATED = frozenset({"1_fake", "fake", "ai"})


class Label(NamedTuple):
    """What a picture is and what made it: a generator, or the photographer or collection of a real one."""

    generated: bool
    source: str


def named(source: str) -> str:
    """A generator, as it is shown; the pictures of a tree with 0_real and 1_fake at its root have none."""
    return source or "(unnamed)"


def label_of(path: str) -> Label | None:
    """The label of a path relative to the tree's root; None where no folder on it is a label.

    The last such folder decides; the source is the path above it, "" at the root. Upper and lower case are one.
    """
    folders = PurePosixPath(path).parts[:-1]
    for depth in reversed(range(len(folders))):
        name = folders[depth].casefold()
        if name in _REAL or name in _GENERATED:
            return Label(name in _GENERATED, "/".join(folders[:depth]))
    return None


def label_from_word(word: object) -> bool | None:
    """Whether a label column's value says "generated"; None where it says neither. Numbers: 1 generated, 0 real."""
    text = str(word).strip().casefold()
    if text in _GENERATED | {"1", "1.0", "true", "generated", "synthetic"}:
        return True
    return False if text in _REAL | {"0", "0.0", "false"} else None
