"""Which pictures make up which step: a function of labels, sources, seed and epoch, the same on every rank.

So a run can be resumed at any epoch, on any number of workers, and sees what it would have seen.

N pictures
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


class Portion(NamedTuple):
    """A micro-batch before it is read: `number` within its step, and the pictures' positions in the listing."""

    number: int
    pictures: Indices


def epoch_order(generated_N: NDArray[np.bool_], sources: Sequence[str], *, epoch: int, seed: int) -> Indices:
    """Positions of one epoch's pictures, real and generated in turn: as many of each class, N in all (less one if odd).

    Within a class a source of n pictures is drawn in proportion to sqrt(n): a source ten times as large as another
    counts three times as much. No picture comes twice before its source is exhausted.
    Raises ValueError where a class is absent.
    """
    rng = np.random.default_rng([seed, epoch])
    half = len(generated_N) // 2
    names = np.asarray(sources)
    chosen = [_draw(np.flatnonzero(generated_N == label), names, half, rng) for label in (False, True)]
    return np.stack(chosen, axis=1).reshape(-1)


def steps_in(pictures: int, global_batch: int) -> int:
    """Steps of an epoch. A remainder waits for another epoch's order; a corpus below one batch is one smaller step."""
    return max(1, pictures // global_batch)


def portions(order: Indices, step: int, global_batch: int, micro_batch: int) -> list[Portion]:
    """The micro-batches of one step of an epoch."""
    batch = order[step * global_batch : (step + 1) * global_batch]
    return [
        Portion(number, batch[start : start + micro_batch])
        for number, start in enumerate(range(0, len(batch), micro_batch))
    ]


def view_of(epoch: int, views: int) -> int:
    """Which augmented view of a picture an epoch sees: `views` fixed ones in turn, or a new one where `views` is 0."""
    return epoch % views if views else epoch


def _draw(members: Indices, names: NDArray[np.str_], count: int, rng: np.random.Generator) -> Indices:
    if not len(members):
        raise ValueError("training needs real and generated pictures")
    _, source, size = np.unique(names[members], return_inverse=True, return_counts=True)
    share = 1 / np.sqrt(size[source])
    expected = count * share / share.sum()
    # Systematic sampling: every picture comes floor or ceil of its expected number of times, `count` in all.
    shuffled = rng.permutation(len(members))
    edges = np.concatenate([[0.0], np.cumsum(expected[shuffled])])
    edges[-1] = count
    times = np.diff(np.floor(edges - rng.uniform(1e-9, 1 - 1e-9))).astype(np.int64)
    return rng.permutation(np.repeat(members[shuffled], times))
