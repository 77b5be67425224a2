"""A camera for tests: it gives the pictures it is handed, can be unplugged, and never waits for a clock."""

from __future__ import annotations

import queue
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.frames.live_source import Capture, LiveSource
from stages.tensors import Pixels
from tests.support.pictures import photo

AT_ONCE = (0.01,)  # seconds between attempts to open it again


class Camera(Capture):
    """Opens as a Capture. `show` hands it a picture; `unplug` fails its reads until `plug`.

    `opened` counts how often it was opened; `released` how often a capture of it was released.
    """

    def __init__(self) -> None:
        self.opened = 0
        self.released = 0
        self.plugged = True
        self._pictures: queue.Queue[npt.NDArray[np.uint8] | Exception | None] = queue.Queue()
        self._tried = threading.Event()
        self._reads = threading.Semaphore(0)

    def source(self, **more: Any) -> LiveSource:
        return LiveSource("test camera", self.open, **{"retry_s": AT_ONCE, "steady_s": 0.0, **more})

    def open(self) -> Capture | None:
        self.opened += 1
        self._tried.set()
        return self if self.plugged else None

    def read(self) -> Pixels | None:
        self._reads.release()
        picture = self._pictures.get(timeout=120)
        if isinstance(picture, Exception):
            raise picture
        return picture

    def release(self) -> None:
        self.released += 1

    def wait_until_read(self, pictures: int) -> None:
        """Until so many pictures have been read and the next one is waited for."""
        for _ in range(pictures + 1):
            assert self._reads.acquire(timeout=60)

    def show(self, picture: npt.NDArray[np.uint8]) -> None:
        self._pictures.put(picture)

    def fail(self, error: Exception) -> None:
        """Its next read raises this."""
        self._pictures.put(error)

    def unplug(self) -> None:
        self.plugged = False
        self._pictures.put(None)

    def hiccup(self) -> None:
        """Its next read fails; it can be opened again at once."""
        self._pictures.put(None)

    def wait_until_tried(self) -> None:
        """Until someone has tried to open it again."""
        self._tried.clear()
        assert self._tried.wait(timeout=60)


class HangingCamera(Camera):
    """While `hangs` is set, attempts to open it do not come back until `goes_on` is."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = threading.Event()
        self.goes_on = threading.Event()

    def open(self) -> Capture | None:
        if self.hangs.is_set():
            assert self.goes_on.wait(timeout=120)
        return super().open()


def scenery(number: int, shape: str = "16:9") -> npt.NDArray[np.uint8]:
    """Pictures that differ in every window, as those of a moving camera do."""
    return np.ascontiguousarray(np.roll(photo(shape), 3 * number, axis=1))
