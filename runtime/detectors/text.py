"""Text, by PP-OCRv4's detector (PaddlePaddle, Apache-2.0), a network of 5 MB by differentiable binarization
(Liao, Wan, Yao, Chen, Bai 2020, arXiv 1911.08947)."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from runtime.detectors.network import DetectorOptions, Network
from runtime.frames.boxes import BoxXyxy
from stages.tensors import Pixels

SCORE = 0.2  # of a pixel that is text; low, as that of faces
SMALLEST_PX = 3  # a side of a region, in what the network sees
# The network marks the inside of a line of text. What it was shrunk by is its area / perimeter by this.
UNSHRINK = 1.6


class Text:
    """Finds lines of text; belongs on one thread. Raises EngineError where it cannot be loaded."""

    def __init__(self, options: DetectorOptions) -> None:
        self._network = Network("text.onnx", options)

    def find(self, picture: Pixels) -> list[BoxXyxy]:
        """Boxes, upright, around the lines of text in an RGB picture, in its pixels."""
        resized = self._network.resized(picture)
        bgr = resized[..., ::-1].astype(np.float32) / 127.5 - 1
        (probability,) = self._network.run(bgr)
        scale = picture.shape[1] / resized.shape[1], picture.shape[0] / resized.shape[0]
        return [
            (left * scale[0], top * scale[1], right * scale[0], bottom * scale[1])
            for left, top, right, bottom in _regions(probability[0, 0])
        ]


def _regions(probability: npt.NDArray[np.float32]) -> list[BoxXyxy]:
    """Boxes around what is text by its probability [H, W], grown by what text is more than its inside."""
    marked = (probability > SCORE).astype(np.uint8)
    number, _, statistics, _ = cv2.connectedComponentsWithStats(marked, connectivity=8)
    boxes = []
    for left, top, width, height, _ in statistics[1:number].tolist():
        if min(width, height) >= SMALLEST_PX:
            grown = UNSHRINK * width * height / (2 * (width + height))
            boxes.append((left - grown, top - grown, left + width + grown, top + height + grown))
    return boxes
