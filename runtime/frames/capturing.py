"""Reads a camera or a stream with OpenCV, in a process of its own that can be killed at any moment.

Its arguments are numbers of open files: a socket of packets, and memory shared with whoever started this.
A packet is a JSON object. From outside comes {"open": [...]}, ways to open it, of which the first that works
is taken, and {"free": N}, a place in the memory whose picture was taken out. From here come {"opened": true
or false}; for each picture {"at": byte where it begins, "place": N, "height", "width", "came_s":
time.perf_counter, "skipped": pictures left out before it}; and {"ended": true} after the last one. Pictures
are BGR uint8 [height, width, 3]. The process ends, whatever it does, when the other end of the socket closes.
"""

from __future__ import annotations

import json
import mmap
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np

from runtime.frames.gstreamer import open_pipeline
from stages.tensors import Pixels

PLACES = 3  # for pictures: one is written, one waits, one is taken out
PACKET_BYTES = 1 << 16


@dataclass(frozen=True)
class Attempt:
    """A way to open a camera. `kind` is "pipeline" (GStreamer's, as text), "device" (of V4L2) or "stream" (a
    URL). `settings` are OpenCV's properties, each with a value: of a stream for opening it, of a device for
    one that is open, which goes on without those it cannot."""

    kind: str
    source: str | int
    settings: tuple[tuple[int, float], ...] = ()

    def open(self) -> cv2.VideoCapture | None:
        if self.kind == "pipeline":
            return open_pipeline(str(self.source))
        if self.kind == "stream":
            flat = [int(number) for pair in self.settings for number in pair]
            capture = cv2.VideoCapture(str(self.source), cv2.CAP_FFMPEG, flat)
        else:
            capture = cv2.VideoCapture(self.source, cv2.CAP_V4L2)
            for name, value in self.settings:
                capture.set(name, value)
        return capture if capture.isOpened() else None


def packet_of(attempts: Sequence[Attempt]) -> bytes:
    return json.dumps({"open": [asdict(attempt) for attempt in attempts]}).encode()


def tell_errors_alone(opencv: Any) -> None:
    """Sets OpenCV's log level, by the function in `utils.logging` or, as in OpenCV 4.6, at the top."""
    getattr(opencv.utils, "logging", opencv).setLogLevel(2)  # cv::utils::logging::LOG_LEVEL_ERROR


class _Orders:
    """What comes from outside, received on a thread of its own."""

    def __init__(self, outside: socket.socket) -> None:
        self.openings: queue.SimpleQueue[list[Attempt]] = queue.SimpleQueue()
        self.free: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._outside = outside
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        try:
            while packet := self._outside.recv(PACKET_BYTES):
                order = json.loads(packet)
                if "free" in order:
                    self.free.put(order["free"])
                else:
                    self.openings.put([Attempt(**attempt) for attempt in order["open"]])
        finally:
            os._exit(0)  # the main thread may be inside OpenCV for ever


class _Places:
    """PLACES for pictures of up to so many bytes each, one after another in the shared memory.

    `current` is the one to write to; the others are free or wait to be taken out.
    """

    def __init__(self, memory: int, free: queue.SimpleQueue[int]) -> None:
        self._memory = memory
        self._free = free
        self._others = list(range(1, PLACES))  # that are free
        self._map = np.zeros(0, np.uint8)
        self._bytes = 0  # of a place
        self._shape: tuple[int, ...] = ()
        self.current = 0

    @property
    def at(self) -> int:
        return self.current * self._bytes

    def view(self) -> Pixels | None:
        """Where the next picture goes if it has the size of the one before; None before the first."""
        if not self._shape:
            return None
        size = int(np.prod(self._shape))
        return self._map[self.at : self.at + size].reshape(self._shape)

    def put(self, image: Pixels) -> None:
        """Have a picture in the current place; one that was read into it is there already."""
        if image.shape != self._shape:
            self._resize(image)
        view = self.view()
        if view is not None and not np.shares_memory(view, image):
            view[:] = image

    def next(self) -> bool:
        """Go to a free place, if there is one."""
        while not self._free.empty():
            self._others.append(self._free.get())
        if self._others:
            self.current = self._others.pop(0)
            return True
        return False

    def _resize(self, image: Pixels) -> None:
        if image.nbytes > self._bytes:
            while len(self._others) < PLACES - 1:  # the bounds of all of them move
                self._others.append(self._free.get())
            self._bytes = image.nbytes
            os.ftruncate(self._memory, PLACES * self._bytes)
            self._map = np.frombuffer(mmap.mmap(self._memory, PLACES * self._bytes), np.uint8)
        self._shape = image.shape


def _send_pictures(capture: cv2.VideoCapture, places: _Places, outside: socket.socket) -> None:
    """Send each picture until there is none. One for which no place is free is overwritten by the next."""
    skipped = 0
    while True:
        ok, image = capture.read(places.view())
        if not ok or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            return
        came_s = time.perf_counter()
        places.put(np.asarray(image, np.uint8))
        at, place, (height, width) = places.at, places.current, image.shape[:2]
        if not places.next():
            skipped += 1
            continue
        facts = {"at": at, "place": place, "height": height, "width": width, "came_s": came_s}
        outside.send(json.dumps({**facts, "skipped": skipped}).encode())
        skipped = 0


def _serve(attempts: Sequence[Attempt], places: _Places, outside: socket.socket) -> None:
    capture = None
    try:
        capture = next((found for attempt in attempts if (found := attempt.open())), None)
        outside.send(json.dumps({"opened": capture is not None}).encode())
        if capture is not None:
            _send_pictures(capture, places, outside)
            outside.send(b'{"ended": true}')
    except cv2.error:
        outside.send(b'{"opened": false}' if capture is None else b'{"ended": true}')
    finally:
        if capture is not None:
            capture.release()


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are for who started this, and ends it
    outside, memory = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    # What OpenCV warns of it would say again at every attempt; here it is told once.
    tell_errors_alone(cv2)
    orders = _Orders(outside)
    places = _Places(memory, orders.free)
    try:
        while True:
            _serve(orders.openings.get(), places, outside)
    except OSError:  # whoever started this has ended, or of memory there is no more
        os._exit(1)
