"""Degraded copies over HTTP: those that an evaluation scores, and no others."""

from dataclasses import asdict
from typing import Any
from urllib.parse import urlencode

import pytest

from radet import Detector
from radet.degradations import degrade
from radet.thresholds import usual_conditions

from .bad_inputs import encoded, photo
from .client import ask, form
from .service import Service


def shared(row: dict[str, Any]) -> dict[str, Any]:
    """What the endpoint and the detector say of the same bytes."""
    return {name: row[name] for name in ("sha256", "phash", "width", "bytes", "verdict", "logit", "p_generated")}


def test_a_degraded_copy_has_the_score_that_an_evaluation_gives_it(here: Service, picture: bytes) -> None:
    detector = Detector.from_pretrained("radet-lite")
    conditions = usual_conditions(detector.config.thresholds)
    expected = detector.score([degrade(picture, condition) for condition in conditions])
    for condition, score in zip(conditions, expected, strict=True):
        answer = ask(f"{here.url}/v1/score?{urlencode({'condition': condition})}", body=picture)
        assert answer.status == 200, answer.body
        assert shared(answer.json()) == pytest.approx(shared(asdict(score)), abs=1e-5)
    chain = "resize:0.8+jpeg:60"  # as it is written, though a plus means a space there
    answer = ask(f"{here.url}/v1/explain?condition={chain}", body=picture)
    assert shared(answer.json()["score"]) == pytest.approx(shared(asdict(expected[conditions.index(chain)])), abs=1e-5)


def test_a_condition_that_the_model_was_not_held_to_is_refused_before_any_work(here: Service, picture: bytes) -> None:
    for condition in ("jpeg:49", "blur:50+blur:50", "", "clean"):
        answer = ask(f"{here.url}/v1/score?{urlencode({'condition': condition})}", body=picture)
        assert (answer.status, answer.code) == (400, "bad_request")
        assert "jpeg:50" in answer.json()["error"]["message"]


def test_each_picture_of_a_batch_is_degraded_and_every_answer_says_so(here: Service, picture: bytes) -> None:
    body, headers = form(("file", "a.jpg", picture), ("file", "b.jpg", picture))
    url = f"{here.url}/v1/score:batch"
    items = ask(f"{url}?condition=jpeg:50", body=body, headers=headers).json()["items"]
    alone = ask(f"{here.url}/v1/score?condition=jpeg:50", body=picture).json()
    assert [shared(item["result"]) for item in items] == 2 * [shared(alone)]
    assert [item["result"]["condition"] for item in items] == 2 * ["jpeg:50"]
    assert alone["condition"] == "jpeg:50"
    assert ask(f"{here.url}/v1/score", body=picture).json()["condition"] is None
    assert ask(f"{here.url}/v1/explain?condition=blur:1", body=picture).json()["condition"] == "blur:1"
    refused = ask(f"{url}?condition=jpeg:49", body=body, headers=headers)
    assert (refused.status, refused.code) == (400, "bad_request"), "once, not for each picture"


def test_caps_hold_before_a_picture_is_degraded(here: Service, request: pytest.FixtureRequest) -> None:
    request.addfinalizer(lambda: here.front.reconfigure({}))
    here.front.reconfigure({"max_pixels": 30_000})  # three quarters of each side would fit
    body = encoded(photo(200, 200), "PNG")
    assert ask(f"{here.url}/v1/score?condition=resize:0.75", body=body).code == "too_many_pixels"
    small = encoded(photo(200, 200), "JPEG")
    here.front.reconfigure({"max_bytes": len(small)})  # which the copy, a PNG, need not keep to
    assert ask(f"{here.url}/v1/score?condition=noise:3", body=small).status == 200
