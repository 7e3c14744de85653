"""The monitor: sums over replicas, readiness, shift."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.model import ModelFacts, Problem
from pipelines.monitor import GONE_AFTER_S, Monitor, Report
from pipelines.observe import Meters
from radet.crop import CropPolicy
from radet.metrics import quantiles

REAL = np.random.default_rng(1).beta(2, 5, 5000)

FACTS = ModelFacts(
    name="m",
    description="",
    model_id="id-1",
    checkpoint_id="id-1",
    encoder="timm/x",
    encoder_sha256="0" * 64,
    precision="fp32",
    device="cpu",
    policy=CropPolicy(),
    calibrated=True,
    band=(0.2, 0.8),
    thresholds=(),
    golden_error=0.0,
    floor=0.0,
    reference_real=quantiles(REAL),
    reference_generated=None,
    reference_drift=None,
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def monitor(clock: Clock) -> Monitor:
    return Monitor(clock)


def values(monitor: Monitor) -> dict[str, float]:
    lines = [line for line in monitor.text().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def scorer(replica: str, meters: Meters | None = None, facts: ModelFacts = FACTS, scores: list[float] = []) -> Report:  # noqa: B006
    metrics = [] if meters is None else meters.snapshot()
    return Report(replica=replica, kind="scorer", metrics=metrics, facts=facts, scores=[(p, None) for p in scores])


def test_counters_and_histograms_add_up_and_gauges_stay_apart(monitor: Monitor) -> None:
    for name, count in (("s1", 3), ("s2", 4)):
        meters = Meters(name)
        meters.self_test("id-1")
        for _ in range(count):
            meters.images.labels("ok").inc()
            meters.batch.observe(2)
        monitor.report(scorer(name, meters))
        monitor.report(scorer(name, meters))  # cumulative: telling it twice counts it once
    found = values(monitor)
    assert found['radet_images_total{status="ok"}'] == 7
    assert found["radet_batch_size_sum"] == 14
    assert found['radet_batch_size_bucket{le="1.0"}'] == 0
    assert found['radet_batch_size_bucket{le="2.0"}'] == 7
    assert found['radet_self_test_ok{model_id="id-1",replica="s2"}'] == 1
    assert found['radet_replicas{kind="scorer"}'] == 2


def test_a_replica_that_is_gone_keeps_its_counts_and_loses_its_gauges(monitor: Monitor, clock: Clock) -> None:
    meters = Meters("s1")
    meters.self_test("id-1")
    meters.images.labels("ok").inc(5)
    monitor.report(scorer("s1", meters))
    clock.now = GONE_AFTER_S + 1
    for _ in range(2):
        found = values(monitor)
        assert found['radet_images_total{status="ok"}'] == 5
        assert found['radet_replicas{kind="scorer"}'] == 0
        assert not [name for name in found if name.startswith("radet_self_test_ok")]
    assert monitor.models() == []


def test_what_is_ready_and_what_is_not(monitor: Monitor, clock: Clock) -> None:
    monitor.report(scorer("s1"))
    clock.now = 1.0
    monitor.report(scorer("s2", facts=replace(FACTS, model_id="id-2")))
    monitor.report(Report(replica="s3", kind="scorer", problem=Problem(code="weights_missing", message="gone")))
    assert [facts.model_id for facts in monitor.models()] == ["id-2", "id-1"]
    assert [problem.code for problem in monitor.problems()] == ["weights_missing"]
    clock.now = 60.0
    assert monitor.models() == []
    assert len(monitor.problems()) == 1  # a replica that failed to start does not report again


def test_a_shift_of_scores_is_seen_and_another_model_is_none(monitor: Monitor) -> None:
    rng = np.random.default_rng(2)

    def shift() -> float:
        return values(monitor)['radet_score_shift{reference="real",statistic="psi",value="p_generated"}']

    monitor.report(scorer("s1", scores=list(rng.beta(2, 5, 10))))
    assert "radet_score_shift" not in str(values(monitor))  # too few to say
    monitor.report(scorer("s1", scores=list(rng.beta(2, 5, 2000))))
    assert shift() < 0.1
    monitor.report(scorer("s1", scores=list(rng.beta(6, 2, 2000))))
    assert shift() > 1
    other = replace(FACTS, model_id="id-2")
    monitor.report(scorer("s1", facts=other, scores=list(rng.beta(2, 5, 500))))
    assert shift() < 0.2
    assert values(monitor)["radet_recent_scores"] == 500


def test_problems_may_be_asked_for_by_age(monitor: Monitor, clock: Clock) -> None:
    problem = Problem(code="weights_mismatch", message="other weights")
    monitor.report(Report(replica="a", kind="scorer", problem=problem))
    clock.now = 5.0
    assert monitor.problems() == monitor.problems(10.0) == [problem]
    assert monitor.problems(1.0) == []
    newer = Problem(code="config_invalid", message="another")
    monitor.report(Report(replica="b", kind="scorer", problem=newer))
    assert monitor.problems() == [newer, problem], "newest first"


def test_a_model_that_passed_its_test_takes_the_place_of_the_one_before(monitor: Monitor) -> None:
    meters = Meters("s1")
    for model in ("id-1", "id-2"):
        meters.self_test(model)
        monitor.report(scorer("s1", meters))
    told = [name for name in values(monitor) if name.startswith("radet_self_test_ok")]
    assert told == ['radet_self_test_ok{model_id="id-2",replica="s1"}']


def test_a_replica_that_was_silent_and_returns_counts_once(monitor: Monitor, clock: Clock) -> None:
    meters = Meters("s1")
    meters.images.labels("ok").inc(5)
    for _ in range(3):
        monitor.report(scorer("s1", meters))
        assert values(monitor)['radet_images_total{status="ok"}'] == 5
        clock.now += GONE_AFTER_S + 1
        assert values(monitor)['radet_images_total{status="ok"}'] == 5


def test_counts_of_many_that_are_gone_stay(monitor: Monitor, clock: Clock) -> None:
    for number in range(250):
        meters = Meters(f"s{number}")
        meters.images.labels("ok").inc()
        monitor.report(scorer(f"s{number}", meters))
        clock.now += GONE_AFTER_S + 1
        assert values(monitor)['radet_images_total{status="ok"}'] == number + 1


def test_one_bad_replica_shows_among_good_ones(monitor: Monitor, clock: Clock) -> None:
    name = 'radet_problems{code="numeric_selftest_failed"}'
    for number in range(3):
        meters = Meters(f"s{number}")
        meters.self_test("id-1")
        monitor.report(scorer(f"s{number}", meters))
    assert name not in values(monitor)
    problem = Problem(code="numeric_selftest_failed", message="golden")
    monitor.report(Report(replica="bad", kind="scorer", problem=problem))
    found = values(monitor)
    assert found[name] == 1
    assert found['radet_replicas{kind="scorer"}'] == 3
    clock.now += 1000 * GONE_AFTER_S
    assert name not in values(monitor)
