"""A front: a batch whose time is up, and when it takes nothing."""

import asyncio
import socket
import time
from dataclasses import replace

import pytest

from pipelines import front
from pipelines.front import Front
from pipelines.intake import Item
from pipelines.model import Scored
from radet.crop import CropPolicy
from radet.errors import ConfigError
from radet.images import Pixels

from .bad_inputs import encoded, photo
from .client import ask, eventually
from .service import LocalMonitor, Service
from .test_monitor import FACTS, scorer

EVIDENCE = {"logit": 0.0, "p_generated": 0.5, "verdict": "uncertain"}


class Slow:
    """A scorer that takes its time, for one picture after the other."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()

    async def score(self, crop: Pixels, policy: CropPolicy, *, patient: bool) -> Scored:
        async with self.turn:
            await asyncio.sleep(0.1)
        return Scored(evidence=EVIDENCE, model_id="m", band=None, queue_s=0.0, inference_s=0.0, batch=1)


def test_a_batch_is_answered_in_time_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "_BATCH_S", 1.5)

    async def run() -> None:
        monitor = LocalMonitor()
        monitor.monitor.report(scorer("s1", facts=FACTS))
        one = Front(Slow(), monitor)  # type: ignore[arg-type]
        items = [Item(data=encoded(photo(64, 64), "JPEG"), external_id=str(number)) for number in range(64)]
        begun, loop = time.monotonic(), asyncio.get_running_loop()
        told = [item async for item in one.score_all(items, loop.time() - 0.5)]
        assert time.monotonic() - begun < 1.5, "the time is the request's, its body included"
        done = [item["result"] is not None for item in told]
        assert 1 <= sum(done) <= 10
        assert done == sorted(done, reverse=True)
        late = [item["error"]["code"] for item in told if item["error"]]
        assert late == ["overloaded"] * (64 - sum(done))
        counted = {labels: value for name, labels, value in _images(one) if name == "radet_images_total"}
        assert counted == {(("status", "ok"),): sum(done), (("status", "overloaded"),): len(late)}
        async with asyncio.timeout(5):
            assert (await one.score(items[0]))["status"] == "ok", "nothing of the batch is left in the way"

    asyncio.run(run())


def _images(one: Front) -> list[tuple[str, tuple[tuple[str, str], ...], float]]:
    return next(family.samples for family in one.meters.snapshot() if family.name == "radet_images")


def test_without_settings_it_is_not_ready_and_takes_nothing(here: Service, picture: bytes) -> None:
    here.front.close(ConfigError("user_config max_bites: no such key"))
    try:
        ready, refused = ask(f"{here.url}/readyz", method="GET"), ask(f"{here.url}/v1/score", body=picture)
    finally:
        here.front.reconfigure({})
    assert (ready.status, ready.json()["ready"], ready.json()["model_id"]) == (503, False, None)
    assert "max_bites" in ready.json()["checks"]["weights"]["detail"]
    assert (refused.status, refused.code) == (503, "not_ready")
    assert ask(f"{here.url}/v1/score", body=picture).status == 200


def test_a_detector_without_a_calibration_is_ready_only_where_none_is_required(
    here: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    try:
        with monkeypatch.context() as changed:
            changed.setattr(here.scorer, "_facts", replace(here.scorer.facts, calibrated=False))  # type: ignore[type-var]
            here.run(here.scorer._report())
            for required in (True, False):
                here.front.reconfigure({"require_calibration": required})
                found.append(ask(f"{here.url}/readyz", method="GET"))
    finally:
        here.front.reconfigure({})
        here.run(here.scorer._report())
    assert [(answer.status, answer.json()["ready"]) for answer in found] == [(503, False), (200, True)]
    assert [answer.json()["checks"]["calibration"]["ok"] for answer in found] == [False, True]


def test_before_it_ends_it_answers_what_it_has_begun_and_refuses_what_is_new(here: Service, picture: bytes) -> None:
    host, port = here.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as begun:
        begun.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(picture))
        eventually(lambda: here.front._requests == 1)
        drained = asyncio.run_coroutine_threadsafe(here.front.drain(60.0), here.loop)
        eventually(lambda: ask(f"{here.url}/v1/score", body=picture).status == 503)
        assert ask(f"{here.url}/v1/score", body=picture).code == "not_ready"
        assert not drained.done()
        begun.sendall(picture)
        assert begun.recv(4096).startswith(b"HTTP/1.1 200")
    drained.result(20)
    here.front._refusing_until = 0.0
    assert ask(f"{here.url}/v1/score", body=picture).status == 200
