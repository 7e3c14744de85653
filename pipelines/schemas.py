"""Requests and answers as pydantic models: what /docs shows, and what a JSON body is checked against.

The fields of a score are those of radet.Score, taken from it: one schema for Parquet, Python and HTTP.
"""

import typing
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, Field, create_model

from radet.score import SCHEMA_VERSION, Score
from radet.thresholds import ThresholdConfig


class ImageRequest(BaseModel):
    """One picture: its bytes, or where they are."""

    model_config = ConfigDict(extra="forbid")

    image: Annotated[str | None, Field(description="the file, base64; a data: URI is fine")] = None
    url: Annotated[str | None, Field(description="http or https; where the service allows it", max_length=8192)] = None
    external_id: Annotated[str | None, Field(description="your own id, echoed", max_length=256)] = None


class BatchRequest(BaseModel):
    """Several pictures."""

    model_config = ConfigDict(extra="forbid")

    items: Annotated[list[ImageRequest], FailFast()]  # an error for each of thousands is of no use to anybody


class Failure(BaseModel):
    code: Annotated[str, Field(description="stable: see radet/errors.py and pipelines/failures.py")]
    message: str


class TracedFailure(Failure):
    request_id: str


class ErrorAnswer(BaseModel):
    """Every answer that is no success."""

    error: TracedFailure


class Band(BaseModel):
    """Where the verdict changes, on p_generated."""

    real_below: float
    generated_above: float


class Timings(BaseModel):
    """Milliseconds."""

    fetch_ms: Annotated[float, Field(description="reading the url; 0 for bytes")]
    decode_ms: Annotated[float, Field(description="bytes to crop, with the wait for a free thread")]
    queue_ms: Annotated[float, Field(description="the crop's wait for its batch")]
    inference_ms: Annotated[float, Field(description="its batch through the detector")]
    total_ms: Annotated[float, Field(description="from the body's arrival to the answer")]


class ExplainTimings(BaseModel):
    """Milliseconds."""

    fetch_ms: Annotated[float, Field(description="reading the url; 0 for bytes")]
    decode_ms: Annotated[float, Field(description="bytes to crop, with the wait for a free thread")]
    queue_ms: Annotated[float, Field(description="the crop's wait for its turn")]
    explain_ms: Annotated[float, Field(description="scoring and explaining it")]
    draw_ms: Annotated[float, Field(description="the pictures, where they were asked for")]
    total_ms: Annotated[float, Field(description="from the body's arrival to the answer")]


class _Traced(BaseModel):
    request_id: str
    external_id: str | None


class _Answered(_Traced):
    schema_version: int = SCHEMA_VERSION
    condition: Annotated[str | None, Field(description="as asked for: all that is said is of the copy degraded so")] = (
        None
    )
    band: Annotated[Band | None, Field(description="null while the checkpoint is uncalibrated")]


_FIELDS: dict[str, Any] = {
    name: (hint, ... if name in {"id", "uri", "model_id", "scored_at", "status"} else None)
    for name, hint in typing.get_type_hints(Score).items()
}

#: The fields of radet.Score.
ScoreFields = create_model("ScoreFields", **_FIELDS, schema_version=(int, SCHEMA_VERSION))


class _Scored(_Answered):
    timings: Timings


ScoreAnswer = create_model("ScoreAnswer", __base__=(ScoreFields, _Scored), __doc__="The score of one picture.")


class BatchItem(BaseModel):
    """A score or an error."""

    index: int
    external_id: str | None
    result: ScoreAnswer | None = None  # type: ignore[valid-type]
    error: Failure | None = None


class BatchAnswer(BaseModel):
    """One item for each picture, in the order of the request."""

    request_id: str
    schema_version: int = SCHEMA_VERSION
    items: list[BatchItem]


class Images(BaseModel):
    """PNG, as data: URIs."""

    crop: Annotated[str, Field(description="what the detector looked at")]
    heat: Annotated[str | None, Field(description="where its view moved; null where the detector has no probe")]


class ExplainAnswer(_Answered):
    """Why a picture scores as it does (radet.explain.Explanation)."""

    timings: ExplainTimings
    score: ScoreFields  # type: ignore[valid-type]
    heat: Annotated[list[list[float]] | None, Field(description="cosine drift of each patch, row by row")]
    percentile: Annotated[float | None, Field(description="share of real reference pictures that drift less")]
    p_percentile: Annotated[float | None, Field(description="share of real calibration pictures that score lower")]
    contributions: dict[str, float]
    bias: float
    sentences: list[str]
    images: Images | None = None


class ModelAnswer(BaseModel):
    """What scores now."""

    name: str
    description: str
    model_id: Annotated[str, Field(description="changes whenever a score or a verdict could")]
    checkpoint_id: Annotated[str, Field(description="the checkpoint's own: another one where an operator set a band")]
    schema_version: int = SCHEMA_VERSION
    encoder: str
    encoder_sha256: str
    precision: str
    device: str
    crop: dict[str, Any]
    calibrated: bool
    band: Band | None
    thresholds: list[ThresholdConfig]
    others: Annotated[list[str], Field(description="model ids that score beside it while a rollout is under way")]
    limits: dict[str, float]
    url_input: bool


class Check(BaseModel):
    ok: bool
    detail: str


class ReadyAnswer(BaseModel):
    """200 where every check is ok, else 503."""

    ready: bool
    checks: dict[str, Check]
    model_id: str | None


EXAMPLE_SCORE: dict[str, Any] = {
    "id": "post-17",
    "uri": "#0",
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "phash": "d1c4b2e0f0e1a3c7",
    "status": "ok",
    "error": None,
    "width": 1024,
    "height": 768,
    "format": "JPEG",
    "bytes": 183221,
    "digital_source_type": "trainedAlgorithmicMedia",
    "logit": 1.84,
    "p_generated": 0.863,
    "verdict": "generated",
    "drift_cosine": 0.213,
    "drift_l2": 11.4,
    "drift_mahalanobis": 1.9,
    "logit_semantic": 1.31,
    "logit_discrepancy": 0.42,
    "logit_lowlevel": 0.11,
    "generator": "stylegan2",
    "model_id": "2f1c7be0a9d34e55",
    "scored_at": "2026-11-22T05:00:00.000Z",
    "schema_version": SCHEMA_VERSION,
    "request_id": "0f8c2a6e-5b0e-4f0c-9a60-6d7f3c1f2a11",
    "external_id": "post-17",
    "condition": None,
    "band": {"real_below": 0.177, "generated_above": 0.733},
    "timings": {"fetch_ms": 0.0, "decode_ms": 6.1, "queue_ms": 4.0, "inference_ms": 41.7, "total_ms": 54.9},
}

EXAMPLE_BATCH: dict[str, Any] = {
    "request_id": "0f8c2a6e-5b0e-4f0c-9a60-6d7f3c1f2a11",
    "schema_version": SCHEMA_VERSION,
    "items": [
        {"index": 0, "external_id": "post-17", "result": EXAMPLE_SCORE, "error": None},
        {"index": 1, "external_id": "post-18", "result": None, "error": {"code": "truncated", "message": "JPEG: ..."}},
    ],
}
