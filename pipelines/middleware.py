"""Around every request: its id, errors as JSON, counts and times, and headers that keep a browser strict."""

import logging
import re
import time
import traceback
import uuid

from ray.exceptions import TaskCancelledError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.failures import RequestError, envelope, http_status, retry_after
from pipelines.observe import Meters
from radet.errors import RadetError

_log = logging.getLogger("ray.serve")
_ID = re.compile(r"[A-Za-z0-9=;:/+._-]{1,256}")  # those of AWS and of traces, too

_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]
_ROUTES = re.compile(r"/(v1/(score|score:batch|explain|model)|healthz|readyz|metrics|docs|openapi\.json|)")


class Around:
    """The outermost layer of the application: nothing leaves it without a code."""

    def __init__(self, app: ASGIApp, meters: Meters) -> None:
        self._app, self._meters = app, meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, path = time.perf_counter(), scope["path"]
        answered = ended = False
        if scope["method"] == "HEAD":  # a GET, of whose answer the server sends the headers alone
            scope = {**scope, "method": "GET"}
        request = Request(scope)
        request.state.request_id, own = _request_id(request)
        request.state.code = "ok"

        async def send_on(message: Message) -> None:
            nonlocal answered, ended
            if message["type"] == "http.response.start":
                answered = True
                message["headers"] = [*message.get("headers", []), *_HEADERS, *_csp(path), *own]
            await send(message)
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self._app(scope, receive, send_on)
        except (ClientDisconnect, TaskCancelledError):  # the latter is Serve's, for whoever waits for a body
            pass  # nobody is there to be answered
        except Exception as error:  # noqa: BLE001 - whatever it was, it has a code
            # Its type and where, not its words: those may quote what was sent.
            frames = traceback.extract_tb(error.__traceback__)
            where = "".join(f"\n  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
            _log.error("request %s failed: %s%s", request.state.request_id, type(error).__name__, where)
            told = RequestError("internal", "the service failed: tell its operator the request_id")
            if isinstance(error, MemoryError):  # of this machine, at this moment
                told = RequestError("overloaded", "there is no memory for it now: try again soon")
            failed = failure(request, told)
            if answered:
                raise RuntimeError("an answer broke off") from None
            await failed(scope, receive, send_on)
        finally:
            route = path if _ROUTES.fullmatch(path) else "other"
            code = request.state.code if ended or request.state.code != "ok" else "cancelled"
            self._meters.requests.labels(route, code).inc()
            self._meters.request.labels(route).observe(time.perf_counter() - begun)


def failure(request: Request, error: RadetError) -> Response:
    """An error as the answer to a request."""
    request.state.code = error.code
    seconds = retry_after(error)
    headers = {} if seconds is None else {"Retry-After": str(seconds)}
    if error.code == "unauthorized":
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(envelope(error, request.state.request_id), http_status(error), headers)


def _request_id(request: Request) -> tuple[str, list[tuple[bytes, bytes]]]:
    """The caller's X-Request-ID where it is a decent one, else one of our own, and the header that says so. Serve sends
    the caller's back by itself, and makes one where there is none."""
    given = request.headers.get("x-request-id", "")
    if _ID.fullmatch(given):
        return given, []
    made = str(uuid.uuid4())
    return made, [(b"x-request-id", made.encode())]


def _csp(path: str) -> list[tuple[bytes, bytes]]:
    # Swagger UI sets styles on elements; its page shows nothing that a caller has sent.
    policy = _CSP.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'") if path == "/docs" else _CSP
    return [(b"content-security-policy", policy.encode())]
