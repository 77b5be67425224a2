"""Words put onto pictures and read in what is held; reading is a seam, finding lines is real."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.audit.crops import LOOK_PX
from evaluation.audit.measures import Figures
from evaluation.audit.views import View, whole_view
from evaluation.audit.words import A_PICTURE, WORDS, Reader, WordAudit, find_reader, put_words
from runtime.frames.canvas import make_canvas
from stages.geometry import GEOMETRIES
from stages.tensors import Pixels
from stages.tile_code import RGB
from tests.support.pictures import photo

VIT_B = GEOMETRIES["vit_b"]


class ReadsAnything(Reader):
    """Takes every line of text for all words, so that what counts is whether one is found at its place."""

    def __init__(self) -> None:
        pass

    def read(self, line: Pixels) -> str:
        assert line.size
        return WORDS


def test_words_are_where_they_are_said_to_be() -> None:
    picture = photo("16:9")
    signed, words = put_words(picture, 3)
    assert len(words) == A_PICTURE
    changed = (signed != picture).any(axis=2)
    outside = np.ones_like(changed)
    scale = max(picture.shape) / LOOK_PX
    for word in words:
        left, top, right, bottom = (round(side * scale) for side in word.box)
        assert 0 <= left < right <= picture.shape[1]
        assert 0 <= top < bottom <= picture.shape[0]
        outside[top : bottom + 1, left : right + 1] = False
        assert changed[top:bottom, left:right].mean() > 0.5
    assert not changed[outside].any()
    np.testing.assert_array_equal(put_words(picture, 3)[0], signed)
    assert (put_words(picture, 4)[0] != signed).any()


def test_a_picture_too_small_for_a_word_has_none() -> None:
    picture = np.zeros((8, 400, 3), np.uint8)
    assert put_words(picture, 1)[1] == []


def test_words_are_read_by_who_holds_them() -> None:
    audit = WordAudit(ReadsAnything(), 1)
    picture = np.full((576, 1024, 3), 90, np.uint8)
    canvas = make_canvas(audit.prepare(0, picture), VIT_B)
    whole = whole_view(RGB, canvas)
    nothing = View(np.zeros_like(whole.pixels), np.zeros_like(whole.known), frozenset())
    left = whole.known.copy()
    left[:, 512:] = False
    half = View(np.where(left[..., None], whole.pixels, 0).astype(np.uint8), left, whole.windows)
    read = {}
    for name, view in (("whole", whole), ("half", half), ("nothing", nothing)):
        figures = Figures()
        audit.measure(figures, 0, [view], VIT_B)
        read[name] = float(np.mean(figures.values["words_read"]))
    assert read["whole"] == 1
    assert 0 < read["half"] < 1
    assert read["nothing"] == 0


@pytest.mark.recognisers
def test_the_real_reader_reads() -> None:
    reader = find_reader()
    assert reader is not None
    audit = WordAudit(reader, 1)
    audit.prepare(0, np.full((576, 1024, 3), 90, np.uint8))
    assert len(audit._true[0]) >= A_PICTURE - 1
