"""What may wait to be decoded, by real pictures."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest
from PIL import Image

from pipelines import decoding
from pipelines.decoding import Decoder
from pipelines.failures import RequestError
from pipelines.observe import Meters
from radet.crop import CropPolicy
from radet.errors import ImageError
from radet.images import Limits
from radet.rows import Row

from .bad_inputs import encoded

SMALL = encoded(Image.new("RGB", (300, 300)), "PNG")
LARGE = encoded(Image.new("L", (5000, 5000), 90), "PNG")  # 25 megapixels in 25 kB


@pytest.fixture(autouse=True)
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_LARGE", 1_000_000)
    monkeypatch.setattr(decoding, "_AHEAD", 60_000_000)


def see(decoder: Decoder, data: bytes, *, patient: bool = False, **limits: int) -> Coroutine[Any, Any, Row]:
    return decoder.see(data, CropPolicy(), Limits(**limits), patient=patient)


async def ended(calls: list[Coroutine[Any, Any, Row]]) -> Counter[str]:
    found = await asyncio.gather(*calls, return_exceptions=True)
    return Counter(one.code if isinstance(one, RequestError) else type(one).__name__ for one in found)


def test_large_pictures_are_refused_where_many_wait_and_small_ones_pass_them() -> None:
    async def run() -> None:
        decoder = Decoder(1, Meters("a"))
        await see(decoder, SMALL)  # the first one of a process takes longer
        large = [asyncio.create_task(see(decoder, LARGE)) for _ in range(6)]
        await asyncio.sleep(0)
        await see(decoder, SMALL)
        assert not any(task.done() and task.exception() is None for task in large), "a small one waited for a large one"
        found = await asyncio.gather(*large, return_exceptions=True)
        refused = [one for one in found if isinstance(one, RequestError) and one.code == "overloaded"]
        assert (len(found) - len(refused), len(refused)) == (2, 4)
        assert await ended([see(decoder, LARGE)]) == {"Row": 1}, "room is given back"

    asyncio.run(run())


def test_pictures_of_batches_wait_and_take_no_room_of_single_ones() -> None:
    async def run() -> None:
        decoder = Decoder(1, Meters("a"))
        batch = [asyncio.create_task(see(decoder, LARGE, patient=True)) for _ in range(6)]
        await asyncio.sleep(0)
        assert await ended([see(decoder, LARGE), see(decoder, LARGE)]) == {"Row": 2}
        assert not all(task.done() for task in batch)
        assert len(await asyncio.gather(*batch)) == 6

    asyncio.run(run())


def test_a_picture_over_the_cap_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        decoder = Decoder(1, Meters("a"))
        monkeypatch.setattr(decoding, "_AHEAD", 1)
        assert await ended([see(decoder, LARGE), *(see(decoder, LARGE, max_pixels=1000) for _ in range(3))]) == {
            "Row": 1,
            "ImageError": 3,
        }
        with pytest.raises(ImageError):
            await see(decoder, b"no picture")

    asyncio.run(run())
