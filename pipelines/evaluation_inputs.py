"""What an evaluation scores: labelled pictures, their pair groups, and each of them under each condition as a manifest.

N pictures
"""

import json
import os

import numpy as np
from numpy.typing import NDArray

from pipelines.degraded import degraded
from pipelines.items import URI_COLUMNS, display, resolve, usual_name
from pipelines.labelled import Labelled
from pipelines.manifests import first_line, lines
from radet.degradations import CLEAN
from radet.errors import ConfigError

_GROUP_COLUMNS = ("pair_group", "group")


def draw(labelled: Labelled, limit: int | None) -> Labelled:
    """At most `limit` pictures, drawn evenly and the same each time, one of each class at least.

    Raises ConfigError for a limit of one picture.
    """
    if limit is None or limit >= len(labelled.locations):
        return labelled
    if limit < 2:
        raise ConfigError("a limit of 1 leaves one class out: draw 2 pictures at least")
    order = np.random.default_rng(0).permutation(len(labelled.locations))
    first = [np.flatnonzero(labelled.generated[order] == made)[0] for made in (False, True)]
    chosen = np.sort(np.concatenate([order[first], np.delete(order, first)])[:limit])
    return Labelled(
        [labelled.locations[i] for i in chosen],
        labelled.generated[chosen],
        [labelled.sources[i] for i in chosen],
        labelled.skipped,
    )


def pair_groups(labelled: Labelled, manifest: str | None) -> NDArray[np.str_]:
    """The pair group of each picture, "" for none."""
    if manifest is None:
        return np.array(labelled.sources)
    columns = list(first_line(manifest))
    uri, group = (_column(manifest, columns, usual) for usual in (URI_COLUMNS, _GROUP_COLUMNS))
    known = {
        _plain(resolve(str(row[uri]), manifest)): str(row.get(group) or "")
        for _, row in lines(manifest)
        if row.get(uri)
    }
    found = np.array([known.get(_plain(location), "") for location in labelled.locations])
    if not (found != "").any():
        raise ConfigError(f"{manifest} names none of the pictures: its {uri!r} must lead to the same files as DATA")
    return found


def _column(manifest: str, columns: list[str], usual: tuple[str, ...]) -> str:
    found = usual_name(columns, usual)
    if found is None:
        raise ConfigError(f"{manifest} has no column named {' or '.join(usual)}; it has {', '.join(columns)}")
    return found


def manifest_of(labelled: Labelled, chosen: list[str]) -> bytes:
    """JSON lines of uri and id."""
    written: list[str] = []
    for location in labelled.locations:
        for condition in chosen:
            uri = location if condition == CLEAN else degraded(location, condition)
            written.append(json.dumps({"uri": uri, "id": input_id(location, condition)}))
    return ("\n".join(written) + "\n").encode()


def input_id(location: str, condition: str) -> str:
    """What a picture under a condition is called in score rows: "<condition>!<location>"."""
    return display(f"{condition}!{location}")


def _plain(location: str) -> str:
    """One spelling of a path."""
    return location if "://" in location else os.path.abspath(location)
