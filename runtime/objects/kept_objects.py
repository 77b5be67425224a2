"""The windows that the objects of a run touch, for `--keep-objects`: known before a frame is computed.

What is known of a frame that is to be sent are the masks on the newest frame that has them. They are moved
along to this one by optical flow; what they touched and what they touch stays, with a margin. An object that
is lost stays where it was seen last, and while the first mask of one is not known all windows stay. It is a
prediction: of an object that moves or grows further than its margin from one frame to the next part is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from runtime.frames.boxes import BoxXyxy
from runtime.frames.canvas import Canvas
from runtime.frames.kept import touched
from runtime.objects.follower import Follower
from runtime.objects.optical_flow import Flow

MARGIN = 1 / 4  # of a window's side, around a mask
_Mask = npt.NDArray[np.float32]


class KeptObjects:
    """Looks at the objects of a follower."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def on(self, canvas: Canvas, number: int) -> Callable[[], frozenset[int] | None]:
        """A function that gives the windows for the frame of this canvas and number, None while they are not
        known. It may run elsewhere, of the objects as they are now."""
        before = self._follower.masks_on
        if before is None or self._follower.unseen(number):
            return lambda: None
        entries = self._follower.objects.entries
        masks = [entry.found.logits for entry in entries if entry.found is not None]
        last = [entry.box for entry in entries if entry.found is None and entry.box is not None]
        return lambda: _windows(before, canvas, masks, last)


def _windows(
    before: Canvas, canvas: Canvas, masks: Sequence[_Mask], last: Sequence[BoxXyxy]
) -> frozenset[int]:
    """Of `masks` on the canvas `before`, moved to `canvas`, and of boxes in pixels of the frame."""
    flow = Flow()
    flow.start(before)
    moved = [mask for mask in flow.move(canvas, masks) if mask is not None]
    of_masks = frozenset[int]().union(*(_of_mask(mask, canvas) for mask in (*masks, *moved)))
    return of_masks | touched(canvas.geometry, (_of_box(box, canvas) for box in last))


def _of_mask(logits: _Mask, canvas: Canvas) -> frozenset[int]:
    """The windows with picture that a mask [M, M] touches, with its margin."""
    geometry, side = canvas.geometry, len(logits)
    margin = round(MARGIN * geometry.tile_px * side / geometry.image_size)
    wide = cv2.dilate((logits > 0).astype(np.uint8), np.ones((2 * margin + 1, 2 * margin + 1), np.uint8))
    cell_px = geometry.image_size / side
    rows, cols = np.nonzero(wide)
    windows = (rows * cell_px // geometry.tile_px) * geometry.grid + cols * cell_px // geometry.tile_px
    return frozenset(np.unique(windows).astype(int).tolist()) & frozenset(canvas.windows)


def _of_box(box: BoxXyxy, canvas: Canvas) -> BoxXyxy:
    """A box of the frame in pixels of the canvas, with its margin."""
    margin = MARGIN * canvas.geometry.tile_px
    (left, top), (right, bottom) = canvas.to_canvas_xy(np.reshape(box, (2, 2))).tolist()
    return left - margin, top - margin, min(right + margin, canvas.cols), min(bottom + margin, canvas.rows)
