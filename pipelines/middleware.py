"""Around every request: its id, errors as JSON, counts and times, and headers that keep a browser strict."""

import logging
import re
import time
import uuid

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.failures import RequestError, envelope, http_status, retry_after
from pipelines.observe import Meters
from radet.errors import RadetError

_log = logging.getLogger("ray.serve")
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

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
        begun, answered, path = time.perf_counter(), False, scope["path"]
        request = Request(scope)
        request.state.request_id = _request_id(request)
        request.state.code = "ok"

        async def send_on(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                message["headers"] = [*message.get("headers", []), *_HEADERS, *_csp(path)]
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except Exception as error:
            # Its type and where, not its words: those may quote what was sent.
            _log.exception("request %s failed: %s", request.state.request_id, type(error).__name__)
            if answered:
                raise
            failed = failure(request, RequestError("internal", "the service failed: tell its operator the request_id"))
            await failed(scope, receive, send_on)
        finally:
            route = path if _ROUTES.fullmatch(path) else "other"
            self._meters.requests.labels(route, request.state.code).inc()
            self._meters.request.labels(route).observe(time.perf_counter() - begun)


def failure(request: Request, error: RadetError) -> Response:
    """An error as the answer to a request."""
    request.state.code = error.code
    seconds = retry_after(error)
    headers = {} if seconds is None else {"Retry-After": str(seconds)}
    if error.code == "unauthorized":
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(envelope(error, request.state.request_id), http_status(error), headers)


def _request_id(request: Request) -> str:
    """The caller's X-Request-ID where it is a decent one; Serve's proxy makes one where there is none, and sends it
    back as a header."""
    given = request.headers.get("x-request-id", "")
    return given if _ID.fullmatch(given) else str(uuid.uuid4())


def _csp(path: str) -> list[tuple[bytes, bytes]]:
    # Swagger UI sets styles on elements; its page shows nothing that a caller has sent.
    policy = _CSP.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'") if path == "/docs" else _CSP
    return [(b"content-security-policy", policy.encode())]
