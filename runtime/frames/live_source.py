"""Live sources: a thread of their own reads a camera, and the newest frame is handed on.

Those that had to be left out are counted. When the camera fails it is opened again, with growing pauses,
until the run ends. Any other error ends the source with one sentence. What answers with one picture, as many
cameras' addresses do, is asked again and again.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

import cv2
import numpy as np

from runtime.frames.sources import NEW_START, NOTHING, ONE_SIZE, Frame, Source, other_size
from stages.errors import InputError, PedsamError
from stages.tensors import Pixels

RETRY_S = (0.5, 1.0, 2.0, 5.0, 10.0)  # waits between attempts to open a camera again; the last one repeats
JOIN_S = 2.0  # a camera that works gives a frame within this
STEADY_S = 2.0  # a camera that has given pictures for so long is back
SILENT_S = 3.0  # what gives nothing for so long is silent, and has not ended
TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


class Capture(ABC):
    """An open camera.

    Of the picture that was read last `due_s` is when it is to be handed on and `came_s` when it came, None
    for now, on the clock of time.perf_counter; `skipped` is how many were left out before it. `failed` says,
    after the last picture, that it was no proper end; `warnings` are sentences about what was lost.
    """

    due_s: float = 0.0
    came_s: float | None = None
    skipped: int = 0
    failed: bool = False
    warnings: tuple[str, ...] = ()

    @abstractmethod
    def read(self) -> Pixels | None:
        """The next picture, RGB uint8 [H, W, 3]; None where none came. Blocks."""

    @abstractmethod
    def release(self) -> None: ...


OpenCapture = Callable[[], Capture | None]  # None: it cannot be opened now


def _nothing_to_interrupt() -> None:
    """Openings and reads return by themselves, within JOIN_S."""


class LiveSource(Source):
    """Frames of a capture that a thread of its own reads, newest first. Iterate it once, on one thread.

    `endless` False makes the end of the capture the end of the source, else it is opened again. `asked` is
    the (height, width) that a camera was asked for: it warns of another one. `advice` says what to do when it
    gives no picture at the start. A capture that ends after one picture is opened again after `poll_s`, if
    that is given, and has not failed. `interrupt` ends an opening or a read that is under way, for good, and
    is called on any thread. `say` gets a line, on the reading thread, when the camera fails and when it is
    back, after `steady_s` with pictures.
    """

    is_sequence = True
    live = True

    def __init__(
        self,
        name: str,
        open_capture: OpenCapture,
        *,
        rotate: int = 0,
        fps: float | None = None,
        endless: bool = True,
        kind: str = "camera",
        asked: tuple[int, int] | None = None,
        advice: Callable[[], str] = lambda: "check it and start again",
        poll_s: float | None = None,
        retry_s: Sequence[float] = RETRY_S,
        steady_s: float = STEADY_S,
        interrupt: Callable[[], None] = _nothing_to_interrupt,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.name = name
        self.kind = kind
        self._asked = asked
        self.fps = fps
        self.say = say
        self._open_capture = open_capture
        self._rotate = rotate
        self._endless = endless
        self._advice = advice
        self._poll_s = poll_s
        self._retry_s = retry_s
        self._steady_s = steady_s
        self._interrupt = interrupt
        self._attempt = 0  # to open it again, since it last was steady
        self._pictures = 0  # since it was opened
        self._waited_s = 0.0  # for what was read last
        self._came_s: float | None = None
        self._works_since_s: float | None = None
        self._polls = False
        self._news = threading.Condition()
        self._newest: tuple[float, Pixels] | None = None  # when it came
        self._ended = False
        self._error: PedsamError | None = None  # what ended the reading thread before it was stopped
        self._stopping = threading.Event()
        self._size: tuple[int, int] | None = None
        self._capture: Capture | None = None
        self._thread = threading.Thread(target=self._run, name=f"camera {name}", daemon=True)

    def __enter__(self) -> LiveSource:
        """Open the camera and wait for its first frame. Raises InputError when there is none."""
        self._capture = self._open()
        first = self._next_image()
        if first is None:
            self._release()
            self.stop()
            raise InputError(f"{self.name} gives no picture; {self._advice()}")
        self._started_s = time.perf_counter()
        self._put(first)
        if self._asked is not None and first.shape[:2] != self._asked:
            self.warnings += (_other_than_asked(self.name, self._asked, first),)
        self._size = self._turned(first).shape[0], self._turned(first).shape[1]
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and wait up to JOIN_S for the reading thread: one that is inside a library while Python ends
        aborts the process."""
        super().__exit__(kind, error, trace)
        if self._thread.is_alive():
            self._thread.join(JOIN_S)

    def stop(self) -> None:
        """End the iteration, and an opening or a read that is under way, and with it the reading thread."""
        self._stopping.set()
        self._end()
        self._interrupt()

    def sizes(self) -> frozenset[tuple[int, int]]:
        if self._size is None:
            raise RuntimeError("a live source knows its size inside `with` only")
        return frozenset({self._size})

    def __iter__(self) -> Iterator[Frame]:
        number = 0
        while (taken := self._take()) is not None:
            at_s, image = taken
            picture = self._turned(image)
            name, since_s = f"{number:08}", at_s - self._started_s
            if picture.shape[:2] == self._size:
                yield Frame(number, name, since_s, picture, captured_s=at_s)
            else:
                advice = ONE_SIZE if self.kind == "video" else NEW_START
                error = other_size(self.name, picture, self._size or (0, 0), advice)
                yield Frame(number, name, since_s, NOTHING, error, at_s)
            number += 1

    def _take(self) -> tuple[float, Pixels] | None:
        with self._news:
            self._news.wait_for(lambda: self._newest is not None or self._ended)
            taken, self._newest = self._newest, None
        if self._stopping.is_set():
            return None
        if taken is None and self._error is not None:
            raise self._error
        return taken

    def _put(self, image: Pixels) -> None:
        with self._news:
            self.dropped += self._newest is not None
            self._newest = (self._came_s or time.perf_counter(), image)
            self._news.notify_all()

    def _end(self) -> None:
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _run(self) -> None:
        """The reading thread. Whatever ends it, a reader that waits for a frame is woken."""
        try:
            self._read()
        except PedsamError as exc:
            self._error = exc
        except Exception as exc:
            self._error = InputError(
                f"{self.name} cannot be read any more ({type(exc).__name__}: {exc}); check it and start again"
            )
            self._error.__cause__ = exc
        finally:
            self._end()

    def _read(self) -> None:
        """Frames until the source is stopped; the camera is opened again when it fails."""
        try:
            while not self._stopping.is_set():
                self._read_capture()
                if not self._endless:
                    self.warnings += self._capture.warnings if self._capture else ()
                    break
                if not self._stopping.is_set():
                    self._reopen()
        finally:
            self._release()

    def _read_capture(self) -> None:
        while not self._stopping.is_set():
            image = self._next_image()
            if image is None:
                return
            self._note_picture()
            self._put(image)

    def _note_picture(self) -> None:
        """A camera is back when it has been for a while: one picture may be its last."""
        now_s = time.perf_counter()
        if self._works_since_s is None:
            self._works_since_s = now_s
        if now_s - self._works_since_s < self._steady_s:
            return
        self._attempt = 0
        if self.trouble is not None:
            self.trouble = None
            self.say(f"{self.name} is back")

    def _reopen(self) -> None:
        failed = self._capture is not None and self._capture.failed
        self._release()
        ended = self._pictures == 1 and self._waited_s < SILENT_S and not failed
        if self._poll_s is not None and ended and self._ask_again(self._poll_s):
            return
        self._works_since_s = None
        if self.trouble is None:
            self.trouble = f"{self.name} gives no picture any more; it is opened again when it is back"
            self.say(self.trouble)
        while self._capture is None:
            if self._stopping.wait(self._retry_s[min(self._attempt, len(self._retry_s) - 1)]):
                return
            self._attempt += 1
            self._capture = self._open()

    def _ask_again(self, wait_s: float) -> bool:
        """Open what gave one picture again after a while; whether that worked, or is not wanted any more."""
        if not self._polls:
            self._polls = True
            self.say(
                f"{self.name} answers with one picture; it is asked again every {wait_s:g} s (--camera-fps "
                "says how often)"
            )
        if self._stopping.wait(wait_s):
            return True
        self._capture = self._open()
        return self._capture is not None

    def _open(self) -> Capture | None:
        """An open camera, None if that fails now."""
        self.openings += 1
        self._pictures = 0
        return self._open_capture()

    def _next_image(self) -> Pixels | None:
        """The camera's next picture when it is due; None if it fails or is not open, or at the stop."""
        if self._capture is None:
            return None
        asked_s = time.perf_counter()
        image = self._capture.read()
        self._waited_s = time.perf_counter() - asked_s
        if image is not None:
            self._pictures += 1
            self._came_s = self._capture.came_s
            self.dropped += self._capture.skipped
        return None if self._stopping.wait(self._capture.due_s - time.perf_counter()) else image

    def _release(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _turned(self, image: Pixels) -> Pixels:
        return np.asarray(cv2.rotate(image, TURNS[self._rotate]), np.uint8) if self._rotate else image


def _other_than_asked(name: str, asked: tuple[int, int], picture: Pixels) -> str:
    (height, width), (asked_height, asked_width) = picture.shape[:2], asked
    return f"{name} gives {width} x {height} pixels, not the {asked_width} x {asked_height} it was asked for"
