"""A session, its predictors and its trackers for programs without an event loop: each call waits.

The work is done by `runtime.api.session` on a loop of the session's own thread.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from runtime.api.arguments import Frame, ImageFormat, PromptEntries
from runtime.api.errors import SessionClosed
from runtime.api.exposure import Exposure
from runtime.api.held_edge import CLOSED
from runtime.api.loop_thread import LoopThread
from runtime.api.masks import Masks
from runtime.api.one_process import OfOneProcess
from runtime.api.predictor import AsyncPredictor, Predicted
from runtime.api.session import AsyncSession
from runtime.api.tracker import END, AsyncTracker, iterator_of, push
from runtime.api.tracking import Following, TrackedFrame

T = TypeVar("T")


class Session(OfOneProcess):
    """What `pedsam.open` gives: an open edge, with its sites if it has some.

    Use it inside `with`, or call `close`. Any number of threads may call `segment` and `exposure` at once; a
    predictor or a tracker belongs to one thread at a time, and a session to the process that opened it.

    Every method raises SessionClosed after that, and a PedsamError, one sentence long, for whatever goes
    wrong; ArgumentError among them is a ValueError too. A site that fails or hangs has its own time limit,
    after which another one or the edge takes over, or FrameLost is raised. Ctrl-C interrupts a call, and the
    session can be used on. What a person is to know of sites and of the ledger goes to the logger "pedsam".
    """

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._thread = LoopThread(session.close)
        weakref.finalize(self, self._thread.end_soon).atexit = False
        try:
            self._thread.call(session.__aenter__)
        except BaseException:
            self._thread.end()
            raise

    def __enter__(self) -> Session:
        if self.closed:
            raise SessionClosed(CLOSED)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def model(self) -> str:
        """Which bundle it is, as "mini (distilled weights, dct:10/3)"."""
        return self._session.model

    @property
    def closed(self) -> bool:
        return self._session.closed

    def close(self) -> None:
        """Cancel what is under way and close everything; calling it again does nothing."""
        self._thread.end()

    def segment(
        self,
        frame: Frame,
        *,
        boxes: npt.ArrayLike | None = None,
        points: Any = None,
        labels: Any = None,
        multimask: bool = False,
        image_format: ImageFormat = "RGB",
    ) -> Masks:
        """Masks of N objects on one frame.

        `frame`: uint8 [H, W, 3], in `image_format` "RGB", or "BGR" as OpenCV reads; a Pillow image; or the
        path of a picture, which is turned upright as its EXIF says. Coordinates are its pixels, x before y.
        `boxes`: [N, 4], left, top, right, bottom, or [4] for one object. `points`: [N, 2], one for each
        object; [N, P, 2], P for each; or a list of [P, 2] of different lengths. `labels`: like the points
        without their last axis, 1 for what belongs to the object and 0 for what does not, 1 by default; each
        object has a box or a point of label 1. Points of one object are [1, P, 2], not SamPredictor's [P, 2].
        With boxes and points each object has one of both.

        A single point may mean several things: the best rated of three masks is taken, or with `multimask`
        all three are given.

        Raises ArgumentError for arguments that cannot be right, InputError for a file that cannot be read,
        FrameLost where windows could neither be sent within the caps nor computed here.
        """
        return self._thread.call(
            partial(
                self._session.segment,
                frame,
                boxes=boxes,
                points=points,
                labels=labels,
                multimask=multimask,
                image_format=image_format,
            )
        )

    def predictor(self) -> Predictor:
        """A predictor with the methods of segment_anything's SamPredictor. Each has an image of its own."""
        return Predictor(self, self._session.predictor(), self._thread)

    def track(
        self,
        frames: Iterable[Frame] | str | os.PathLike[str],
        prompts: PromptEntries = (),
        *,
        keyframe_every: int = 1,
        in_flight: int = 1,
        image_format: ImageFormat = "RGB",
    ) -> Tracker:
        """Follow objects through frames: an iterator over a TrackedFrame for each, in their order.

        `frames`: frames as in `segment`, one after another, of an iterable, which is read as results are
        asked for; or the path of a video or of a folder of pictures. `prompts`: objects as in the file of
        `pedsam run --prompts`, its path, what it holds, or its entries: {"name": "cup", "box": [x0, y0, x1,
        y1], "points": [[x, y, 1]], "from_frame": 0}, in pixels of the frame `from_frame`, 0 being the first.
        More can be asked for on the way, with `Tracker.prompt`. Nothing of a frame is sent on which nothing
        is to be found.

        The model runs on every `keyframe_every`th frame; between them masks are moved along by optical flow.
        `in_flight` frames are read ahead, at most 16, so that windows of later ones travel while earlier ones
        are computed: more frames a second through sites, and results that many frames later.

        Raises InputError for prompts that cannot be right. The iterator raises as `segment` does, but for a
        frame that is lost: that one comes with a reason, and the next follows.
        """
        tracker = self._session.track(
            (), prompts, keyframe_every=keyframe_every, in_flight=in_flight, image_format=image_format
        )
        return Tracker(self, tracker, self._thread, frames, image_format)

    def exposure(self) -> Exposure:
        """What each operator has seen, and may see.

        Raises InputError for a session with sites before it knows how large frames are: by `sizes`, or by the
        first one.
        """
        return self._thread.call(partial(_done, self._session.exposure))


