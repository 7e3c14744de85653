"""How well one number tells generated pictures from real ones, which way round, and how it is spread by source.

N pictures
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from radet.ranking import Ranking

_DRAWS = 200
_TAIL = 0.025

#: Pictures of each class. Fewer decide no sign, however they lie: 0.025 ** (1 / 5) is less than 0.5 (see `separate`).
LEAST = 6

#: Stands for all generators together.
ALL = "all generators"


class Separation(NamedTuple):
    """Generated pictures of one source against all real ones.

    `auroc`      probability that a generated picture has the larger value, ties half; below 0.5 the sign is inverted
    `low`,`high` its 95 % interval: by bootstrap, but no surer than so few pictures allow
    """

    source: str  # a generator, or ALL
    generated: int  # pictures
    real: int
    auroc: float
    low: float
    high: float
    median_generated: float
    median_real: float

    @property
    def larger(self) -> Literal["generated", "real", "undecided"]:
        """The sign: which class has the larger values, where the interval leaves out 0.5."""
        if self.low > 0.5:
            return "generated"
        return "real" if self.high < 0.5 else "undecided"


class Spread(NamedTuple):
    """Quantiles of a value over the pictures of one source."""

    source: str
    generated: bool
    pictures: int
    p10: float
    p25: float
    p50: float
    p75: float
    p90: float


def separate(value_N: ArrayLike, generated_N: NDArray[np.bool_], sources: Sequence[str], seed: int) -> list[Separation]:
    """All generators together, then each in the order of its name, against all real pictures."""
    value, source_N = np.asarray(value_N, np.float64), np.asarray(sources, dtype=object)
    found = []
    for name, chosen_N in [(ALL, generated_N), *by_source(generated_N, source_N)]:
        rows = np.flatnonzero(chosen_N | ~generated_N)
        label = generated_N[rows]
        ranking = Ranking(value[rows], label)
        made, real = int(label.sum()), int((~label).sum())
        low, high = ranking.intervals(draws=_DRAWS, seed=seed)["auroc"]
        # Where the classes are separated, all bootstrap draws are alike and their interval is a point. But of m =
        # min(made, real) pairs, none of which share a picture, all m are the right way round with probability AUROC^m.
        # At an AUROC of `surest` that still happens one time in forty, so the interval has to reach down to it.
        surest = _TAIL ** (1 / min(made, real))
        found.append(
            Separation(
                name,
                made,
                real,
                float(ranking.figures()["auroc"][0]),
                min(low, surest),
                max(high, 1 - surest),
                float(np.median(value[chosen_N])),
                float(np.median(value[~generated_N])),
            )
        )
    return found


def spreads(value_N: ArrayLike, generated_N: NDArray[np.bool_], sources: Sequence[str]) -> list[Spread]:
    """Of each real source, then of each generator; by name."""
    value, source_N = np.asarray(value_N, np.float64), np.asarray(sources, dtype=object)
    rows = []
    for generated in (False, True):
        for name, chosen_N in by_source(generated_N == generated, source_N):
            quantiles = np.quantile(value[chosen_N], (0.1, 0.25, 0.5, 0.75, 0.9))
            rows.append(Spread(name, generated, int(chosen_N.sum()), *map(float, quantiles)))
    return rows


def by_source(chosen_N: NDArray[np.bool_], source_N: NDArray[np.object_]) -> list[tuple[str, NDArray[np.bool_]]]:
    """The sources of the chosen pictures, by name, and which of those pictures are of each."""
    return [(str(name), chosen_N & (source_N == name)) for name in sorted(set(source_N[chosen_N]))]
