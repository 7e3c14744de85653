"""The choice of rows against a dictionary, in one file and in many."""

from pathlib import Path

import numpy as np
import pytest

from pipelines import choice as module
from pipelines.choice import Choice


@pytest.mark.parametrize("rows_a_file", [1_000_000, 50, 1])
def test_of_rows_with_one_key_the_highest_rank_and_then_the_last_one_stands(
    rows_a_file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ROWS_A_FILE", rows_a_file)
    monkeypatch.setattr(module, "_WRITTEN_AT_ONCE", 100)
    random = np.random.default_rng(0)
    pool = random.integers(0, 1 << 63, (700, 2), dtype=np.uint64) * 2  # over all first bits
    pool[:200, 0] = pool[0, 0]  # keys that share one half
    pool[200:400, 1] = pool[200, 1]
    blocks = [(random.integers(0, 700, size), random.integers(0, 4, size)) for size in (64, 0, 1, 500, 64, 333, 64)]
    chosen = Choice(tmp_path, sum(len(ranks) for _, ranks in blocks))
    best: dict[int, tuple[int, int, int]] = {}
    for number, (keys, ranks) in enumerate(blocks):
        chosen.add(pool[keys].tobytes(), ranks)
        for place, (key, rank) in enumerate(zip(keys, ranks, strict=True)):
            best[int(key)] = max(best.get(int(key), (-1, -1, -1)), (int(rank), number, place))
    masks = chosen.masks()
    assert [len(mask) for mask in masks] == [len(ranks) for _, ranks in blocks]
    found = {(number, int(place)) for number, mask in enumerate(masks) for place in np.flatnonzero(mask)}
    assert found == {(number, place) for _, number, place in best.values()}
    assert not list(tmp_path.iterdir())


def test_nothing_to_choose_from(tmp_path: Path) -> None:
    assert Choice(tmp_path, 0).masks() == []
