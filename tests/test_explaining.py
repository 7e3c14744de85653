"""Explanations over HTTP: few at a time, by turns with scores, and no more work than was asked for."""

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image

from radet import rows

from .client import ask
from .service import Service


def test_a_few_are_explained_at_a_time_and_more_are_refused(here: Service, picture: bytes) -> None:
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: ask(f"{here.url}/v1/explain", body=picture), range(24)))
    counts = Counter(answer.status for answer in answers)
    assert set(counts) == {200, 503}
    assert counts[200] >= 4
    for answer in answers:
        if answer.status == 503:
            assert answer.code == "overloaded"
            assert int(answer.headers["retry-after"]) >= 1
    assert ask(f"{here.url}/v1/explain", body=picture).status == 200, "places are given back"


def test_scores_take_turns_with_explanations(here: Service, picture: bytes) -> None:
    row = rows.see(picture, here.run(here.front.facts()).policy)
    facts = {"uri": "#0", **row.facts}

    async def run() -> int:
        policy = (await here.front.facts()).policy
        waiting = [asyncio.create_task(here.scorer.explain(row.crop, policy, facts, None)) for _ in range(4)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await here.scorer.score(row.crop, policy)
        done = sum(task.done() for task in waiting)
        await asyncio.gather(*waiting)
        return done

    assert here.run(run()) <= 1


def test_no_more_is_decoded_and_drawn_than_was_asked_for(
    here: Service, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, drawn = [], []
    decode, save = rows.decode_picture, Image.Image.save

    def decoding(*args: Any, **options: Any) -> Any:
        decoded.append(threading.current_thread().name)
        return decode(*args, **options)

    def saving(*args: Any, **options: Any) -> None:
        drawn.append(threading.current_thread().name)
        save(*args, **options)

    monkeypatch.setattr(rows, "decode_picture", decoding)
    monkeypatch.setattr(Image.Image, "save", saving)
    for query, accept, pictures in (("", "*/*", 0), ("?images=true", "*/*", 2), ("", "image/png", 1)):
        decoded.clear()
        drawn.clear()
        answer = ask(f"{here.url}/v1/explain{query}", body=picture, headers={"Accept": accept})
        assert answer.status == 200
        assert (len(decoded), len(drawn)) == (1, pictures), query
        assert not [name for name in decoded + drawn if "compute" in name or name == here._thread.name]


def test_how_large_the_pictures_may_be(here: Service, picture: bytes) -> None:
    assert ask(f"{here.url}/v1/explain?side=512", body=picture, headers={"Accept": "image/png"}).status == 200
    assert ask(f"{here.url}/v1/explain?side=513", body=picture).code == "bad_request"
