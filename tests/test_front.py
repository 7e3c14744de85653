"""A batch whose time is up."""

import asyncio
import time

import pytest

from pipelines import front
from pipelines.front import Front
from pipelines.intake import Item
from pipelines.model import Scored
from radet.crop import CropPolicy
from radet.images import Pixels

from .bad_inputs import encoded, photo
from .service import LocalMonitor
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
