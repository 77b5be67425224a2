"""What a detector is, and the network of one that comes with pedsam."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from runtime.frames.boxes import BoxXyxy
from stages.engines.devices import Device, visible_device
from stages.engines.onnxruntime_engine import CUDA, library, open_session
from stages.machine import MB
from stages.tensors import Array, Pixels

# Boxes, in pixels of an RGB picture uint8 [H, W, 3], around what is to be kept.
Find: TypeAlias = Callable[[Pixels], Iterable[BoxXyxy]]

MODELS = Path(__file__).with_name("models")
# Measured on a CPU: resident bytes of a network that is loaded, and of each pixel that it looks at.
LOADED_BYTES, PIXEL_BYTES = 54 * MB, 350
STRIDE_PX = 32  # the sides of what both networks take are multiples of it


@dataclass(frozen=True)
class DetectorOptions:
    """How the detectors that come with pedsam run: on pictures whose longest side is `px`, by `threads` of
    the CPU or on `device`."""

    px: int = 960
    threads: int | None = None
    device: Device | None = None


def detectors_bytes(number: int, px: int) -> int:
    """Memory that so many detectors take, each looking at a square of `px` pixels: the most there can be."""
    return number * (LOADED_BYTES + PIXEL_BYTES * px * px)


def detector_device(backend: str) -> Device | None:
    """The GPU where onnxruntime can use one and `--backend` does not say otherwise; else None, the CPU."""
    device = None if backend == "onnxruntime-cpu" else visible_device()
    return device if device is not None and CUDA in library().get_available_providers() else None


class Network:
    """A detector's network, an ONNX graph with one input [1, 3, H, W] of any size."""

    def __init__(self, file: str, options: DetectorOptions) -> None:
        self._session = open_session(MODELS / file, options.threads, options.device)
        self._input = self._session.get_inputs()[0].name
        self._px = options.px

    def resized(self, picture: Pixels) -> Pixels:
        """The picture with its longest side `px`, each side a multiple of STRIDE_PX."""
        height, width = picture.shape[:2]
        scale = self._px / max(height, width)
        size = [max(STRIDE_PX, round(side * scale / STRIDE_PX) * STRIDE_PX) for side in (width, height)]
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)

    def run(self, picture: npt.NDArray[np.float32]) -> list[Array]:
        """The outputs for a picture [H, W, 3], as resized and normalised."""
        outputs: list[Array] = self._session.run(None, {self._input: picture.transpose(2, 0, 1)[None]})
        return outputs
