"""What share of a night's rows has no score, whoever sends the job again."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.unscored import Unscored, unscored


class Nights:
    """Manifests of one output, as runs write them."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._numbers = itertools.count()
        (out / "_runs").mkdir(parents=True)

    def run(self, *, again: int = 0, ok: int = 0, failed: int = 0, same: int = 0, **more: str) -> Unscored:
        manifest: dict[str, Any] = {
            "run": f"20260101T{next(self._numbers):012d}Z-abcdef",
            "model_id": "m",
            "source": "images under /in",
            "rows": ok + failed,
            "statuses": {"ok": ok, "truncated": failed} if ok else {"truncated": failed},
            "inputs": {"again": again},
            "work": {"same": same},
            **more,
        }
        (self.out / "_runs" / f"{manifest['run']}.json").write_text(json.dumps(manifest))
        return unscored(str(self.out), manifest)


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path / "out")


def test_each_night_is_judged_by_its_own_rows(nights: Nights) -> None:
    assert nights.run(ok=90, failed=10) == (100, 10)
    assert nights.run(ok=20) == (20, 0)
    assert nights.run(ok=3, failed=2) == (5, 2)


def test_a_night_that_is_sent_again_is_judged_by_what_it_was_and_by_what_has_passed_since(nights: Nights) -> None:
    nights.run(ok=90, failed=10)
    assert nights.run() == (100, 10)
    assert nights.run(again=4, ok=3, failed=1) == (100, 7)
    assert nights.run(again=1, ok=1) == (100, 6)
    assert nights.run(again=1, ok=2) == (2, 0), "a new input makes it a night of its own"


def test_what_is_read_again_and_the_same_is_nothing_new(nights: Nights) -> None:
    """Pages of the web, each of which is read every night, and files that were touched."""
    nights.run(ok=90, failed=10)
    assert nights.run(same=90) == (100, 10)
    assert nights.run(same=90, again=4, ok=3, failed=1) == (100, 7)
    assert nights.run(same=89, failed=1) == (90, 1), "one page that answers no more is not all of the night's"


def test_other_sources_and_models_are_other_nights(nights: Nights) -> None:
    nights.run(failed=100)
    nights.run(ok=1, model_id="n")
    nights.run(ok=1, source="images under /other")
    assert nights.run() == (100, 100)
    assert nights.run(source="images under /other") == (1, 0)


def test_the_first_run_over_nothing_has_no_share(nights: Nights) -> None:
    assert nights.run() == (0, 0)
