"""Labelled pictures for training and evaluation: trees of 0_real/1_fake, a manifest, or Parquet with label columns.

What is listed is small (a location, a label and a source each); the bytes stay where they are until a task reads them.
"""

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines import parquet
from pipelines.cells import Cell
from pipelines.fetch import is_http
from pipelines.items import Entry, display, is_image_name, resolve, usual_name
from pipelines.listing import walk
from pipelines.manifests import first_line, is_manifest, lines, uri_column
from pipelines.outage import READING
from radet.errors import ConfigError
from radet.labels import label_from_word, label_of

_LABEL_COLUMNS = ("label", "is_fake", "is_generated", "generated", "target", "class")
_WORDS = "real/fake or 0/1"
_PEEK = 1000  # files looked at to tell what a folder holds
_SOURCE_COLUMNS = ("generator", "source", "model")


class Labelled(NamedTuple):
    """A listing of N pictures."""

    locations: list[str]
    generated: NDArray[np.bool_]
    sources: list[str]
    skipped: int  # files or rows without a label

    def summary(self) -> str:
        """One line for people."""
        kinds = Counter(zip(self.generated.tolist(), self.sources, strict=True))
        real = sum(count for (generated, _), count in kinds.items() if not generated)
        made = len(self.locations) - real
        sources = sum(1 for generated, _ in kinds if generated)
        left = f", {self.skipped:,} without a label left alone" if self.skipped else ""
        return f"{real:,} real and {made:,} generated pictures of {sources} source{'s' * (sources != 1)}{left}"


def list_reference(src: str) -> list[str]:
    """Locations of the pictures of `src` that no label calls generated, sorted: the set that others are compared with.

    A folder needs no labels. Raises ConfigError where nothing is left.
    """
    found = sorted(location for location, label, _ in _labels(src) if not label)
    if not found:
        raise ConfigError(f"{src} holds no picture for a reference: give a folder of them, or one with 0_real folders")
    return found


def list_labelled(src: str) -> Labelled:
    """What `src` holds, sorted by location, so that the order of a listing changes nothing.

    Raises ConfigError where there is nothing to learn from: no labels, or one class alone.
    """
    rows = list(_labels(src))
    found = sorted((location, label, source) for location, label, source in rows if label is not None)
    if not found:
        raise ConfigError(
            f"{src} has no labels: put pictures into <generator>/0_real and <generator>/1_fake, or give a manifest "
            f"with a uri and a label column ({_WORDS})"
        )
    listed = Labelled(
        [location for location, _, _ in found],
        np.array([label for _, label, _ in found], bool),
        [display(source) for _, _, source in found],
        len(rows) - len(found),
    )
    if listed.generated.all() or not listed.generated.any():
        raise ConfigError(
            f"{src} holds {'generated' if listed.generated.all() else 'real'} pictures only, and {listed.skipped:,} "
            f"without a label: give both classes; a label is a folder (0_real, real, nature; 1_fake, fake, ai) or a "
            f"label column ({_WORDS})"
        )
    return listed


def refuse_web(src: str, locations: list[str], reader: str) -> None:
    """Raises ConfigError where some are web addresses, which `reader` does not read."""
    if away := [location for location in locations if is_http(location)]:
        raise ConfigError(
            f"{display(src)} names {len(away):,} pictures on the web, the first {display(away[0])}: {reader} reads "
            f"files and S3 only, so copy them there"
        )


def _labels(src: str) -> Iterator[tuple[str, bool | None, str]]:
    """Location, label and source of each picture, in any order."""
    if is_manifest(src):
        return _manifest(src)
    peeked = itertools.islice(walk(src), _PEEK)
    if any(_is_parquet(entry) for entry in peeked):
        return (row for entry in walk(src) if _is_parquet(entry) for row in _parquet(entry))
    return _tree(src)


def _is_parquet(entry: Entry) -> bool:
    return entry.location.lower().endswith(".parquet")


def _tree(root: str) -> Iterator[tuple[str, bool | None, str]]:
    base = root if root.startswith("s3://") else os.path.abspath(os.path.expanduser(root))
    for entry in walk(root):
        if is_image_name(entry.location):
            label = label_of(entry.location.removeprefix(base).lstrip("/"))
            yield entry.location, *((None, "") if label is None else label)


def _manifest(path: str) -> Iterator[tuple[str, bool | None, str]]:
    first = first_line(path)
    uri = uri_column(path, first)
    label, source = _columns(path, list(first))
    for _, row in lines(path):
        if row.get(uri):
            yield resolve(str(row[uri]), path), label_from_word(row.get(label)), str(row.get(source or "") or "")
        else:  # no uri, or a line that cannot be read, which has no columns at all
            yield "", None, ""


def _parquet(entry: Entry) -> Iterator[tuple[str, bool | None, str]]:
    """Rows with image bytes, or uris. The bytes stay where they are."""
    path = entry.location
    if not parquet.is_parquet(path):
        raise ConfigError(f"{path} is no Parquet file that can be read")
    chosen = parquet.choose_columns(path, ids=None, column=None)
    with parquet.open_file(path) as file:
        label, source = _columns(path, file.schema_arrow.names)
        classes = _classes(path, file.schema_arrow, label)
        columns = [name for name in (label, source, None if chosen["bytes"] else chosen["uri"]) if name]
        for group in range(file.num_row_groups):
            try:
                table = file.read_row_group(group, columns=columns)
                values = [[parquet.value_of(scalar) for scalar in table.column(name)] for name in columns]
            except (pa.ArrowException, *READING) as error:
                raise ConfigError(f"row group {group} of {path} cannot be read: {error}") from error
            for place, fields in enumerate(zip(*values, strict=True)):
                row: dict[str | None, Any] = dict(zip(columns, fields, strict=True))
                if chosen["bytes"]:
                    location = Cell(path, entry.version or "", chosen["bytes"], group, place).location
                elif row[chosen["uri"]]:
                    location = resolve(str(row[chosen["uri"]]), path)
                else:
                    yield "", None, ""
                    continue
                word = row[label] if classes is None else classes.get(row[label])
                yield location, label_from_word(word), str(row[source]) if source else ""


def _classes(path: str, schema: pa.Schema, label: str) -> dict[int, str] | None:
    """What a Hugging Face dataset calls its labels' numbers, of which 0 is as often `fake`; None of any other one.

    Raises ConfigError where none of the names is known: to guess would be to learn the opposite.
    """
    try:
        told = json.loads((schema.metadata or {})[b"huggingface"])
        names = list(told["info"]["features"][label]["names"])
    except (KeyError, TypeError, ValueError):
        return None
    if all(label_from_word(name) is None for name in names):
        raise ConfigError(
            f"{path} calls its labels {', '.join(map(repr, names))}, of which none is known: write a column of "
            f"real/fake, or 0/1 without such names"
        )
    return dict(enumerate(names))


def _columns(path: str, names: list[str]) -> tuple[str, str | None]:
    """Of the label, and of what made a picture, if there is one."""
    label = usual_name(names, _LABEL_COLUMNS)
    if label is None:
        raise ConfigError(
            f"{path} has no column of labels: call it {_LABEL_COLUMNS[0]!r} ({_WORDS}); it has "
            f"{', '.join(map(repr, names))}"
        )
    return label, usual_name(names, _SOURCE_COLUMNS)
