"""What a training run tells before its first step."""

import io

import numpy as np
import pytest
from rich.console import Console

from jobs.train_screen import TrainScreen
from pipelines.labelled import Labelled


def listed(real: list[str], generated: list[str]) -> Labelled:
    sources = [*real, *generated]
    return Labelled([str(n) for n in range(len(sources))], np.arange(len(sources)) >= len(real), sources, 0)


@pytest.mark.parametrize(
    ("generators", "told"),
    [
        (["sd3", "flux"], ""),
        (["sd3", "sd1", "sd2", "sd2"], "Both have pictures of sd1, sd2: what is measured on --val"),
        (["sd1", *"abcdef"], "Both have pictures of a, b, c, d, e and 2 more: what is measured on --val"),
        (["", "sd3"], ""),  # nobody knows what these are
    ],
)
def test_a_validation_that_flatters_is_said_to_be_one(generators: list[str], told: str) -> None:
    out = io.StringIO()
    with TrainScreen(Console(file=out, width=200)) as screen:
        screen.opened(listed(["camera"], ["", "sd1", "sd2", *"abcdef"]), listed(["camera"], generators))
    _, _, *more = out.getvalue().splitlines()
    assert [line.partition(", and its")[0] for line in more] == [told] * bool(told)
