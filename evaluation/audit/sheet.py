"""`sheet.png`: pictures, what the operator with most of each holds, and what attacks make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from evaluation.audit.attacks import Attack
from evaluation.audit.views import View
from evaluation.sheet import line
from media.pictures import write_picture
from stages.files import writing
from stages.tensors import Pixels

SHEET = "sheet.png"
CELL_PX = 320  # longest side of a picture
_GAP_PX = 6


@dataclass(frozen=True)
class Example:
    """A picture on its canvas, RGB uint8 [rows, cols, 3], and what an operator holds of it."""

    name: str
    picture: Pixels
    view: View
    setting: str
    code: str


def write_sheet(path: Path, examples: Sequence[Example], attacks: Mapping[str, Attack]) -> None:
    """A row for each example, with a line about it above. It blocks: use a thread."""
    rows = [row for example in examples for row in _rows(example, attacks)]
    with writing(path):
        write_picture(path, np.vstack(rows))


def _rows(example: Example, attacks: Mapping[str, Attack]) -> list[Pixels]:
    view = example.view
    made = (attack(view) for attack in attacks.values())
    cells = [_cell(picture) for picture in (example.picture, view.pixels, *made)]
    strip = np.hstack(cells)
    columns = ", ".join(["original", "held", *attacks])
    about = f"{example.setting}, {example.code}: {view.share:.0%} of the picture; {columns}"
    return [line(about, strip.shape[1]), strip]


def _cell(picture: Pixels) -> Pixels:
    scale = CELL_PX / max(picture.shape[:2])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    cell = np.zeros((CELL_PX + _GAP_PX, CELL_PX + _GAP_PX, 3), np.uint8)
    cell[: size[1], : size[0]] = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return cell[: size[1] + _GAP_PX]
