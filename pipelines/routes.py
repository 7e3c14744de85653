"""The endpoints. What they do is the front's; here is how it is asked for over HTTP, and what /docs says of it."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from pipelines import schemas
from pipelines.access import UNTAKEN, Caller
from pipelines.failures import RequestError
from pipelines.front import Front, band
from pipelines.intake import most_of, read_many, read_one
from pipelines.middleware import Around, failure
from pipelines.model import ModelFacts, Problem
from pipelines.pages import add_pages
from pipelines.schemas import EXAMPLE_BATCH, EXAMPLE_SCORE
from radet.errors import RadetError
from radet.explain import Explanation
from radet.score import SCHEMA_VERSION

_ABOUT = """Is this picture generated? The same scores as `radet score` and `radet.Detector` give.

A score is a signal about how a picture was made, not a proof. Pictures are never stored or logged.

Every error is `{"error": {"code", "message", "request_id"}}`; codes are stable. A service with API keys wants
`Authorization: Bearer KEY` for everything under `/v1` and for `/metrics`."""

_JSONL = "application/x-ndjson"
_PNG = "image/png"
_STATUSES = {
    400: "the request cannot be read, is empty, or names an address that is not public",
    401: "an API key is wanted",
    408: "the body did not arrive in time",
    413: "over a cap: bytes, pixels or items",
    415: "no kind of picture that is read",
    422: "a broken picture, or a url that cannot be read",
    429: "over the key's rate; see Retry-After",
    500: "a fault of the service",
    503: "overloaded or not ready; see Retry-After",
}
_FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorAnswer, "description": text} for status, text in _STATUSES.items()
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ONE = {"schema": schemas.ImageRequest.model_json_schema(), "example": {"image": "iVBORw0KGgo...", "external_id": "a"}}
_FILE = {"type": "object", "required": ["file"], "properties": {"file": _BINARY["schema"]}}
_PICTURE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": _BINARY,
            "multipart/form-data": {
                "schema": _FILE | {"properties": _FILE["properties"] | {"external_id": {"type": "string"}}}  # type: ignore[operator]
            },
            "application/json": _ONE,
        },
    }
}
_BATCH_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["items"],
                    "additionalProperties": False,
                    "properties": {"items": {"type": "array", "minItems": 1, "items": _ONE["schema"]}},
                },
                "example": {"items": [{"image": "iVBORw0KGgo...", "external_id": "a"}, {"url": "https://..."}]},
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "array", "minItems": 1, "items": _BINARY["schema"]}},
                }
            },
        },
    }
}


def build_app(front: Front) -> FastAPI:
    """The ASGI application over one front."""
    app = FastAPI(
        title="radet",
        description=_ABOUT,
        version=f"schema {SCHEMA_VERSION}",
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,  # to whatever host the caller has named
    )
    app.add_middleware(Around, meters=front.meters)
    app.add_exception_handler(RadetError, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    add_pages(app)
    _add_score(app, front)
    _add_batch(app, front)
    _add_explain(app, front)
    _add_state(app, front)
    return app


_CONDITION = (
    "of a copy that is degraded so, as on its way through the web: does the verdict hold? One of those that the "
    "thresholds of /v1/model hold after, such as jpeg:50"
)


def _key(front: Front) -> Any:
    """The dependency that checks the key."""

    async def caller(
        request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]
    ) -> Caller:
        return front.door.admit(given.credentials if given else request.headers.get("x-api-key"))

    return Depends(caller)


def _place(front: Front, *, single: bool) -> Any:
    """The dependency that checks the key, then keeps a place for the request until its answer is sent; all that before
    any of the body is read."""

    async def place(request: Request, caller: Annotated[Caller, _key(front)]) -> AsyncIterator[Caller]:
        announced, most = _announced(request), most_of(request, front.settings, single=single)
        async with front.admitted(most if announced is None else min(announced, most)):
            yield caller

    return Depends(place)


def _spending(front: Front, caller: Caller, images: int) -> AbstractContextManager[None]:
    """Around the work on so many pictures: counts them against the caller's rate."""
    return front.door.spending(caller, images, front.settings.images_per_minute)


