"""Which pictures make up a step: balanced, complete, and a function of seed and epoch alone."""

import numpy as np
import pytest

from radet.order import epoch_order, portions, steps_in

GENERATED = np.array([False] * 60 + [True] * 100)
SOURCES = [f"camera{i % 3}" for i in range(60)] + ["big"] * 81 + ["small"] * 9 + ["tiny"] * 10


def test_real_and_generated_take_turns() -> None:
    order = epoch_order(GENERATED, SOURCES, epoch=0, seed=0)
    assert len(order) == 160
    assert not GENERATED[order[::2]].any()
    assert GENERATED[order[1::2]].all()
    real = order[::2]  # 60 pictures for 80 places
    assert np.mean(real[1:] == real[:-1]) < 0.1, "a picture that comes twice does not come at once"


def test_an_order_is_a_function_of_seed_and_epoch() -> None:
    first = epoch_order(GENERATED, SOURCES, epoch=3, seed=1)
    assert (first == epoch_order(GENERATED, SOURCES, epoch=3, seed=1)).all()
    assert (first != epoch_order(GENERATED, SOURCES, epoch=4, seed=1)).any()
    assert (first != epoch_order(GENERATED, SOURCES, epoch=3, seed=2)).any()


def test_a_source_counts_by_the_root_of_its_size() -> None:
    counts = np.zeros(160)
    for epoch in range(50):
        counts += np.bincount(epoch_order(GENERATED, SOURCES, epoch=epoch, seed=0), minlength=160)
    big, small = counts[60:141].sum(), counts[141:150].sum()
    assert big / small == pytest.approx(3, rel=0.1)  # sqrt(81 / 9)
    assert counts.min() > 0


def test_no_picture_comes_twice_before_its_source_is_exhausted() -> None:
    times = np.bincount(epoch_order(GENERATED, SOURCES, epoch=0, seed=0), minlength=160)
    for source in set(SOURCES):
        of_source = times[[index for index, name in enumerate(SOURCES) if name == source]]
        assert of_source.max() - of_source.min() <= 1


def test_portions_cover_a_step() -> None:
    order = epoch_order(GENERATED, SOURCES, epoch=0, seed=0)
    assert steps_in(160, 48) == 3
    parts = portions(order, 2, 48, 16)
    assert [part.number for part in parts] == [0, 1, 2]
    assert np.concatenate([part.pictures for part in parts]).tolist() == order[96:144].tolist()


def test_a_corpus_below_one_batch_is_one_smaller_step() -> None:
    order = epoch_order(GENERATED[55:65], SOURCES[55:65], epoch=0, seed=0)
    assert steps_in(10, 256) == 1
    assert sum(len(part.pictures) for part in portions(order, 0, 256, 4)) == 10


def test_one_class_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="real and generated"):
        epoch_order(np.ones(4, bool), ["a"] * 4, epoch=0, seed=0)
