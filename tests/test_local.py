"""A scorer in its front's process, alone and with others beside it."""

import asyncio
import json
import shutil
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.failures import RequestError
from pipelines.front import Front
from pipelines.intake import Item
from pipelines.keeping import Keeping
from pipelines.local import LocalScorer
from pipelines.model import OtherCrop, Scored
from pipelines.monitor import Monitor
from pipelines.observe import Meters
from pipelines.readiness import until_ready
from pipelines.remote import ScorerClient
from pipelines.replica import Scorer
from pipelines.standalone import Standalone
from radet.crop import CropPolicy
from radet.errors import ConfigError, ModelError
from radet.images import Pixels

from .bad_inputs import encoded, photo
from .service import LocalMonitor
from .test_monitor import FACTS, scorer

BUNDLED = Path(__file__).parent.parent / "radet" / "weights" / "radet-lite"
SETTINGS = {"scorer": {"max_batch_size": 2, "batch_wait_ms": 0}}


class Peers:
    """The other replicas: all of a picture that is sent to them is that it was."""

    def __init__(self) -> None:
        self.asked = 0

    async def score(self, crop: Pixels, policy: CropPolicy, *, patient: bool = False) -> Scored | OtherCrop:
        assert patient
        self.asked += 1
        return OtherCrop(facts=FACTS)

    async def explain(self, *_: Any) -> Any:
        raise AssertionError("explanations stay where they are asked for")


async def local(peers: ScorerClient | None = None) -> tuple[LocalScorer, Pixels, CropPolicy]:
    monitor = LocalMonitor()
    one = Scorer("radet-lite", device="cpu", most=64, replica="a", tell=monitor.report)
    await one.reconfigure(SETTINGS["scorer"])
    (facts,) = await monitor.models()
    crop = np.random.default_rng(3).integers(0, 255, (facts.policy.size, facts.policy.size, 3), np.uint8)
    return LocalScorer(one, peers), crop, facts.policy


async def together(calls: list[Coroutine[Any, Any, Any]]) -> tuple[int, int]:
    """How many were scored, and how many refused."""
    found = await asyncio.gather(*calls, return_exceptions=True)
    refused = [answer for answer in found if isinstance(answer, RequestError) and answer.code == "overloaded"]
    return sum(isinstance(answer, Scored) for answer in found), len(refused)


def test_single_pictures_are_refused_beyond_three_batches_and_patient_ones_wait() -> None:
    async def run() -> None:
        here, crop, policy = await local()
        calls = [here.score(crop, policy) for _ in range(9)]
        assert await together(calls) == (6, 3)
        waiting = [here.score(crop, policy, patient=True) for _ in range(9)]
        assert await together(waiting) == (9, 0)
        mixed = [here.score(crop, policy, patient=True) for _ in range(9)]
        assert await together([*mixed, here.score(crop, policy)]) == (10, 0), "a batch takes no single picture's place"
        assert await together([here.score(crop, policy)]) == (1, 0), "places are given back"

    asyncio.run(run())


def test_on_a_cpu_no_answer_waits_for_a_second_picture() -> None:
    async def run() -> None:
        here, crop, policy = await local()
        await here._scorer.reconfigure({"max_batch_size": 4, "batch_wait_ms": 1000})
        first, second, third = (asyncio.create_task(here.score(crop, policy)) for _ in range(3))
        await asyncio.wait([first, second, third], return_when=asyncio.FIRST_COMPLETED)
        assert (first.done(), third.done()) == (True, False)
        answers = await asyncio.gather(first, second, third)
        assert [answer.batch for answer in answers if isinstance(answer, Scored)] == [1, 1, 1]

    asyncio.run(run())


