"""Would the score hold? What one picture scores after what happens to pictures on their way through the web."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radet.degradations import degrade
from radet.detector import Detector
from radet.errors import ImageError
from radet.images import Limits
from radet.rows import Row, read_bytes, see
from radet.score import Score

_TOLD = ("status", "error", "logit", "p_generated", "verdict")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stability:
    """Scores of degraded copies of a picture.

    `scores`    by condition (radet.degradations); one that could not be made has another status than "ok"
    `sentence`  how far they lie apart, and whether the verdict holds
    """

    scores: dict[str, Score]
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, with what differs of the scores."""
        told = {condition: {name: getattr(score, name) for name in _TOLD} for condition, score in self.scores.items()}
        return {"scores": told, "sentence": self.sentence}


def stability(detector: Detector, image: bytes | str | Path, score: Score, conditions: Sequence[str]) -> Stability:
    """Score copies of a picture, whose own score is `score`, after each of the `conditions`; of each what an evaluation
    with these conditions gives. Costs a scoring each.

    Raises what reading the picture does, and ConfigError for an unknown condition.
    """
    data = read_bytes(image)
    scores = {condition: _degraded(detector, data, condition) for condition in conditions}
    return Stability(scores=scores, sentence=_sentence(score, scores))


def _degraded(detector: Detector, data: bytes, condition: str) -> Score:
    """One at a time: only one copy in full size is held."""
    facts: dict[str, Any] = {"uri": condition}
    try:
        copy = degrade(data, condition)
        row = see(copy, detector.config.crop, Limits(max_bytes=len(copy)))  # a PNG may be larger than what was given
        row = Row(facts=facts | row.facts, crop=row.crop)
    except ImageError as error:
        row = Row(facts=facts | {"status": error.code, "error": error.message}, crop=None)
    (score,) = detector.score_rows([row])
    return score


def _sentence(score: Score, scores: dict[str, Score]) -> str:
    found = {condition: copy for condition, copy in scores.items() if copy.logit is not None}
    if not found:
        return "No degraded copy of it could be scored."
    name, word = ("logit", "logit") if score.p_generated is None else ("p_generated", "probability")
    values = [getattr(copy, name) for copy in found.values()]
    said = f"Degraded as on its way through the web ({', '.join(found)}), its {word} lies between "
    said += f"{min(values):.2f} and {max(values):.2f}"
    if score.verdict is None:
        return f"{said}."
    others = {condition: copy.verdict for condition, copy in found.items() if copy.verdict != score.verdict}
    if not others:
        return f"{said}, and the verdict stays the same."
    changes = ", ".join(f"{verdict} after {condition}" for condition, verdict in others.items())
    return f"{said}, and the verdict does not hold: {changes}."
