"""Words that an operator reads in its windows: put onto the pictures here, so that text and place are known.

The truth are those words that the same detector and recogniser, PP-OCRv4's, read on the undivided picture at
LOOK_PX. The recogniser's weights are in the wheel of rapidocr-onnxruntime, of which nothing else is used.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from evaluation.audit.crops import LOOK_PX, SHEET_PX, Crop, Found, crops_of, look_at, sheets_of
from evaluation.audit.measures import Figures
from evaluation.audit.views import View
from runtime.detectors.network import DetectorOptions
from runtime.detectors.text import Text
from runtime.frames.boxes import BoxXyxy
from stages.engines.onnxruntime_engine import open_session
from stages.geometry import Geometry
from stages.tensors import Pixels

WORDS = """ANCHOR BAKERY CASTLE DANGER ENGINE FLOWER GARDEN HARBOUR ISLAND JUNGLE KITCHEN LANTERN MARKET
NUMBER OFFICE PARKING QUARTER RIVER SCHOOL TICKET UMBRELLA VILLAGE WINDOW YELLOW ZEBRA BRIDGE CAMERA DOCTOR
EXPRESS FACTORY GALLERY HOTEL INVOICE JACKET KEEPER LIBRARY MUSEUM NOTICE ORANGE PRIVATE"""
A_PICTURE = 6  # words
HEIGHTS_PX = (18, 44)  # of letters, on a canvas of LOOK_PX
READ_PX = 48  # height of what the recogniser takes
PACKAGE, MODEL = "rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx"
MISSING = (
    "words are not read: install their recogniser with pip install --no-deps rapidocr-onnxruntime==1.4.4 "
    "(without --no-deps a second OpenCV would come with it)"
)


@dataclass(frozen=True)
class Word:
    """A word and its box in pixels of the picture of LOOK_PX."""

    text: str
    box: BoxXyxy


def put_words(picture: Pixels, seed: int) -> tuple[Pixels, list[Word]]:
    """A picture RGB uint8 [H, W, 3] with A_PICTURE small signs on it, as far as there is room."""
    draw, image = random.Random(seed), Image.fromarray(picture)  # noqa: S311  (no secret)
    height, width = picture.shape[:2]
    scale = max(height, width) / LOOK_PX
    pen = ImageDraw.Draw(image)
    words: list[Word] = []
    for text in draw.sample(WORDS.split(), A_PICTURE):
        font = ImageFont.load_default(max(4, round(draw.randint(*HEIGHTS_PX) * 1.35 * scale)))
        left, top, right, bottom = (round(side) for side in pen.textbbox((0, 0), text, font))
        margin = max(1, round(0.25 * (bottom - top)))
        wide, high = right - left + 2 * margin, bottom - top + 2 * margin
        for _ in range(20):
            x, y = draw.randint(0, max(0, width - wide)), draw.randint(0, max(0, height - high))
            box = (x / scale, y / scale, (x + wide) / scale, (y + high) / scale)
            if wide <= width and high <= height and not any(_touch(box, word.box) for word in words):
                pen.rectangle((x, y, x + wide, y + high), fill=(245, 245, 240))
                pen.text((x + margin - left, y + margin - top), text, fill=(20, 20, 30), font=font)
                words.append(Word(text, box))
                break
    return np.asarray(image), words


def _touch(first: BoxXyxy, second: BoxXyxy, gap: float = 24) -> bool:
    return (
        first[0] < second[2] + gap
        and second[0] < first[2] + gap
        and first[1] < second[3] + gap
        and second[1] < first[3] + gap
    )


def find_reader() -> Reader | None:
    """None where its package is not installed, which is not imported: only its weights are used."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None or not (Path(found.origin).parent / MODEL).is_file():
        return None
    return Reader(Path(found.origin).parent / MODEL)


class Reader:
    """PP-OCRv4's recogniser, which reads one line of text."""

    def __init__(self, model: Path) -> None:
        self._session = open_session(model, None, None)
        self._input = self._session.get_inputs()[0].name
        listed = self._session.get_modelmeta().custom_metadata_map["character"].splitlines()
        self._characters = ["", *listed, " "]  # the first is CTC's blank

    def read(self, line: Pixels) -> str:
        """The text of an RGB picture of a line."""
        wide = max(READ_PX, round(line.shape[1] * READ_PX / len(line)))
        resized = cv2.resize(line, (wide, READ_PX), interpolation=cv2.INTER_CUBIC)
        normal = resized[..., ::-1].astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
        (scores,) = self._session.run(None, {self._input: np.ascontiguousarray(normal)})
        best = scores[0].argmax(axis=1)
        kept = best[np.append(True, best[1:] != best[:-1])]
        return "".join(self._characters[number] for number in kept)


class WordAudit:
    """`prepare` a picture first, then `measure` what is held of it. It blocks: use a thread."""

    def __init__(self, reader: Reader, seed: int) -> None:
        self._text = Text(DetectorOptions(px=SHEET_PX))
        self._reader = reader
        self._seed = seed
        self._true: dict[int, list[Word]] = {}

    def prepare(self, number: int, picture: Pixels) -> Pixels:
        """The picture with words on it. The first time it finds out which of them can be read at all."""
        signed, words = put_words(picture, self._seed * 1_000_003 + number)
        if number not in self._true:
            self._true[number] = list(self._read(words, [look_at(signed)]))
        return signed

    def measure(self, figures: Figures, number: int, views: Sequence[View], geometry: Geometry) -> None:
        """Which of the words somebody reads."""
        true = self._true[number]
        read = set(self._read(true, crops_of(views, geometry))) if true else set()
        figures.add("words_read", number, [word in read for word in true])

    def _read(self, words: Sequence[Word], crops: Sequence[Crop]) -> Iterator[Word]:
        """Those of the words that are read where they are."""
        lines = [(found.box, self._reader.read(_cut(found))) for found in self._lines(crops)]
        for word in words:
            if any(_touch(word.box, box, 0) and word.text in text.upper() for box, text in lines):
                yield word

    def _lines(self, crops: Sequence[Crop]) -> Iterator[Found]:
        for sheet in sheets_of(crops):
            for box in self._text.find(sheet.pixels):
                if found := sheet.found(box):
                    yield found


def _cut(found: Found) -> Pixels:
    """What a box shows of its crop, at least one pixel."""
    rows, cols = found.crop.pixels.shape[:2]
    left, top, right, bottom = (round(side) for side in found.in_crop)
    left, top = min(max(0, left), cols - 1), min(max(0, top), rows - 1)
    return found.crop.pixels[top : max(top + 1, bottom), left : max(left + 1, right)]
