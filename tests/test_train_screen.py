"""What a training run tells."""

import io
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from jobs.train_screen import TrainScreen
from pipelines.labelled import Labelled
from pipelines.train import TrainWatcher, _fit, _require
from radet.errors import ConfigError


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


def test_what_is_told_between_the_last_look_and_the_end_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.get", lambda given: given)
    told: list[Any] = [[("stepped", (1, 5, 5, {}))]]
    board = SimpleNamespace(take=SimpleNamespace(remote=lambda: told.pop(0) if told else []))
    last, heard = threading.Event(), []

    class Watching(TrainWatcher):
        def stepped(self, epoch: int, step: int, steps: int, report: dict[str, float]) -> None:
            told.append([("validated", ({"epoch": 1.0},))])
            last.set()  # the run ends while this look is still being shown
            (training,) = (thread for thread in threading.enumerate() if thread.name == "train")
            training.join()

        def validated(self, epoch: dict[str, float]) -> None:
            heard.append(epoch)

    trainer: Any = SimpleNamespace(fit=last.wait)
    assert _fit(trainer, board, Watching(), lambda: None)
    assert heard == [{"epoch": 1.0}]


def test_a_run_that_was_taken_over_does_not_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.get", lambda given: given)
    board = SimpleNamespace(take=SimpleNamespace(remote=list))
    ended = threading.Event()
    trainer: Any = SimpleNamespace(fit=ended.wait)
    lease, job = SimpleNamespace(taken=False), SimpleNamespace(out="s3://bucket/out")
    told = iter([lambda: None, lambda: setattr(lease, "taken", True)])

    def check() -> None:
        next(told)()
        _require(lease, job)  # type: ignore[arg-type]

    with pytest.raises(ConfigError, match="another run has taken over s3://bucket/out: this one stops"):
        _fit(trainer, board, TrainWatcher(), check)
    ended.set()
