"""A request's body -> the pictures in it. Three forms: the bytes themselves, a multipart form, JSON.

Sizes are checked while the body arrives, and a body has a time by which it must be there.
"""

import asyncio
import base64
import binascii
import codecs
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from functools import partial

from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from pipelines.failures import RequestError
from pipelines.schemas import BatchRequest, ImageRequest
from pipelines.settings import FrontSettings

_JSON = "application/json"
_FORM = "multipart/form-data"
_MAX_FIELDS = 16
_MAX_ID = 256
_EPILOGUE = 4096  # bytes of a form at whose end the last boundary is looked for
# JSON has at most one value more than it has of these characters, which base64 never contains. A value costs a kilobyte
# of memory and 10 us, and a small body can hold millions. So they are counted before anything is parsed: so many are
# allowed in a body, more than a url has characters, and so many more for each picture of a batch.
_MARKS = (b"{", b"[", b",")
_MARKS_ONCE, _MARKS_EACH = 9000, 128
_SHORT = 128 << 10  # bytes of JSON that are parsed in 0.2 ms: to wake a thread for them takes as long
_DATA_URI = "data:"
_ONE = '{"image": BASE64} or {"url": "https://..."}'  # what a picture is in JSON
# The content type that `curl -d` sends, and the bytes that it drops from a file. Of so many bytes of a picture some are
# among these: where there are none, they were dropped.
_CURL, _STRIPS, _STRIPPED = "application/x-www-form-urlencoded", (b"\r", b"\n", b"\0"), 4096
_PLAIN = str.maketrans("-_", "+/", " \t\r\n")  # url-safe base64, or broken into lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One picture of a request: its bytes, or a url to read; `error` where not even that. `name`: of its file.
    `condition`: a degradation (radet.degradations) to score it after."""

    data: bytes | None = None
    url: str | None = None
    external_id: str | None = None
    name: str | None = None
    condition: str | None = None
    error: RequestError | None = None


def most_of(request: Request, settings: FrontSettings, *, single: bool) -> int:
    """Bytes that the body may have. For a `single` picture: a picture's cap, twice that as base64 or in a form."""
    if not single:
        return settings.max_request_bytes
    plain = _kind(request) not in {_FORM, _JSON}
    return settings.max_bytes if plain else min(settings.max_request_bytes, 2 * settings.max_bytes)


async def read_one(request: Request, settings: FrontSettings) -> Item:
    """The one picture of a request. Raises RequestError for a body that holds none, or several."""
    kind = _kind(request)
    body = await _read(request, most_of(request, settings, single=True), settings.body_timeout_s)
    if kind == _FORM:
        items = await _form(request, body, settings)
        if len(items) != 1:
            raise RequestError("bad_request", f"one `file` is wanted, not {len(items)}: see /v1/score:batch")
        item = items[0]
    elif kind == _JSON:
        item = _parse_one(body) if len(body) <= _SHORT else await asyncio.to_thread(_parse_one, body)
    elif body.startswith(b"{"):  # what `curl -d` sends, and no picture begins with
        raise RequestError("bad_request", f"for JSON say `Content-Type: {_JSON}`")
    elif kind == _CURL and len(body) > _STRIPPED and not any(byte in body for byte in _STRIPS):
        raise RequestError("bad_request", "bytes are missing: `curl -d` drops some, `curl --data-binary` sends all")
    else:
        item = Item(data=body)
    item = _degraded(_identified(item, request.query_params.get("external_id")), request)
    if item.error is not None:
        raise item.error
    return item


async def read_many(request: Request, settings: FrontSettings) -> list[Item]:
    """The pictures of a batch, in order. Raises RequestError for a body that is none, or too long."""
    kind = _kind(request)
    if kind not in {_FORM, _JSON}:
        raise RequestError("bad_request", f"a batch is {_JSON} or {_FORM}")
    body = await _read(request, most_of(request, settings, single=False), settings.body_timeout_s)
    if kind == _FORM:
        items = await _form(request, body, settings)
    else:
        items = await asyncio.to_thread(_parse_many, body, settings.max_items)
    if not items:
        raise RequestError("bad_request", "a batch of no pictures")
    if len(items) > settings.max_items:
        raise _too_many(settings.max_items)
    return [_degraded(_identified(item, None), request) for item in items]


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read(request: Request, most: int, timeout_s: float) -> bytes:
    too_large = RequestError("too_large_bytes", f"the body is over the cap of {most:,} bytes")
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
    return bytes(body)


