"""segment_anything's SamPredictor, by its methods, on an open session.

The same names, shapes and meanings, on numpy arrays: code that has a SamPredictor runs with this in its
place. What differs: the image embedding is an array, no tensor; `mask_input` needs a point or a box beside
it; there is no `predict_torch`, and no `device`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from anyio import to_thread

from runtime.api.arguments import Frame, pixels_of
from runtime.api.core import Core
from runtime.api.embedding import Embedded, decode_all, frame_logits
from runtime.api.errors import ArgumentError, NoImage
from runtime.api.one_process import OfOneProcess
from runtime.frames.boxes import BoxXyxy
from runtime.frames.canvas import Canvas
from runtime.objects.prompts import Prompt
from stages.errors import InputError
from stages.tensors import Array

# Masks bool [C, H, W], or their logits float32; scores float32 [C]; low-resolution logits float32 [C, M, M].
Predicted = tuple[npt.NDArray[Any], npt.NDArray[np.float32], npt.NDArray[np.float32]]


class AsyncPredictor(OfOneProcess):
    """Masks of one image after another; made by `AsyncSession.predictor`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._embedded: Embedded | None = None

    async def set_image(self, image: Frame, image_format: str = "RGB") -> None:
        """Compute the image embedding. See Predictor.set_image."""
        self.reset_image()
        self._core.require_open()
        pixels = await to_thread.run_sync(pixels_of, image, image_format)
        self._embedded = await self._core.embed(pixels)

    def reset_image(self) -> None:
        """Forget the image."""
        self._embedded = None

    @property
    def is_image_set(self) -> bool:
        return self._embedded is not None

    @property
    def original_size(self) -> tuple[int, int]:
        """Height and width of the image. Raises NoImage."""
        canvas = self._image.canvas
        return canvas.height, canvas.width

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the image on the canvas. Raises NoImage."""
        canvas = self._image.canvas
        return canvas.rows, canvas.cols

    def get_image_embedding(self) -> npt.NDArray[np.float32]:
        """float32 [1, 256, E, E]. Raises NoImage."""
        return self._image.image_embedding

    async def predict(
        self,
        point_coords: npt.ArrayLike | None = None,
        point_labels: npt.ArrayLike | None = None,
        box: npt.ArrayLike | None = None,
        mask_input: npt.ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> Predicted:
        """Masks of one object. See Predictor.predict."""
        embedded = self._image
        prompt = _prompt(point_coords, point_labels, box)
        earlier = None if mask_input is None else _mask_input(mask_input, self._core.geometry.mask_px)
        self._core.require_open()
        logits, scores = await self._core.run(decode_all(self._core.edge, embedded, [prompt], earlier))
        kept = slice(1, 4) if multimask_output else slice(0, 1)
        masks = await to_thread.run_sync(_enlarged, embedded.canvas, logits[0, kept], return_logits)
        return masks, scores[0, kept], logits[0, kept]

    @property
    def _image(self) -> Embedded:
        if self._embedded is None:
            raise NoImage("an image must be set with set_image before masks are predicted")
        return self._embedded


def _prompt(points: npt.ArrayLike | None, labels: npt.ArrayLike | None, box: npt.ArrayLike | None) -> Prompt:
    if points is None and box is None:
        raise ArgumentError("nothing to predict: give point_coords with point_labels, a box, or both")
    if (points is None) != (labels is None):
        raise ArgumentError("point_coords and point_labels go together; give both or neither")
    try:
        coords = np.zeros((0, 2)) if points is None else np.asarray(points, np.float64)
        marks = np.zeros(0) if labels is None else np.asarray(labels, np.float64)
        corners = None if box is None else np.asarray(box, np.float64)
    except (TypeError, ValueError) as exc:
        raise ArgumentError(f"points, labels or box are no arrays of numbers ({exc})") from exc
    if coords.ndim != 2 or coords.shape[1] != 2 or marks.shape != coords.shape[:1]:
        raise ArgumentError(
            f"point_coords has the shape {list(coords.shape)} and point_labels {list(marks.shape)}, expected "
            "[P, 2] and [P]"
        )
    if not np.isin(marks, (0, 1)).all():
        raise ArgumentError("point_labels are 1 for what belongs to the object and 0 for what does not")
    if corners is not None and corners.shape not in ((4,), (1, 4)):
        raise ArgumentError(f"box has the shape {list(corners.shape)}, expected [4]: one object a call")
    points_xy = tuple((x, y, int(mark)) for (x, y), mark in zip(coords.tolist(), marks, strict=True))
    box_xyxy: BoxXyxy | None = None
    if corners is not None:
        left, top, right, bottom = corners.ravel().tolist()
        box_xyxy = left, top, right, bottom
    try:
        return Prompt("given", box_xyxy, points_xy)
    except InputError as exc:
        raise ArgumentError(str(exc)) from exc


def _mask_input(mask: npt.ArrayLike, side: int) -> Array:
    try:
        array = np.asarray(mask, np.float32)
    except (TypeError, ValueError) as exc:
        raise ArgumentError(f"mask_input is no array of numbers ({exc})") from exc
    if array.shape != (1, side, side):
        raise ArgumentError(
            f"mask_input has the shape {list(array.shape)}, expected [1, {side}, {side}]: the low-resolution "
            "logits of one mask, as predict returns them third"
        )
    if not np.isfinite(array).all():
        raise ArgumentError("mask_input has values that are not finite; give the logits that predict returns")
    return np.ascontiguousarray(array[None])


def _enlarged(canvas: Canvas, logits: Array, as_logits: bool) -> npt.NDArray[Any]:
    make = frame_logits if as_logits else Canvas.to_frame_mask
    return np.stack([make(canvas, each) for each in logits])
