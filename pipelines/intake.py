"""A request's body -> the pictures in it. Three forms: the bytes themselves, a multipart form, JSON.

Sizes are checked while the body arrives, and a body has a time by which it must be there.
"""

import asyncio
import base64
import binascii
from dataclasses import dataclass
from functools import partial

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from pipelines.failures import RequestError
from pipelines.schemas import BatchRequest, ImageRequest
from pipelines.settings import FrontSettings

_JSON = "application/json"
_FORM = "multipart/form-data"
_MAX_FIELDS = 16
_SHORT = 128 << 10  # bytes of JSON that are parsed in 0.2 ms: to wake a thread for them takes as long
_DATA_URI = "data:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One picture of a request: its bytes, or a url to read; `error` where not even that."""

    data: bytes | None = None
    url: str | None = None
    external_id: str | None = None
    error: RequestError | None = None


async def read_one(request: Request, settings: FrontSettings) -> Item:
    """The one picture of a request. Raises RequestError for a body that holds none, or several."""
    kind = _kind(request)
    if kind == _FORM:
        items = await _form(request, settings)
        if len(items) != 1:
            raise RequestError("bad_request", f"one `file` is wanted, not {len(items)}: see /v1/score:batch")
        item = items[0]
    elif kind == _JSON:
        body = await _read(request, settings.max_request_bytes, settings.body_timeout_s)
        item = _parse_one(body) if len(body) <= _SHORT else await asyncio.to_thread(_parse_one, body)
    else:
        # One byte over the cap of a picture is told by the decoder's own error, in the same words as in a batch run.
        data = await _read(request, settings.max_bytes, settings.body_timeout_s)
        item = Item(data=data)
    external_id = item.external_id or request.query_params.get("external_id")
    if external_id is not None and len(external_id) > 256:
        raise RequestError("bad_request", "external_id: at most 256 characters")
    if item.error is not None:
        raise item.error
    return Item(data=item.data, url=item.url, external_id=external_id)


async def read_many(request: Request, settings: FrontSettings) -> list[Item]:
    """The pictures of a batch, in order. Raises RequestError for a body that is none, or too long."""
    kind = _kind(request)
    if kind == _FORM:
        items = await _form(request, settings)
    elif kind == _JSON:
        body = await _read(request, settings.max_request_bytes, settings.body_timeout_s)
        items = await asyncio.to_thread(_parse_many, body)
    else:
        raise RequestError("bad_request", f"a batch is {_JSON} or {_FORM}")
    if not items:
        raise RequestError("bad_request", "a batch of no pictures")
    if len(items) > settings.max_items:
        raise RequestError("too_many_items", f"{len(items)} pictures: at most {settings.max_items} in a batch")
    return items


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read(request: Request, most: int, timeout_s: float) -> bytes:
    too_large = RequestError("too_large_bytes", f"the body is over the cap of {most} bytes")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise RequestError("body_timeout", f"the body was not there after {timeout_s:g} s") from None
    except ClientDisconnect:
        raise RequestError("bad_request", "the connection ended before the body") from None
    return bytes(body)


async def _form(request: Request, settings: FrontSettings) -> list[Item]:
    """Parts named `file`; `external_id` fields go with them in order, else the file's name is the id."""
    body = await _read(request, settings.max_request_bytes, settings.body_timeout_s)
    sent = False

    async def receive() -> Message:
        nonlocal sent
        message = {"type": "http.request", "body": b"" if sent else body, "more_body": False}
        sent = True
        return message

    # Without "app" in the scope, starlette raises its own errors instead of HTTP ones.
    replayed = Request({"type": "http", "headers": request.scope["headers"]}, receive)
    try:
        # Parsed by starlette from memory: its own reading has no cap on the size of files.
        form = await replayed.form(max_files=settings.max_items + 1, max_fields=settings.max_items + _MAX_FIELDS)
    except MultiPartException as error:
        many = "Too many" in error.message
        raise RequestError("too_many_items" if many else "bad_request", f"multipart: {error.message}") from None
    except Exception as error:  # of the parser below starlette
        raise RequestError("bad_request", "the multipart body cannot be read") from error
    try:
        files = [part for part in form.getlist("file") if isinstance(part, UploadFile)]
        ids = [part for part in form.getlist("external_id") if isinstance(part, str)]
        if not files:
            raise RequestError("bad_request", "the form has no part `file` with a picture")
        if ids and len(ids) != len(files):
            raise RequestError("bad_request", f"{len(files)} files and {len(ids)} external_id fields")
        names = ids or [part.filename or "" for part in files]
        return [
            Item(data=await part.read(), external_id=name[:256] or None)
            for part, name in zip(files, names, strict=True)
        ]
    finally:
        await form.close()


def _parse_one(body: bytes) -> Item:
    try:
        return _item(ImageRequest.model_validate_json(body))
    except ValidationError as error:
        raise _told(error) from None


def _parse_many(body: bytes) -> list[Item]:
    try:
        items = BatchRequest.model_validate_json(body).items
    except ValidationError as error:
        raise _told(error) from None
    return [_item(item) for item in items]


def _item(asked: ImageRequest) -> Item:
    make = partial(Item, external_id=asked.external_id)
    if (asked.image is None) == (asked.url is None):
        return make(error=RequestError("bad_request", "give either `image` (base64) or `url`"))
    if asked.url is not None:
        return make(url=asked.url)
    text = asked.image or ""
    if text.startswith(_DATA_URI):
        text = text.partition(",")[2]
    try:
        return make(data=base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return make(error=RequestError("bad_request", "`image` is not base64"))


def _told(error: ValidationError) -> RequestError:
    """Where the body is wrong, never what it holds."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"])) or "the body"
    return RequestError(
        "bad_request", f"{where}: {first['msg'] if first['type'] != 'json_invalid' else 'no valid JSON'}"
    )