def test_what_is_too_much_of_a_batch_goes_to_the_other_replicas() -> None:
    async def run() -> None:
        peers = Peers()
        here, crop, policy = await local(peers)
        assert await together([here.score(crop, policy, patient=True) for _ in range(8)]) == (6, 0)
        assert peers.asked == 2
        assert await together([here.take(crop, policy) for _ in range(8)]) == (8, 0), "what came from there stays here"
        assert await together([here.score(crop, policy) for _ in range(8)]) == (6, 2), "single pictures do not travel"
        assert peers.asked == 2

    asyncio.run(run())


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    shutil.copytree(BUNDLED, tmp_path / "broken")
    golden = json.loads((tmp_path / "broken" / "golden.json").read_text())
    golden["logit"] = [value + 1 for value in golden["logit"]]
    (tmp_path / "broken" / "golden.json").write_text(json.dumps(golden))
    return tmp_path / "broken"


def test_without_a_detector_it_stays_up_to_say_why_and_tries_again(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.standalone._AGAIN_S", 0.05)

    async def run() -> None:
        monitor = LocalMonitor()
        one = Standalone(str(broken), monitor, None, replica="a", most=64)
        await one.reconfigure(SETTINGS)
        _, problems = await one.front.readiness()
        assert [problem.code for problem in problems] == ["numeric_selftest_failed"]
        with pytest.raises(ModelError, match="golden"):
            await until_ready(monitor)
        shutil.copytree(BUNDLED, broken, dirs_exist_ok=True)
        async with asyncio.timeout(60):
            while not await monitor.models():
                await asyncio.sleep(0.05)
            await until_ready(monitor)
        assert (await one.front.readiness())[1] == []

    asyncio.run(run())


@pytest.mark.parametrize("away", [False, True])
def test_where_others_can_score_a_broken_detector_is_an_error(broken: Path, away: bool) -> None:
    async def run() -> None:
        monitor = LocalMonitor()
        await monitor.report(scorer("old"))
        monitor.away = away
        one = Standalone(str(broken), monitor, None, replica="a", most=64)
        with pytest.raises(ModelError, match="golden"):
            await one.reconfigure(SETTINGS)

    asyncio.run(run())


BAD_BAND = {"scorer": {"max_batch_size": 2, "band": {"real_below": 0.9, "generated_above": 0.1}}}
BAD = [{"front": {"max_bites": 1}}, BAD_BAND]


@pytest.mark.parametrize("bad", BAD)
def test_where_others_can_score_first_settings_that_cannot_be_are_an_error(bad: dict[str, Any]) -> None:
    async def run() -> None:
        monitor = LocalMonitor()
        await monitor.report(scorer("old"))
        one = Standalone(str(BUNDLED), monitor, None, replica="a", most=64)
        with pytest.raises(ConfigError, match="user_config"):
            await one.reconfigure(bad)
        (problem,) = await monitor.problems()
        assert (problem.code, "user_config" in problem.message) == ("config", True)

    asyncio.run(run())


@pytest.mark.parametrize("bad", BAD)
def test_where_nobody_can_score_it_stays_up_to_say_what_is_wrong_with_its_settings(
    bad: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.standalone._AGAIN_S", 0.05)

    async def run() -> None:
        monitor = LocalMonitor()
        one = Standalone(str(BUNDLED), monitor, None, replica="a", most=64)
        await one.reconfigure(bad)
        monitor.monitor = Monitor()  # what was told once is not known for ever
        async with asyncio.timeout(60):
            while not (problems := (await one.front.readiness())[1]):
                await asyncio.sleep(0.05)
        assert "user_config" in problems[0].message
        with pytest.raises(RequestError, match="readyz"):
            await one.front.score(Item(data=encoded(photo(), "JPEG")))
        policy = CropPolicy()
        with pytest.raises(ModelError):  # no picture passes before its thresholds are what was asked for
            await one.take(np.zeros((policy.size, policy.size, 3), np.uint8), policy)
        await one.reconfigure(SETTINGS)
        assert (await one.front.readiness())[1] == []
        assert (await one.front.score(Item(data=encoded(photo(), "JPEG"))))["status"] == "ok"

    asyncio.run(run())


def test_rates_are_shared_by_as_many_as_report() -> None:
    async def run() -> None:
        monitor = LocalMonitor()
        one = Standalone(str(BUNDLED), monitor, None, replica="a", most=64)
        await one.reconfigure(SETTINGS)
        await one.front.readiness()
        assert one.front.door.fronts == 1
        await monitor.report(scorer("b"))
        await one.front.readiness()
        assert one.front.door.fronts == 2

    asyncio.run(run())


def test_settings_that_cannot_be_change_nothing_of_a_replica_that_has_some() -> None:
    async def run() -> None:
        monitor = LocalMonitor()
        one = Standalone(str(BUNDLED), monitor, None, replica="a", most=64)
        good = {"front": {"max_items": 7}, "scorer": {"max_batch_size": 3}}
        await one.reconfigure(good)
        known = one._scorer.facts
        bad_band = {"max_batch_size": 5, "band": {"real_below": 0.9, "generated_above": 0.1}}
        for bad in (
            {"front": {"max_items": 8, "max_bites": 1}},
            {"front": {"max_items": 8}, "scorer": bad_band},
            {"front": {"max_items": 8}, "scorer": {"max_batch_size": 33}},  # above what it started with
        ):
            with pytest.raises(ConfigError):
                await one.reconfigure(bad)
            assert one.front.settings.max_items == 7
            assert (one._scorer.batch_size, one._scorer.facts) == (3, known)
            assert len(await monitor.models()) == 1, "it scores"
        await one.reconfigure(good | {"front": {"max_items": 9}})
        assert one.front.settings.max_items == 9

    asyncio.run(run())


def test_what_is_tried_is_what_was_asked_for_last(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.standalone._AGAIN_S", 0.05)

    async def run() -> None:
        monitor = LocalMonitor()
        one = Standalone(str(broken), monitor, None, replica="a", most=64)
        for settings in (SETTINGS, BAD_BAND, SETTINGS | {"front": {"max_items": 9}}):
            await one.reconfigure(settings)
        shutil.copytree(BUNDLED, broken, dirs_exist_ok=True)
        async with asyncio.timeout(60):
            while not await monitor.models():
                await asyncio.sleep(0.05)
        assert one.front.settings.max_items == 9

    asyncio.run(run())


def test_only_the_first_settings_of_a_replica_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    meters = Meters("a")
    keeping = Keeping(meters)

    def refused() -> float:
        (family,) = (family for family in meters.snapshot() if family.name == "radet_settings_refused")
        ((_, _, value),) = family.samples
        return value

    with pytest.raises(ConfigError), keeping.settings():
        raise ConfigError("no such thing")
    with keeping.settings():
        pass
    assert refused() == 0
    with keeping.settings():
        raise ConfigError("max_bites: no such thing")
    assert refused() == 1
    assert "max_bites" in caplog.text
    with pytest.raises(ModelError), keeping.settings():
        raise ModelError("weights_missing", "gone")
    with keeping.settings():
        pass
    assert refused() == 0


def test_a_replica_scores_without_a_monitor_that_ever_answered() -> None:
    async def run() -> None:
        monitor = LocalMonitor()
        monitor.away = True
        one = Standalone(str(BUNDLED), monitor, None, replica="a", most=64)
        await one.reconfigure(SETTINGS)
        answer = await one.front.score(Item(data=encoded(photo(), "JPEG")))
        facts = one._scorer.facts
        assert facts is not None
        assert answer["model_id"] == facts.model_id

    asyncio.run(run())


def test_a_front_knows_its_models_while_the_monitor_is_away_or_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.front._NOBODY_S", 0.3)

    async def run() -> None:
        monitor = LocalMonitor()
        await monitor.report(scorer("s1"))
        await monitor.report(scorer("s2"))
        front = Front(Peers(), monitor, fronts=None)

        async def known() -> tuple[int, int]:
            return len((await front.readiness())[0]), front.door.fronts

        assert await known() == (2, 2)
        monitor.away = True
        await asyncio.sleep(0.4)
        assert await known() == (2, 2)
        monitor.away, monitor.monitor = False, Monitor()  # its process was started anew
        assert await known() == (2, 2)
        await asyncio.sleep(0.4)
        assert await known() == (0, 2), "it knows of nobody for so long that there is nobody"
        await monitor.report(scorer("s3"))
        assert await known() == (1, 1)

    asyncio.run(run())
