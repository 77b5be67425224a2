"""A network camera for tests: MJPEG over HTTP and single pictures, as many real ones; and a proxy."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2

from tests.support.cameras import scenery


class NetworkCamera(ThreadingHTTPServer):
    """Streams while `streaming` is set; answers 503 and hangs up while it is not. While `silent` is set it
    says nothing, to those who are connected already too. `shape` is that of its pictures; `asked` is set
    once somebody has come."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.streaming = threading.Event()
        self.silent = threading.Event()
        self.asked = threading.Event()
        self.shape = "16:9"
        self.closing = threading.Event()
        self.answered = 0  # single pictures
        self.sent = 0  # pictures of streams

    @property
    def snapshot_url(self) -> str:
        """Answers with one picture, another one each time."""
        return f"http://user:secret@127.0.0.1:{self.server_port}/snap.jpg"

    @property
    def url(self) -> str:
        return f"http://user:secret@127.0.0.1:{self.server_port}/video.mjpg"

    def be_silent(self) -> None:
        """Return when there is something to say, or nobody to say it to."""
        while self.silent.is_set() and not self.closing.wait(0.02):
            pass


class _Handler(BaseHTTPRequestHandler):
    server: NetworkCamera

    def do_GET(self) -> None:
        self.server.asked.set()
        self.server.be_silent()
        if not self.server.streaming.is_set():
            self.send_error(503)
            return
        if self.path.endswith(".jpg"):
            self._answer_once()
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace;boundary=frame")
        self.end_headers()
        with suppress(OSError):  # the viewer has gone
            for number in itertools.count():
                self.server.be_silent()
                if not self.server.streaming.is_set() or self.server.closing.wait(0.02):
                    return
                self.wfile.write(_part(number % 50, self.server.shape))
                self.server.sent += 1

    def _answer_once(self) -> None:
        self.server.answered += 1
        jpeg = _jpeg(self.server.answered)
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(jpeg)))
        self.end_headers()
        self.wfile.write(jpeg)

    def log_message(self, *arguments: Any) -> None:
        pass


def _part(number: int, shape: str) -> bytes:
    jpeg = _jpeg(number, shape)
    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    return head.encode() + jpeg + b"\r\n"


def _jpeg(number: int, shape: str = "16:9") -> bytes:
    return bytes(cv2.imencode(".jpg", scenery(number, shape)[..., ::-1])[1])


class Proxy(ThreadingHTTPServer):
    """Counts who came to it, and refuses them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Refusal)
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Refusal(BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_error(502)

    do_CONNECT = do_GET  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def proxy() -> Iterator[Proxy]:
    with Proxy() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(timeout=60)


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
