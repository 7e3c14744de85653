"""A front under more load than its scorers take."""

import asyncio
import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from pipelines.backlog import Backlog
from pipelines.failures import RequestError
from pipelines.front import Front
from pipelines.intake import Item
from pipelines.model import Scored
from radet.crop import CropPolicy
from radet.images import Pixels

from .service import LocalMonitor
from .test_monitor import FACTS, scorer

ROOM = 3


class Full:
    """Scorers with room for three pictures, of whose computing only the time is real."""

    def __init__(self) -> None:
        self.held = self.refused = 0

    async def score(self, crop: Pixels, policy: CropPolicy, *, patient: bool = False) -> Scored:
        if self.held == ROOM:
            self.refused += 1
            raise RequestError("overloaded", "full")
        self.held += 1
        await asyncio.sleep(0.02)
        self.held -= 1
        return Scored(evidence={}, model_id="m", band=None, queue_s=0.0, inference_s=0.02, batch=1)


def test_a_front_learns_from_refusals_and_forgets() -> None:
    now = 0.0
    backlog = Backlog(lambda: now)

    def refused() -> bool:
        try:
            backlog.check()
        except RequestError as error:
            return error.code == "overloaded"
        return False

    assert not refused()
    with backlog.inside(), backlog.sent(), backlog.inside():
        with pytest.raises(RequestError), backlog.sent():
            raise RequestError("overloaded", "full")
        assert refused(), "two are inside, and the scorers took one"
        now = 1.5
        assert not refused(), "that was a while ago"
        with pytest.raises(RequestError), backlog.sent():
            raise RequestError("not_ready", "none is loaded")
        assert not refused(), "another answer says nothing of room"
    now = 0.0
    assert not refused(), "all have left"
    with pytest.raises(RequestError), backlog.sent():
        raise RequestError("overloaded", "full of what other fronts have sent")
    assert not refused(), "one at a time goes on asking"


def test_what_would_be_refused_is_not_decoded() -> None:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(out, "JPEG")
    picture = out.getvalue()

    async def run() -> tuple[Counter[str], int]:
        monitor, scorers = LocalMonitor(), Full()
        monitor.monitor.report(scorer("s1", facts=FACTS))
        front = Front(scorers, monitor)  # type: ignore[arg-type]
        found: Counter[str] = Counter()

        async def one() -> None:
            try:
                found[(await front.score(Item(data=picture)))["status"]] += 1
            except RequestError as error:
                found[error.code] += 1

        tasks = []
        for _ in range(400):  # ten times what they take, for half a second
            tasks.append(asyncio.create_task(one()))
            await asyncio.sleep(0.001)
        await asyncio.gather(*tasks)
        refused = scorers.refused
        batch = [told async for told in front.score_all([Item(data=picture)] * 8, asyncio.get_running_loop().time())]
        assert [told["error"] for told in batch] == [None] * 8, "a batch waits"
        return found, refused

    found, refused = asyncio.run(run())
    assert found.total() == 400
    assert found["overloaded"] > 100
    assert found["ok"] > 20, "what leaves makes room"
    assert refused < found["overloaded"] / 2, "after the first refusals the front knows by itself"