def _add_score(app: FastAPI, front: Front) -> None:
    place = _place(front, single=True)

    @app.post(
        "/v1/score",
        summary="Score one picture",
        openapi_extra=_PICTURE_BODY,
        responses={200: {"model": schemas.ScoreAnswer, "content": _example(EXAMPLE_SCORE)}, **_FAILURES},
    )
    async def score(
        request: Request,
        caller: Annotated[Caller, place],
        external_id: Annotated[str | None, Query(max_length=256, description="your own id, echoed")] = None,  # noqa: ARG001
        condition: Annotated[str | None, Query(max_length=64, description=_CONDITION)] = None,  # noqa: ARG001
    ) -> Response:
        """The picture as the body, as a form's `file`, or in JSON (`image` in base64, or `url`)."""
        with _spending(front, caller, 1):
            answer = await front.score(await read_one(request, front.settings))
        return JSONResponse(answer | {"request_id": request.state.request_id})


def _add_batch(app: FastAPI, front: Front) -> None:
    place = _place(front, single=False)

    @app.post(
        "/v1/score:batch",
        summary="Score several pictures",
        openapi_extra=_BATCH_BODY,
        responses={
            200: {"model": schemas.BatchAnswer, "content": _example(EXAMPLE_BATCH) | {_JSONL: {}}},
            **_FAILURES,
        },
    )
    async def score_batch(
        request: Request,
        caller: Annotated[Caller, place],
        condition: Annotated[str | None, Query(max_length=64, description=_CONDITION)] = None,  # noqa: ARG001
    ) -> Response:
        """Items come back in order, each with a `result` or an `error`. With `Accept: application/x-ndjson` each is a
        line of its own, sent as soon as it is known. After 100 seconds what is not scored is `overloaded`."""
        begun = asyncio.get_running_loop().time()
        items = await read_many(request, front.settings)
        with _spending(front, caller, len(items)):
            await front.facts_for(items[0].condition)  # what stands in the way of all is said once

        async def told() -> AsyncIterator[dict[str, Any]]:
            async for item in front.score_all(items, begun):
                if item["result"] is not None:
                    item["result"]["request_id"] = request.state.request_id
                elif item["error"]["code"] in UNTAKEN:
                    front.door.give_back(caller)
                yield item

        if _accepts(request, _JSONL):
            return StreamingResponse(_lines(told()), media_type=_JSONL)
        found = [item async for item in told()]
        head = {"request_id": request.state.request_id, "schema_version": SCHEMA_VERSION}
        return JSONResponse(head | {"items": found})


def _add_explain(app: FastAPI, front: Front) -> None:
    place = _place(front, single=True)

    @app.post(
        "/v1/explain",
        summary="Explain one picture",
        openapi_extra=_PICTURE_BODY,
        responses={200: {"model": schemas.ExplainAnswer, "content": {_PNG: {}}}, **_FAILURES},
    )
    async def explain(
        request: Request,
        caller: Annotated[Caller, place],
        external_id: Annotated[str | None, Query(max_length=256, description="your own id, echoed")] = None,  # noqa: ARG001
        condition: Annotated[str | None, Query(max_length=64, description=_CONDITION)] = None,  # noqa: ARG001
        images: Annotated[bool, Query(description="JSON: with the crop and its heat map as PNG")] = False,
        side: Annotated[int, Query(ge=32, le=512, description="pixels of the pictures")] = 448,
        opacity: Annotated[float, Query(ge=0, le=1, description="PNG: of the heat over the crop")] = 0.55,
    ) -> Response:
        """JSON, or with `Accept: image/png` the heat map over what the detector looked at. It costs two to three times
        a scoring, and the pictures about one more; a replica explains four at a time and refuses more as
        `overloaded`."""
        overlay = _accepts(request, _PNG)

        def draw(found: Explanation) -> Any:
            if overlay:
                return _png(found.overlay(opacity, side))
            return _layers(found, side) if images else None

        with _spending(front, caller, 1):
            answer, drawn = await front.explain(await read_one(request, front.settings), draw)
        if overlay:
            return Response(drawn, media_type=_PNG)
        answer |= {"request_id": request.state.request_id, "schema_version": SCHEMA_VERSION}
        return JSONResponse(answer | {"images": drawn} if images else answer)


