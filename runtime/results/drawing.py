"""Outlines and names that can be seen on any ground.

An outline has the object's colour between two light lines, and these between two dark ones: whatever the
picture is there, one of them differs from it. A name is light on dark beside a dot of that colour, and dark
on amber where its mask is to be checked. Each text is made into a picture once, then only laid over frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, TypeAlias
from unicodedata import combining, normalize

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from runtime.results.result import ObjectResult
from stages.tensors import Pixels

Rgb: TypeAlias = tuple[int, int, int]
Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom in pixels of the frame

DARK, LIGHT, AMBER = (13, 15, 18), (255, 255, 255), (255, 196, 84)
_OPAQUE = 200  # of 255: how much of what is below a name it hides
_SIDE_PER_LETTER = 72  # the frame's longest side in heights of a letter
_SMALLEST_PX = 11  # height of a letter
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf")


def draw_outline(picture: Pixels, outline: Sequence[npt.NDArray[Any]], colour: Rgb, line: int) -> None:
    """Closed lines around contours as cv2.findContours gives them. `line` is how wide the colour is, but for
    what OpenCV does not draw as it is: three pixels at least, and an odd number."""
    line, edge = max(3, line | 1), max(1, line // 3)
    for tone, width in ((DARK, line + 4 * edge), (LIGHT, line + 2 * edge), (colour, line)):
        cv2.drawContours(picture, outline, -1, tone, width)


def draw_names(picture: Pixels, objects: Iterable[tuple[ObjectResult, Box, Rgb]]) -> None:
    """The name of each object, with its box and colour, above its box, or lower where another name is."""
    taken: list[Box] = []
    size = max(_SMALLEST_PX, round(max(picture.shape) / _SIDE_PER_LETTER))
    for found, box, colour in objects:
        label = _label(text_of(found), size, colour, found.trust.check is not None)
        place = _place(label, box, picture.shape[:2], taken)
        taken.append(place)
        _lay_over(picture, label, place)


def text_of(found: ObjectResult) -> str:
    """What is written at an object: its name and, where it is to be checked, why."""
    return found.name if found.trust.check is None else f"{found.name}: check, {found.trust.check.value}"


def _place(label: Pixels, box: Box, shape: tuple[int, ...], taken: Sequence[Box]) -> Box:
    height, width = label.shape[:2]
    left = max(0, min((box[0] + box[2] - width) // 2, shape[1] - width))
    top = max(0, box[1] - height - 2)
    while any(_overlap((left, top, left + width, top + height), other) for other in taken):
        top += height // 2 + 1
    return left, top, left + width, top + height


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _lay_over(picture: Pixels, label: Pixels, place: Box) -> None:
    """Blend a label, RGBA, into the picture; what lies outside of that is left out."""
    left, top = place[:2]
    part = picture[top : place[3], left : place[2]]
    if not part.size:
        return
    label = label[: part.shape[0], : part.shape[1]]
    alpha = label[..., 3:].astype(np.uint16)
    part[:] = (label[..., :3] * alpha + part * (255 - alpha) + 127) // 255


def in_ascii(text: str) -> str:
    """A text without accents, and with "?" for every letter that is then none of ASCII's."""
    letters = (letter for letter in normalize("NFKD", text) if not combining(letter))
    return "".join(letter if letter.isascii() else "?" for letter in letters)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | None:
    """One of this machine's with more letters than ASCII's, which are all that Pillow's own font has."""
    for name in _FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, size)
    return None


@lru_cache(maxsize=512)
def _label(text: str, size: int, colour: Rgb, check: bool) -> Pixels:
    """A text in letters of `size` pixels, RGBA uint8 [H, W, 4]."""
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont | None = _font(size)
    if font is None:
        font, text = ImageFont.load_default(size), in_ascii(text)
    left, _, right, _ = font.getbbox(text)
    height, dot = round(1.6 * size), round(0.6 * size)
    width = round(right - left) + 2 * dot + round(1.2 * size)
    image = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle(
        (0, 0, width - 1, height - 1), height // 2, fill=(*(AMBER if check else DARK), _OPAQUE)
    )
    middle = height / 2
    draw.ellipse(
        (dot, middle - dot / 2, 2 * dot, middle + dot / 2),
        fill=(*colour, 255),
        outline=(*DARK, 255) if check else None,
    )
    draw.text((2.6 * dot, middle), text, fill=(*(DARK if check else LIGHT), 255), font=font, anchor="lm")
    label = np.asarray(image)
    label.setflags(write=False)
    return label