class Predictor(OfOneProcess):
    """segment_anything's SamPredictor, by its methods, on an open session; made by `Session.predictor`.

    The same names, shapes and meanings, on numpy arrays: code that has a SamPredictor runs with this in its
    place. docs/python.md says what differs.
    """

    def __init__(self, session: Session, predictor: AsyncPredictor, thread: LoopThread) -> None:
        self._session = session  # which stays open as long as this
        self._predictor = predictor
        self._thread = thread

    def set_image(self, image: Frame, image_format: str = "RGB") -> None:
        """Compute the image embedding, through the session's sites where it has some.

        `image`: uint8 [H, W, 3] in "RGB" or "BGR", a Pillow image or a path, as `Session.segment` takes them.
        Until it succeeds there is no image. Raises as that does.
        """
        self._thread.call(partial(self._predictor.set_image, image, image_format))

    def reset_image(self) -> None:
        """Forget the image."""
        self._predictor.reset_image()

    @property
    def is_image_set(self) -> bool:
        return self._predictor.is_image_set

    @property
    def original_size(self) -> tuple[int, int]:
        """Height and width of the image. Raises NoImage."""
        return self._predictor.original_size

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the image on the canvas. Raises NoImage."""
        return self._predictor.input_size

    def get_image_embedding(self) -> npt.NDArray[np.float32]:
        """float32 [1, 256, E, E]. Raises NoImage."""
        return self._predictor.get_image_embedding()

    def predict(
        self,
        point_coords: npt.ArrayLike | None = None,
        point_labels: npt.ArrayLike | None = None,
        box: npt.ArrayLike | None = None,
        mask_input: npt.ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> Predicted:
        """Masks of one object: with `multimask_output` three to choose from, else one.

        `point_coords`: [P, 2], x and y in pixels of the image; `point_labels`: [P], 1 for what belongs to the
        object and 0 for what does not. `box`: [4] or [1, 4], left, top, right, bottom. `mask_input`: [1, M,
        M], logits that an earlier call gave.

        Returns masks bool [C, H, W], with `return_logits` their logits float32; scores float32 [C]; and
        low-resolution logits float32 [C, M, M]. C is 3 or 1. Raises NoImage, and ArgumentError for arguments
        that cannot be right.
        """
        arguments = point_coords, point_labels, box, mask_input, multimask_output, return_logits
        return self._thread.call(partial(self._predictor.predict, *arguments))


class Tracker(OfOneProcess):
    """Gives a TrackedFrame for each frame, in order; made by `Session.track`.

    `close`, or `with`, drops what was read ahead.
    """

    def __init__(
        self,
        session: Session,
        tracker: AsyncTracker,
        thread: LoopThread,
        frames: Iterable[Frame] | str | os.PathLike[str],
        image_format: str,
    ) -> None:
        self._session = session  # which stays open as long as this
        self._tracker = tracker
        self._following: Following = tracker.following
        self._thread = thread
        self._frames = iterator_of(frames)
        self._image_format = image_format
        self._ended = False
        weakref.finalize(self, thread.soon, tracker.following.close).atexit = False

    def __iter__(self) -> Iterator[TrackedFrame]:
        return self

    def __next__(self) -> TrackedFrame:
        following = self._following
        while not self._ended and following.pending < following.in_flight:
            frame = next(self._frames, END)
            if frame is END:
                self._ended = True
                self._thread.call(partial(_done, following.no_more))
            else:
                self._thread.call(partial(push, following, frame, self._image_format))
        if not following.pending:
            raise StopIteration
        return self._thread.call(following.result)

    def prompt(
        self,
        name: str | None = None,
        *,
        box: npt.ArrayLike | None = None,
        points: npt.ArrayLike | None = None,
        labels: npt.ArrayLike | None = None,
    ) -> str:
        """Ask for one more object, or correct one, in pixels of the frame that was given last; its name.

        `box`: [4]. `points`: [P, 2], or [2] for one; `labels`: [P], 1 by default. The name of an object that
        is followed adds points to its own and replaces its box; another name, or none, starts a new object.
        Before the first frame it holds from that one on.

        Raises InputError for what cannot be right, as a point outside the frame, and SessionClosed once it is
        known that no frame follows.
        """
        return self._thread.call(partial(self._tracker.prompt, name, box=box, points=points, labels=labels))

    def remove(self, name: str) -> None:
        """Follow an object no further. Raises InputError where there is none of this name."""
        self._thread.call(partial(_done, partial(self._tracker.remove, name)))

    def close(self) -> None:
        """Read no further frame."""
        self._ended, self._frames = True, iter(())
        self._thread.call(self._tracker.aclose)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _done(action: Callable[[], T]) -> T:
    """What is done on the loop without waiting."""
    return action()