async def _form(request: Request, body: bytes, settings: FrontSettings) -> list[Item]:
    """Parts named `file`; `external_id` fields go with them in order."""

    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    # Parsed by starlette from memory: its own reading has no cap on the size of files. Names are UTF-8, whatever the
    # caller says: there are charsets whose text cannot be written back.
    _, options = parse_options_header(request.headers["content-type"])
    boundary = options.get(b"boundary", b"").decode("latin-1")
    if not boundary or '"' in boundary or "\\" in boundary:
        raise RequestError("bad_request", "multipart: the content type names no boundary")
    if body.rfind(f"--{boundary}--".encode("latin-1"), -_EPILOGUE) < 0:  # starlette leaves the part out that breaks off
        raise RequestError("bad_request", "multipart: the body breaks off, its last boundary is missing")
    parser = MultiPartParser(
        Headers({"content-type": f'{_FORM}; boundary="{boundary}"'}),
        whole(),
        max_files=settings.max_items + 1,
        max_fields=settings.max_items + _MAX_FIELDS,
    )
    parser.spool_max_size = len(body)  # nothing of it goes to a disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise _too_many(settings.max_items) from None
        many = "Too many" in error.message
        raise RequestError("too_many_items" if many else "bad_request", f"multipart: {error.message}") from None
    except MemoryError:
        raise
    except Exception as error:  # of the parser below starlette
        raise RequestError("bad_request", "the multipart body cannot be read") from error
    try:
        files = [part for part in form.getlist("file") if isinstance(part, UploadFile)]
        ids = [part for part in form.getlist("external_id") if isinstance(part, str)]
        if not files:
            raise RequestError("bad_request", "the form has no part `file` with a picture")
        if ids and len(ids) != len(files):
            raise RequestError("bad_request", f"{len(files)} files and {len(ids)} external_id fields")
        return [
            Item(data=await part.read(), external_id=external_id or None, name=part.filename)
            for part, external_id in zip(files, ids or [""] * len(files), strict=True)
        ]
    finally:
        await form.close()


def _identified(item: Item, asked: str | None) -> Item:
    """With the picture's own id, else the one that was `asked` for it, else the file's name."""
    external_id = item.external_id or asked or item.name or None
    if external_id is not None and len(external_id) > _MAX_ID:
        raise RequestError("bad_request", f"external_id: at most {_MAX_ID} characters")
    return replace(item, external_id=external_id)


def _degraded(item: Item, request: Request) -> Item:
    """With the condition of the request's query, if it has one."""
    condition = request.query_params.get("condition")
    # A plus that is not escaped arrives as a space.
    return item if condition is None else replace(item, condition=condition.replace(" ", "+"))


def _parse_one(body: bytes) -> Item:
    if _marks(body) > _MARKS_ONCE:
        raise RequestError("bad_request", "the body holds more than one picture: see /v1/score:batch")
    try:
        return _item(ImageRequest.model_validate_json(body.removeprefix(codecs.BOM_UTF8)))
    except ValidationError as error:
        raise _told(error, _ONE) from None


def _parse_many(body: bytes, most: int) -> list[Item]:
    if _marks(body) > _MARKS_ONCE + most * _MARKS_EACH:
        raise _too_many(most)
    try:
        items = BatchRequest.model_validate_json(body.removeprefix(codecs.BOM_UTF8)).items
    except ValidationError as error:
        raise _told(error, f'{{"items": [{_ONE}, ...]}}') from None
    return [_item(item) for item in items]


def _marks(body: bytes) -> int:
    return sum(map(body.count, _MARKS))


def _too_many(most: int) -> RequestError:
    return RequestError("too_many_items", f"more pictures than one batch has: at most {most}")


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
        return make(data=_decoded(text))
    except (binascii.Error, ValueError):
        return make(error=RequestError("bad_request", "`image` is not base64"))


def _decoded(text: str) -> bytes:
    """Base64, in any of its spellings: broken into lines, url-safe, without padding."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        plain = text.translate(_PLAIN).rstrip("=")
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)


def _told(error: ValidationError, wanted: str) -> RequestError:
    """Where the body is wrong and what is wanted instead, never what it holds."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"])) or "the body"
    reason = {"json_invalid": "no valid JSON", "extra_forbidden": "no such field"}.get(first["type"], first["msg"])
    return RequestError("bad_request", f"{where}: {reason}; write {wanted}")
