"""Faces, by CenterFace (Xu, Yan, Yang, Sun, He 2019, arXiv 1911.03599): an anchor-free detector of 7 MB."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from runtime.detectors.network import DetectorOptions, Network
from runtime.frames.boxes import BoxXyxy
from stages.tensors import Array, Pixels

CELL_PX = 4  # of the picture, a cell of the heat map
# Low, for a window that is kept in vain costs little: 0.35 finds as many of the larger ones, 0.5 some less.
SCORE = 0.25
OVERLAP = 0.4  # of two boxes, above which they are of one face


@dataclass(frozen=True)
class Face:
    """A face in pixels of the picture; `score` is 0..1. `landmarks` [5, 2] are x, y of the eyes, the nose and
    the corners of the mouth."""

    box: BoxXyxy
    score: float
    landmarks: npt.NDArray[np.float32]


class Faces:
    """Finds faces; belongs on one thread. Raises EngineError where it cannot be loaded."""

    def __init__(self, options: DetectorOptions) -> None:
        self._network = Network("faces.onnx", options)

    def find(self, picture: Pixels) -> list[BoxXyxy]:
        """Boxes of the faces in an RGB picture, in its pixels."""
        return [face.box for face in self.faces(picture)]

    def faces(self, picture: Pixels, score: float = SCORE) -> list[Face]:
        """The faces that score more, best first."""
        resized = self._network.resized(picture)
        heat, sizes, offsets, landmarks = self._network.run(resized.astype(np.float32))
        scale = np.array([picture.shape[1] / resized.shape[1], picture.shape[0] / resized.shape[0]])
        return [_scaled(face, scale) for face in _decoded(heat, sizes, offsets, landmarks, score)]


def _scaled(face: Face, scale: npt.NDArray[np.float64]) -> Face:
    """A face in a picture that is `scale` (x, y) as large."""
    left, top, right, bottom = (np.reshape(face.box, (2, 2)) * scale).ravel().tolist()
    return Face((left, top, right, bottom), face.score, (face.landmarks * scale).astype(np.float32))


def _decoded(heat: Array, sizes: Array, offsets: Array, landmarks: Array, score: float) -> list[Face]:
    """Faces of the network's outputs: heat [1, 1, h, w]; log of height and width, offset of y and x
    [1, 2, h, w]; y and x of landmarks as shares of the box [1, 10, h, w]."""
    rows, cols = np.nonzero(heat[0, 0] > score)
    scores = heat[0, 0, rows, cols]
    height, width = np.exp(sizes[0][:, rows, cols]) * CELL_PX
    top = (rows + offsets[0, 0, rows, cols] + 0.5) * CELL_PX - height / 2
    left = (cols + offsets[0, 1, rows, cols] + 0.5) * CELL_PX - width / 2
    places = landmarks[0][:, rows, cols].reshape(5, 2, -1)
    corners = np.stack([left, top, width, height], axis=1)
    chosen = cv2.dnn.NMSBoxes(corners.tolist(), scores.tolist(), score, OVERLAP) if len(rows) else ()
    return [
        Face(
            (float(left[i]), float(top[i]), float(left[i] + width[i]), float(top[i] + height[i])),
            float(scores[i]),
            np.stack([places[:, 1, i] * width[i] + left[i], places[:, 0, i] * height[i] + top[i]], axis=1),
        )
        for i in map(int, np.ravel(chosen))
    ]
