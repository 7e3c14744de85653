"""Which pictures a benchmark takes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pipelines.items import has_image_suffix
from radet.errors import ConfigError

T = TypeVar("T")


def evenly(items: Sequence[T], count: int) -> list[T]:
    """`count` of them, at equal distances, so that the last folder counts as much as the first; at most all."""
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def pick(folder: Path, count: int) -> list[Path]:
    """`count` image files, drawn evenly from all below a folder. Raises ConfigError where there is none."""
    found = sorted(path for path in folder.rglob("*") if has_image_suffix(path.name) and path.is_file())
    if not found:
        raise ConfigError(f"no pictures below {folder}: give a folder of image files")
    return evenly(found, count)
