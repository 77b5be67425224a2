"""Faces that an operator finds in its windows, and recognises among all faces of the data.

The truth is what is found on the undivided picture: by the same detector at LOOK_PX and, so that it is not
what `--keep faces` finds alone, in the picture's own size up to SHARP_PX and, where the recogniser is
installed, by dlib's detector of gradients (Dalal, Triggs 2005). A face is recognised when, of all faces of
the data, its own is the nearest to what the operator has of it, and near enough for the recogniser: dlib's
(D. King, 2017), whose weights are in face-recognition-models.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.audit.crops import SHEET_PX, Crop, Found, crops_of, look_at, overlap, sheets_of
from evaluation.audit.measures import Figures
from evaluation.audit.views import View
from runtime.detectors.faces import Faces
from runtime.detectors.network import DetectorOptions
from runtime.frames.boxes import BoxXyxy
from stages.geometry import Geometry
from stages.tensors import Pixels

TRUE_SCORE = 0.5  # of a face on the undivided picture
FOUND_SCORE = 0.25  # of one in an operator's windows, to whom a false one costs nothing
SHARP_PX = 1600  # longest side, at most, of a picture in which true faces are looked for
SAME = 0.4  # overlap of a true and a found box
SMALLEST_PX = 16  # width of a true face
NEAR = 0.6  # distance of two faces of one person, by the recogniser's author
PACKAGE = "face_recognition_models"
MISSING = (
    "faces are not recognised: dlib-bin and face-recognition-models are not installed; install pedsam[audit]"
)

Descriptor = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TrueFace:
    """A face of the undivided picture; no `descriptor` without a recogniser."""

    box: BoxXyxy
    descriptor: Descriptor | None


class Recogniser:
    """Turns faces into points, near each other where they are of one person."""

    def __init__(self, dlib: Any, models: Path) -> None:
        self._dlib = dlib
        self._shapes = dlib.shape_predictor(str(models / "shape_predictor_5_face_landmarks.dat"))
        self._network = dlib.face_recognition_model_v1(
            str(models / "dlib_face_recognition_resnet_model_v1.dat")
        )
        self._gradients = dlib.get_frontal_face_detector()

    def find(self, picture: Pixels) -> list[BoxXyxy]:
        """Faces seen from the front, of 40 pixels or more, in an RGB picture."""
        found = self._gradients(np.ascontiguousarray(picture), 1)
        return [(float(r.left()), float(r.top()), float(r.right()), float(r.bottom())) for r in found]

    def describe(self, picture: Pixels, box: BoxXyxy) -> Descriptor:
        """The face in a box of an RGB picture: float64 [128]."""
        side = (box[2] - box[0] + box[3] - box[1]) / 2
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        corners = (round(x - side / 2), round(y - side / 2), round(x + side / 2), round(y + side / 2))
        picture = np.ascontiguousarray(picture)
        shape = self._shapes(picture, self._dlib.rectangle(*corners))
        return np.array(self._network.compute_face_descriptor(picture, shape))


def find_recogniser() -> Recogniser | None:
    """None where its packages are not installed. The models' own package is not imported: it needs others."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None or importlib.util.find_spec("dlib") is None:
        return None
    import dlib  # an extra of its own

    return Recogniser(dlib, Path(found.origin).parent / "models")


class FaceAudit:
    """`learn` all pictures first, then `measure` what is held of each. It blocks: use a thread."""

    def __init__(self, recogniser: Recogniser | None) -> None:
        self._faces = Faces(DetectorOptions(px=SHEET_PX))
        self._sharp = Faces(DetectorOptions(px=SHARP_PX))
        self._recogniser = recogniser
        self._true: dict[int, list[TrueFace]] = {}

    def learn(self, number: int, picture: Pixels) -> None:
        """The true faces of a picture, RGB uint8 [H, W, 3]."""
        whole, distinct = look_at(picture), list[BoxXyxy]()
        for box in self._all_boxes(picture, whole):
            if box[2] - box[0] >= SMALLEST_PX and not any(overlap(box, other) >= SAME for other in distinct):
                distinct.append(box)
        self._true[number] = [TrueFace(box, self._describe(Found(whole, box, box))) for box in distinct]

    def _all_boxes(self, picture: Pixels, whole: Crop) -> Iterator[BoxXyxy]:
        """By every detector, in pixels of the picture of LOOK_PX, `whole`."""
        yield from (found.box for found in self._found([whole], TRUE_SCORE))
        scale = whole.pixels.shape[1] / picture.shape[1]
        for face in self._sharp.faces(picture, TRUE_SCORE):
            left, top, right, bottom = face.box
            yield left * scale, top * scale, right * scale, bottom * scale
        if self._recogniser:
            yield from self._recogniser.find(whole.pixels)

    def measure(self, figures: Figures, number: int, views: Sequence[View], geometry: Geometry) -> None:
        """Which of its faces somebody finds, and recognises."""
        if not self._true[number]:
            return
        found = self._found(crops_of(views, geometry), FOUND_SCORE)
        gallery = [face for faces in self._true.values() for face in faces]
        for face in self._true[number]:
            there = [each for each in found if overlap(each.box, face.box) >= SAME]
            figures.add("faces_found", number, [bool(there)])
            if self._recogniser:
                known = any(self._is(each, face, gallery) for each in there)
                figures.add("faces_recognised", number, [known])

    def _is(self, found: Found, face: TrueFace, gallery: Sequence[TrueFace]) -> bool:
        described = self._describe(found)
        if described is None or face.descriptor is None:
            return False
        own = float(np.linalg.norm(face.descriptor - described))
        others = [
            np.linalg.norm(each.descriptor - described) for each in gallery if each.descriptor is not None
        ]
        return own < NEAR and own <= float(min(others))

    def _describe(self, found: Found) -> Descriptor | None:
        return self._recogniser.describe(found.crop.pixels, found.in_crop) if self._recogniser else None

    def _found(self, crops: Sequence[Crop], score: float) -> list[Found]:
        return [
            found
            for sheet in sheets_of(crops)
            for face in self._faces.faces(sheet.pixels, score)
            if (found := sheet.found(face.box))
        ]
