"""A small web server with one picture, for runs that read http uris."""

import http.server
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

_SLOW, _SLOW_S = "/slow/", 0.5


class ImageServer:
    """/ok.jpg is a picture, /flaky.jpg answers 503 until `fixed`, anything else is not there.

    /slow/... are pictures too, each with bytes of its own, that take a moment; `at_once` says how many were on
    their way when each was asked for.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self.fixed = False
        self.at_once: list[int] = []
        self._on_their_way = 0
        self._lock = threading.Lock()

    def has(self, path: str) -> bool:
        return path == "/ok.jpg" or path.startswith(_SLOW) or (path == "/flaky.jpg" and self.fixed)

    def dawdle(self) -> None:
        with self._lock:
            self._on_their_way += 1
            self.at_once.append(self._on_their_way)
        time.sleep(_SLOW_S)
        with self._lock:
            self._on_their_way -= 1


@contextmanager
def serve_pictures(picture: Image.Image) -> Iterator[ImageServer]:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            there = served.has(self.path)
            self.send_response(200 if there else 503 if self.path == "/flaky.jpg" else 404)
            body = buffer.getvalue() if there else b""
            if self.path.startswith(_SLOW):
                served.dawdle()
                body += self.path.encode()  # behind the picture's end
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = ImageServer(f"127.0.0.1:{server.server_address[1]}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
