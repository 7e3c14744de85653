"""What a calibration tells at its end. Whole ones are in tests/test_evaluate.py."""

from dataclasses import replace

import numpy as np
from rich.console import Console

from jobs.calibrate import show_calibration
from radet.calibration import fit_thresholds
from radet.config import DetectorConfig, resolve


def told(real: int, *rates: float) -> str:
    label = np.arange(2 * real) % 2 == 1
    thresholds = fit_thresholds(np.linspace(0.1, 0.9, 2 * real), label, rates)
    console = Console(width=100)
    with console.capture() as shown:
        show_calibration(console, replace(DetectorConfig.read(resolve("radet-lite")), thresholds=thresholds), "here")
    return shown.get()


def test_rates_are_told_as_they_were_asked_for() -> None:
    text = told(2000, 0.0005, 0.001, 0.07)
    for rate in ("0.05%", "0.1%", "7%"):
        assert f"│ {rate} " in text
    assert "too few" not in text


def test_the_verdict_is_told() -> None:
    verdict = DetectorConfig.read(resolve("radet-lite")).verdict
    assert verdict is not None
    assert f"Verdict: generated above {verdict.generated_above:.4f}, real below {verdict.real_below:.4f}" in told(
        200, 0.05
    )


def test_a_rate_that_so_few_pictures_cannot_measure_is_said_to_be_one() -> None:
    assert "30 real pictures are too few to measure 0.01%, 3%: such a threshold lies above all" in told(
        30, 0.0001, 0.03, 0.05
    )
