"""Faces that are found and recognised in what is held; the recogniser is a seam, the detector is real."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from evaluation.audit import faces
from evaluation.audit.faces import MISSING, Descriptor, FaceAudit, Recogniser, TrueFace, find_recogniser
from evaluation.audit.measures import Figures
from evaluation.audit.views import View, whole_view
from runtime.demo.demo import photo
from runtime.frames.boxes import BoxXyxy
from runtime.frames.canvas import make_canvas
from stages.geometry import GEOMETRIES
from stages.tensors import Pixels
from stages.tile_code import RGB, TileCode

VIT_B = GEOMETRIES["vit_b"]


class ByLooks(Recogniser):
    """Describes a face by its grey values: near to itself, far from any other."""

    def __init__(self) -> None:
        pass

    def find(self, picture: Pixels) -> list[BoxXyxy]:
        return []

    def describe(self, picture: Pixels, box: BoxXyxy) -> Descriptor:
        left, top, right, bottom = (max(0, round(side)) for side in box)
        face = cv2.resize(picture[top:bottom, left:right], (16, 16), interpolation=cv2.INTER_AREA)
        grey = face.astype(np.float64).mean(axis=2).ravel()
        grey -= grey.mean()
        described: Descriptor = grey / np.linalg.norm(grey)
        return described


@pytest.fixture(autouse=True)
def _little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its own size the sharper look takes 1.5 GB."""
    monkeypatch.setattr(faces, "SHARP_PX", 1024)


@pytest.fixture(scope="module")
def astronaut() -> Pixels:
    return photo("astronaut")


def figures_of(audit: FaceAudit, *views: View) -> dict[str, float]:
    figures = Figures()
    audit.measure(figures, 0, views, VIT_B)
    return {name: float(np.mean(values)) for name, values in figures.values.items()}


def without(view: View, rows: slice, cols: slice) -> View:
    """A view of which a part is not held; it counts as no window less."""
    known = view.known.copy()
    known[rows, cols] = False
    return View(np.where(known[..., None], view.pixels, 0).astype(np.uint8), known, view.windows)


def test_a_face_is_found_and_recognised_by_who_holds_it(astronaut: Pixels) -> None:
    audit = FaceAudit(ByLooks())
    audit.learn(0, astronaut)
    audit.learn(1, np.ascontiguousarray(astronaut[:, ::-1]))  # somebody else
    whole = whole_view(RGB, make_canvas(astronaut, VIT_B))
    assert figures_of(audit, whole) == {"faces_found": 1, "faces_recognised": 1}
    no_face = without(whole, np.s_[:512], np.s_[:])
    assert figures_of(audit, no_face) == {"faces_found": 0, "faces_recognised": 0}
    assert figures_of(audit, no_face, whole) == {"faces_found": 1, "faces_recognised": 1}


def test_a_face_that_looks_more_like_another_one_is_not_recognised(astronaut: Pixels) -> None:
    audit = FaceAudit(ByLooks())
    audit.learn(0, astronaut)
    whole = whole_view(RGB, make_canvas(astronaut, VIT_B))
    (face,) = audit._true[0]
    assert face.descriptor is not None
    changed = face.descriptor.copy()
    changed[0] += 0.3  # less than NEAR
    audit._true[0] = [TrueFace(face.box, changed)]
    assert figures_of(audit, whole)["faces_recognised"] == 1
    audit._true[1] = [face]  # the twin in another picture is nearer
    assert figures_of(audit, whole) == {"faces_found": 1, "faces_recognised": 0}


def test_a_coarse_code_hides_a_small_face(astronaut: Pixels) -> None:
    small = np.full((1024, 1024, 3), 120, np.uint8)
    small[300:620, 300:620] = cv2.resize(astronaut[:320, 64:384], (320, 320), interpolation=cv2.INTER_AREA)
    mini, audit = GEOMETRIES["mini"], FaceAudit(None)
    audit.learn(0, small)
    found = {}
    for name in ("rgb", "dct:1/1"):
        figures = Figures()
        view = whole_view(TileCode.parse(name), make_canvas(small, mini))
        audit.measure(figures, 0, [view], mini)
        found[name] = figures.values["faces_found"]
    assert found == {"rgb": [1.0], "dct:1/1": [0.0]}


def test_without_a_recogniser_nobody_is_recognised(
    astronaut: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faces, "PACKAGE", "no_such_package")
    assert find_recogniser() is None
    audit = FaceAudit(None)
    audit.learn(0, astronaut)
    assert figures_of(audit, whole_view(RGB, make_canvas(astronaut, VIT_B))) == {"faces_found": 1}
    assert "pedsam[audit]" in MISSING


@pytest.mark.recognisers
def test_the_real_recogniser_knows_a_face_again(astronaut: Pixels) -> None:
    audit = FaceAudit(find_recogniser())
    audit.learn(0, astronaut)
    found = figures_of(audit, whole_view(TileCode.parse("dct:10/3"), make_canvas(astronaut, VIT_B)))
    assert found == {"faces_found": 1, "faces_recognised": 1}


class Elsewhere(ByLooks):
    """Finds a face where the network sees none, and the one that it sees again."""

    HERE: BoxXyxy = (700.0, 300.0, 760.0, 370.0)

    def __init__(self, again: BoxXyxy) -> None:
        self.again = again

    def find(self, picture: Pixels) -> list[BoxXyxy]:
        return [self.again, self.HERE, (5.0, 5.0, 15.0, 15.0)]


def test_what_another_detector_finds_counts_once_and_is_there_though_nobody_finds_it(
    astronaut: Pixels,
) -> None:
    alone = FaceAudit(None)
    alone.learn(0, astronaut)
    (face,) = alone._true[0]
    audit = FaceAudit(Elsewhere(face.box))
    audit.learn(0, astronaut)
    assert [each.box for each in audit._true[0]] == [face.box, Elsewhere.HERE]  # the third one is too small
    whole = whole_view(RGB, make_canvas(astronaut, VIT_B))
    assert figures_of(audit, whole) == {"faces_found": 0.5, "faces_recognised": 0.5}
