"""The listings of a training run: the pictures that it learns from, and those that judge it."""

import os
from functools import cache

from pipelines.items import display
from pipelines.labelled import Labelled, list_labelled, refuse_web
from radet.calibration import require_enough
from radet.config import LEAST_REFERENCE
from radet.errors import ConfigError


def list_training(data: str, val: str) -> tuple[Labelled, Labelled]:
    """The pictures of DATA and of --val. Raises ConfigError as list_labelled, and where no training can come of them:
    pictures on the web or in both, too few of a class."""
    training, validation = list_labelled(data), list_labelled(val)
    refuse_web(data, training.locations, "training")  # every epoch would ask for all of them again
    refuse_web(val, validation.locations, "training")
    _refuse_shared(training, validation)
    if (real := int((~training.generated).sum())) < LEAST_REFERENCE:
        raise ConfigError(
            f"{display(data)} has {real} real pictures: give {LEAST_REFERENCE} at least, better thousands"
        )
    made = int(validation.generated.sum())
    require_enough(display(val), len(validation.generated) - made, made)
    return training, validation


def _refuse_shared(training: Labelled, validation: Labelled) -> None:
    known = set(_places(training))
    if shared := [place for place in _places(validation) if place in known]:
        raise ConfigError(
            f"{len(shared):,} pictures are in both DATA and --val, the first {display(shared[0])}: validate on others, "
            f"best of generators that DATA does not have"
        )


def _places(listed: Labelled) -> list[str]:
    """One spelling of each location, whichever way leads to its folder."""
    folder_of = cache(os.path.realpath)

    def place(location: str) -> str:
        folder, name = os.path.split(location)
        return location if "://" in location else os.path.join(folder_of(folder), name)

    return [place(location) for location in listed.locations]
