"""Whether a score holds: those of degraded copies are what scoring these gives, and the sentence says what they say."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from jobs.cli import app
from pipelines.degraded import degraded
from pipelines.fetch import Fetcher
from radet import Detector
from radet.errors import ConfigError, FetchError
from radet.score import Score
from radet.stability import Stability, _sentence, stability
from radet.thresholds import usual_conditions

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.from_pretrained("radet-lite")


@pytest.fixture
def path(photographs: list[Image.Image], tmp_path: Path) -> Path:
    file = tmp_path / "photograph.png"
    photographs[0].resize((300, 280)).save(file)
    return file


def test_a_degraded_copy_scores_as_an_evaluation_has_it(detector: Detector, path: Path) -> None:
    (score,) = detector.score([path])
    conditions = ["noise:8", "resize:0.8+jpeg:60"]
    found = stability(detector, path, score, conditions)
    assert list(found.scores) == conditions
    fetcher = Fetcher(allow_http=False)
    for condition, (copy,) in zip(
        conditions, (detector.score([fetcher.read(degraded(str(path), one))]) for one in conditions), strict=True
    ):
        assert found.scores[condition].logit == copy.logit
        assert copy.logit != score.logit
    assert stability(detector, path.read_bytes(), score, conditions).to_dict() == found.to_dict()
    assert json.loads(json.dumps(found.to_dict()))["scores"]["noise:8"]["verdict"] == found.scores["noise:8"].verdict


def test_a_copy_that_cannot_be_made_says_why_and_the_others_are_scored(detector: Detector, tmp_path: Path) -> None:
    file = tmp_path / "long.png"
    Image.fromarray(np.zeros((2, 17_000, 3), np.uint8)).save(file)
    (score,) = detector.score([file])
    found = stability(detector, file, score, ["webp:80", "jpeg:50"])
    assert [copy.status for copy in found.scores.values()] == ["too_many_pixels", "ok"]
    assert "(jpeg:50)" in found.sentence
    assert "webp" in str(found.scores["webp:80"].error)


def test_what_it_cannot_do_is_told(detector: Detector, path: Path) -> None:
    (score,) = detector.score([path])
    with pytest.raises(ConfigError, match="names no suite"):
        stability(detector, path, score, ["jpg:50"])
    with pytest.raises(FetchError, match="No such file"):
        stability(detector, path.with_name("gone.png"), score, ["jpeg:50"])


def _copy(p: float | None, verdict: str | None, logit: float | None = 0.5) -> Score:
    return Score(id="a", uri="a", model_id="m", scored_at=NOW, logit=logit, p_generated=p, verdict=verdict)


@pytest.mark.parametrize(
    ("score", "copies", "says"),
    [
        (
            _copy(0.9, "generated"),
            {"jpeg:50": _copy(0.85, "generated"), "blur:1": _copy(0.9512, "generated")},
            "(jpeg:50, blur:1), its probability lies between 0.85 and 0.95, and the verdict stays the same.",
        ),
        (
            _copy(0.9, "generated"),
            {"jpeg:50": _copy(0.6, "uncertain"), "blur:1": _copy(0.9, "generated"), "noise:3": _copy(0.1, "real")},
            "0.10 and 0.90, and the verdict does not hold: uncertain after jpeg:50, real after noise:3.",
        ),
        (_copy(None, None, -1.0), {"jpeg:50": _copy(None, None, 2.0)}, "its logit lies between 2.00 and 2.00."),
        (_copy(0.9, "generated"), {"webp:80": _copy(None, None, None)}, "No degraded copy of it could be scored."),
    ],
)
def test_the_sentence_says_what_the_scores_say(score: Score, copies: dict[str, Score], says: str) -> None:
    assert _sentence(score, copies).endswith(says)


def test_the_usual_conditions_are_those_of_the_thresholds(detector: Detector) -> None:
    usual = usual_conditions(detector.config.thresholds)
    assert set(usual) == {"jpeg:50", "resize:0.75", "blur:1", "noise:3", "resize:0.8+jpeg:60"}
    assert len(usual) == 5
    assert usual_conditions(()) == ()


def test_radet_explain_tells_and_keeps_it(path: Path, tmp_path: Path) -> None:
    def run(name: str, *options: str) -> tuple[str, dict[str, object]]:
        done = CliRunner().invoke(app, ["explain", str(path), "--out", str(tmp_path / name), *options])
        assert done.exit_code == 0, done.output
        return done.output, json.loads((tmp_path / name / "photograph.json").read_text())

    told, kept = run("usual")
    found = kept["stability"]
    assert isinstance(found, dict)
    assert len(found["scores"]) == 5
    assert found["sentence"] in told
    told, kept = run("one", "--suite", "jpeg:50")
    assert isinstance(kept["stability"], dict)
    assert list(kept["stability"]["scores"]) == ["jpeg:50"]
    told, kept = run("none", "--suite", "clean")
    assert kept["stability"] is None
    assert "Degraded" not in told
    assert isinstance(
        CliRunner().invoke(app, ["explain", str(path), "--out", "o", "--suite", "x"]).exception, ConfigError
    )


def test_its_json_has_what_differs() -> None:
    told = Stability(scores={"jpeg:50": _copy(0.6, "real")}, sentence="It holds.").to_dict()
    assert told["scores"]["jpeg:50"] == {
        "status": "ok",
        "error": None,
        "logit": 0.5,
        "p_generated": 0.6,
        "verdict": "real",
    }