def _add_state(app: FastAPI, front: Front) -> None:
    key = _key(front)

    @app.get("/v1/model", summary="What scores now", responses={200: {"model": schemas.ModelAnswer}, **_FAILURES})
    async def model(caller: Annotated[Caller, key]) -> Response:  # noqa: ARG001
        ready, _ = await front.readiness()  # asks anew: a band may just have changed
        facts = await front.facts()
        told = {name: getattr(facts, name) for name in schemas.ModelAnswer.model_fields if hasattr(facts, name)}
        settings = front.settings
        return JSONResponse(
            told
            | {
                "schema_version": SCHEMA_VERSION,
                "crop": asdict(facts.policy),
                "band": band(facts.band),
                "thresholds": [asdict(threshold) for threshold in facts.thresholds],
                "others": sorted({other.model_id for other in ready} - {facts.model_id}),
                "limits": {
                    name: getattr(settings, name)
                    for name in ("max_bytes", "max_pixels", "max_request_bytes", "max_items")
                },
                "url_input": front.allow_url,
            }
        )

    @app.get("/healthz", summary="Does the process answer?")
    async def healthz() -> Response:
        return JSONResponse({"ok": True})

    @app.get(
        "/readyz",
        summary="Can it score?",
        responses={200: {"model": schemas.ReadyAnswer}, 503: {"model": schemas.ReadyAnswer}},
    )
    async def readyz() -> Response:
        """Weights loaded and hashed, the numeric self-test passed, a calibration there; else what is missing."""
        models, problems = await front.readiness()
        checks = _checks(models, problems, front.settings.require_calibration)
        ready = all(check["ok"] for check in checks.values())
        model_id = models[0].model_id if models else None
        return JSONResponse({"ready": ready, "checks": checks, "model_id": model_id}, 200 if ready else 503)

    @app.get("/metrics", summary="For Prometheus", responses={200: {"content": {"text/plain": {}}}, **_FAILURES})
    async def metrics(caller: Annotated[Caller, key]) -> Response:  # noqa: ARG001
        """Of the whole service, whichever process answers."""
        return Response(await front.metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _lines(items: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    async for item in items:
        yield json.dumps(item, separators=(",", ":")).encode() + b"\n"


def _checks(models: list[ModelFacts], problems: list[Problem], calibration_required: bool) -> dict[str, dict[str, Any]]:
    """What /readyz tells of the newest of these models, and of the newest problem."""
    checks = {name: {"ok": bool(models), "detail": "not yet"} for name in ("weights", "self_test", "calibration")}
    if models:
        facts = models[0]
        checks["weights"]["detail"] = f"{facts.name}, encoder {facts.encoder_sha256[:16]}"
        checks["self_test"]["detail"] = f"golden error {facts.golden_error:.1e}, drift floor {facts.floor:.1e}"
        checks["calibration"] = _calibration(facts.calibrated, calibration_required)
    if problems:  # not of the models that score: of a replica that was to start beside them or in their place
        failed = checks["self_test" if problems[0].code == "numeric_selftest_failed" else "weights"]
        why = f"{problems[0].code}: {problems[0].message}"
        failed["detail"] = f"{failed['detail']}; a replica could not start lately: {why}" if models else why
    return checks


def _calibration(there: bool, required: bool) -> dict[str, Any]:
    if there:
        return {"ok": True, "detail": "p_generated and verdicts are given"}
    wanted = ": set require_calibration to false to serve its logit alone" if required else ", and none is required"
    return {"ok": not required, "detail": f"the checkpoint has none{wanted}"}


def _announced(request: Request) -> int | None:
    length = request.headers.get("content-length", "")
    return int(length) if length.isdigit() else None


def _accepts(request: Request, kind: str) -> bool:
    """Whether `kind` is asked for by name."""
    accepted = request.headers.get("accept", "").split(",")
    return kind in {part.partition(";")[0].strip().lower() for part in accepted}


def _layers(found: Explanation, side: int) -> dict[str, str | None]:
    """The crop and its heat, to be laid over one another."""
    crop = Image.fromarray(found.crop).resize((side, side), Image.Resampling.BICUBIC)
    return {"crop": _data_uri(crop), "heat": None if found.heat is None else _data_uri(found.heat_map(side))}


def _data_uri(image: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(_png(image)).decode()


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)  # half the time for a tenth more bytes
    return out.getvalue()


def _example(value: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"example": value}}


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RadetError)
    return failure(request, error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "no_such_page", 405: "method_not_allowed"}
    told = failure(request, RequestError(codes.get(error.status_code, "bad_request"), f"{error.detail}: see /docs"))
    told.headers.update(error.headers or {})
    return told


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return failure(request, RequestError("bad_request", f"{where}: {first['msg']}"))
