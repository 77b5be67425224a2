"""Masks moved along with the picture by optical flow, for frames the model does not run on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from runtime.frames.canvas import Canvas

_SIDE_PX = 512  # flow is computed on the canvas at most this large
_OUTSIDE = -32.0  # a logit that is surely background: what came in over the edge of the picture
_Mask: TypeAlias = npt.NDArray[np.float32]


class Flow:
    """Dense inverse search flow (OpenCV's DIS) from one canvas to the next. Not thread-safe."""

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._before: npt.NDArray[np.uint8] | None = None

    def start(self, canvas: Canvas) -> None:
        """Masks are on this canvas now."""
        self._before = _grey(canvas)

    def move(self, canvas: Canvas, masks: Sequence[_Mask | None]) -> list[_Mask | None]:
        """Low-resolution masks [M, M] of the last canvas as they are on this one, from which the next move
        starts."""
        now, before = _grey(canvas), self._before
        self._before = now
        if before is None or all(mask is None for mask in masks):
            return list(masks)
        # For each pixel of this canvas, where it was on the one before: what remap wants.
        flow = self._dis.calc(now, before, np.zeros((*now.shape, 2), np.float32))
        return [None if mask is None else _moved(mask, flow) for mask in masks]


def _grey(canvas: Canvas) -> npt.NDArray[np.uint8]:
    """The canvas in grey, uint8 [side, side], as large as flow is computed."""
    size = canvas.geometry.image_size
    grey = cv2.cvtColor(np.ascontiguousarray(canvas.pixels[:size, :size]), cv2.COLOR_RGB2GRAY)
    side = min(size, _SIDE_PX)
    return np.asarray(cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def _moved(mask: _Mask, flow: npt.NDArray[Any]) -> _Mask:
    side = len(mask)
    steps = cv2.resize(flow, (side, side), interpolation=cv2.INTER_AREA) * (side / len(flow))
    rows, cols = np.mgrid[:side, :side].astype(np.float32)
    moved = cv2.remap(
        mask,
        cols + steps[..., 0],
        rows + steps[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=_OUTSIDE,
    )
    return np.asarray(moved, np.float32)
