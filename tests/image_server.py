"""A small web server with one picture, for runs that read http uris."""

import http.server
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image


class ImageServer:
    """/ok.jpg is a picture, /flaky.jpg answers 503 until `fixed`, anything else is not there."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.fixed = False

    def has(self, path: str) -> bool:
        return path.partition("?")[0] == "/ok.jpg" or (path == "/flaky.jpg" and self.fixed)


@contextmanager
def serve_pictures(picture: Image.Image) -> Iterator[ImageServer]:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            there = served.has(self.path)
            self.send_response(200 if there else 503 if self.path == "/flaky.jpg" else 404)
            body = buffer.getvalue() if there else b""
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
