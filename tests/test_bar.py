"""The progress of a run, on a terminal and in a log."""

import io

import pytest
from rich.console import Console

from jobs import bar as bars
from jobs.bar import Bar


def test_a_log_has_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with Bar(Console(file=out, width=200)) as bar:
        for step in range(7):
            now[0] = 11.0 * step
            bar.show("epoch 1", step, 7, "loss 0.5")
        now[0] = 200.0
        bar.show("layers", 1, 2)
    assert out.getvalue().splitlines() == ["epoch 1: 3/7, loss 0.5", "epoch 1: 6/7, loss 0.5", "layers: 1/2"]


def test_a_terminal_has_a_bar_for_the_stage_at_work() -> None:
    out = io.StringIO()
    with Bar(Console(file=out, width=100, force_terminal=True)) as bar:
        bar.show("epoch 1", 3, 7, "loss 0.5")
        bar.wait("Measuring the controls")
        bar.show("epoch 2", 1, 9, "loss 0.4")
    last = out.getvalue().rpartition("epoch 2")
    assert last[1], out.getvalue()
    assert "1/9" in last[2]
    assert "loss 0.4" in last[2]
    assert "Measuring" not in last[2]
    assert "3/7" not in last[2]
