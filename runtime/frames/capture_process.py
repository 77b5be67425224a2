"""A camera that a process of its own reads.

A read inside OpenCV may never return, a decoder may crash, and a thread inside of them while Python ends
aborts the process. A process can be killed at any moment, and when it crashes a connection is lost that can
be tried again. Pictures come through shared memory: they are copied once, when they become RGB.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from runtime.frames.capturing import PACKET_BYTES, Attempt, packet_of
from runtime.frames.live_source import Capture
from stages.tensors import Pixels

OPEN_S = 60.0  # what takes longer to open hangs: OpenCV's own limits, one after another, are shorter
PICTURE_S = 30.0  # so is what gives no picture for so long
ENDED_S = 2.0  # a process that is killed is gone by then, unless a driver holds it


class CaptureProcess(Capture):
    """Opens a camera, and again, in a process that lasts until `stop`, or until it crashes or is released
    while it reads; the next opening then starts another.

    `attempts` says how to open it now. `environment` is that of the process, by default this one's. `stop`
    can be called from any thread, and ends an opening or a read that is under way; the rest is for one thread
    at a time.
    """

    def __init__(
        self,
        attempts: Callable[[], Sequence[Attempt]],
        environment: Mapping[str, str] | None = None,
        *,
        open_s: float = OPEN_S,
        picture_s: float = PICTURE_S,
    ) -> None:
        self._attempts = attempts
        self._environment = environment
        self._open_s = open_s
        self._picture_s = picture_s
        self._child: _Child | None = None
        self._reading = False
        self._stopped = False
        self._using = threading.Lock()  # held by who talks to the process
        self._changing = threading.Lock()  # for a moment, also by who ends it

    @property
    def pid(self) -> int | None:
        """The number of the process, while there is one."""
        child = self._child
        return None if child is None else child.process.pid

    def open(self) -> Capture | None:
        """This capture, None where it cannot be opened now."""
        with self._using:
            child = self._started()
            if child is None:
                return None
            child.send(packet_of(self._attempts()))
            answer = child.receive(self._open_s)
            self._reading = answer is not None and bool(answer["opened"])
            if answer is None:
                self._end()
            return self if self._reading else None

    def read(self) -> Pixels | None:
        """The newest picture that was not read yet; `skipped` counts those that were left out before it."""
        with self._using:
            child = self._child
            if child is None or not self._reading:
                return None
            found = child.receive(self._picture_s)
            self.failed = found is None
            if found is None:
                self._end()
            if found is None or "ended" in found:
                self._reading = False
                return None
            try:
                return self._newest(child, found)
            except OSError:  # of memory or of files there are no more now
                self.failed = True
                self._end()
                return None

    def release(self) -> None:
        with self._using:
            if self._reading:
                self._end()

    def stop(self) -> None:
        with self._changing:
            self._stopped = True
            if self._child is not None:
                self._child.interrupt()
        with self._using:  # whoever waited for the process does no longer
            self._end()

    def _started(self) -> _Child | None:
        with self._changing:
            if self._child is None and not self._stopped:
                with contextlib.suppress(OSError):  # of memory or of processes there are no more now
                    self._child = _Child(self._environment)
            return self._child

    def _newest(self, child: _Child, found: dict[str, Any]) -> Pixels:
        """The picture of the newest message there is by now, `found` or a later one."""
        skipped = found["skipped"]
        while (newer := child.waiting()) is not None and "ended" not in newer:
            child.free(found["place"])
            found = newer
            skipped += 1 + found["skipped"]
        self._reading = newer is None
        self.skipped, self.came_s = skipped, found["came_s"]
        return child.picture(found)

    def _end(self) -> None:
        self._reading = False
        with self._changing:
            child, self._child = self._child, None
        if child is not None:
            child.interrupt()
            child.close()


class _Child:
    """The process, the socket to it, and the memory that is shared with it."""

    def __init__(self, environment: Mapping[str, str] | None) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._memory = os.memfd_create("pedsam-camera")
        self._map: mmap.mmap | None = None
        files = (theirs.fileno(), self._memory)
        # It finds the modules where this process does, wherever it was started.
        line = (
            f"import sys; sys.path[:] = {sys.path!r}; from runtime.frames import capturing; capturing.main()"
        )
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", line, *map(str, files)],
                stdin=subprocess.DEVNULL,
                env=environment,
                pass_fds=files,
                start_new_session=True,  # the terminal's Ctrl-C is not for it
            )
        except OSError:
            self._close_files()
            raise
        finally:
            theirs.close()
        self._socket.setblocking(False)

    def send(self, packet: bytes) -> None:
        with contextlib.suppress(OSError):  # it has ended, as is seen when something is to be received
            self._socket.send(packet)

    def free(self, place: int) -> None:
        """Say that the picture in a place was taken out."""
        self.send(json.dumps({"free": place}).encode())

    def receive(self, wait_s: float) -> dict[str, Any] | None:
        """What it says next; None when it has ended, or says nothing for so long."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return self.waiting() if poll.poll(wait_s * 1e3) else None

    def waiting(self) -> dict[str, Any] | None:
        """What it has said already, None if nothing."""
        try:
            packet = self._socket.recv(PACKET_BYTES)
        except OSError:
            return None
        message: dict[str, Any] | None = json.loads(packet) if packet else None
        return message

    def picture(self, found: Mapping[str, Any]) -> Pixels:
        """The picture of a message, RGB uint8 [H, W, 3], whose place is free then."""
        at, shape = found["at"], (found["height"], found["width"], 3)
        size = shape[0] * shape[1] * 3
        if self._map is None or len(self._map) < at + size:
            self._map = mmap.mmap(self._memory, os.fstat(self._memory).st_size)
        image = np.frombuffer(self._map, np.uint8, size, at).reshape(shape)
        picture = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
        self.free(found["place"])
        return picture

    def interrupt(self) -> None:
        """End it now. Whoever waits to receive something gets None."""
        self.process.kill()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Once it was interrupted, and nobody uses it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(ENDED_S)
        self._close_files()

    def _close_files(self) -> None:
        self._socket.close()
        os.close(self._memory)
