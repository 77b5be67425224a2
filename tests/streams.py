"""A network camera for tests: MJPEG over HTTP, which many real ones speak."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2

from tests.cameras import scenery


class NetworkCamera(ThreadingHTTPServer):
    """Streams while `streaming` is set; answers 503 and hangs up while it is not."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.streaming = threading.Event()
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://user:secret@127.0.0.1:{self.server_port}/video.mjpg"


class _Handler(BaseHTTPRequestHandler):
    server: NetworkCamera

    def do_GET(self) -> None:
        if not self.server.streaming.is_set():
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace;boundary=frame")
        self.end_headers()
        with suppress(OSError):  # the viewer has gone
            for number in itertools.count():
                if not self.server.streaming.is_set() or self.server.closing.wait(0.02):
                    return
                self.wfile.write(_part(number % 50))

    def log_message(self, *arguments: Any) -> None:
        pass


def _part(number: int) -> bytes:
    _, jpeg = cv2.imencode(".jpg", scenery(number)[..., ::-1])
    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    return head.encode() + jpeg.tobytes() + b"\r\n"


@contextmanager
def network_camera() -> Iterator[NetworkCamera]:
    with NetworkCamera() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        server.streaming.set()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join(timeout=60)
