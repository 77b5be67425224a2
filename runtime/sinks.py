"""Where results go: overlay pictures or an overlay video, and masks as COCO RLE lines.

All of it blocks: use a thread.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from runtime.live import ShownObject
from runtime.prompts import Prompt
from runtime.sources import Frame
from stages.errors import InputError

Mask = npt.NDArray[np.bool_]

# Okabe and Ito's colour-blind safe palette, RGB.
PALETTE = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


@dataclass(frozen=True)
class ResultObject:
    """An object on a frame, and what the decoder was asked to find it; None while it is lost."""

    shown: ShownObject
    prompt: Prompt | None


@dataclass(frozen=True)
class Result:
    """A finished frame with its objects."""

    frame: Frame
    objects: tuple[ResultObject, ...]


class Sink(ABC):
    """Takes results in the order of their frames."""

    @abstractmethod
    def write(self, result: Result) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Complete the files; called once, also after a failure."""


_CANNOT_WRITE = "cannot write {}; check the space and rights of --out"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system refuses inside the block into one sentence about `path`."""
    try:
        yield
    except OSError as exc:
        raise InputError(f"{_CANNOT_WRITE.format(path)} ({exc.strerror})") from exc


class MaskLines(Sink):
    """`masks.jsonl`: one JSON object a frame and object, its mask as COCO run-length encoding.

    `state` is "tracked", "carried" (moved along by optical flow, not computed) or "lost", without a mask.
    """

    def __init__(self, path: Path, weights: str) -> None:
        self._weights = weights
        self._path = path
        with writing(path):
            self._file = path.open("w")

    def write(self, result: Result) -> None:
        lines = [json.dumps(self._line(result.frame, each.shown)) + "\n" for each in result.objects]
        with writing(self._path):
            self._file.writelines(lines)
            self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _line(self, frame: Frame, shown: ShownObject) -> dict[str, Any]:
        rle = encode_mask(shown.mask) if shown.mask is not None else None
        return {
            "frame": frame.number,
            "source": frame.name,
            "time_s": round(frame.time_s, 4),
            "object": shown.name,
            "state": shown.state,
            "segmentation": rle,
            "bbox": [float(value) for value in coco.toBbox(rle)] if rle else None,
            "area": int(coco.area(rle)) if rle else 0,
            "predicted_iou": round(shown.iou, 4),
            "weights": self._weights,
        }


class OverlayPictures(Sink):
    """`overlay/NAME.jpg` a frame."""

    def __init__(self, folder: Path, banner: str | None) -> None:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._banner = banner

    def write(self, result: Result) -> None:
        path = self._folder / f"{result.frame.name}.jpg"
        if not cv2.imwrite(str(path), draw_overlay(result, self._banner)[..., ::-1]):
            raise InputError(_CANNOT_WRITE.format(path))

    def close(self) -> None:
        pass


class OverlayVideo(Sink):
    """`overlay.mp4` (MPEG-4 part 2, which every OpenCV build can write)."""

    def __init__(self, path: Path, fps: float, banner: str | None) -> None:
        self._path = path
        self._fps = fps
        self._banner = banner
        self._writer: cv2.VideoWriter | None = None

    def write(self, result: Result) -> None:
        overlay = draw_overlay(result, self._banner)
        if self._writer is None:
            size = (overlay.shape[1], overlay.shape[0])
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._path), fourcc, self._fps, size)
            if not self._writer.isOpened():
                raise InputError(_CANNOT_WRITE.format(self._path))
        self._writer.write(np.ascontiguousarray(overlay[..., ::-1]))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()


def encode_mask(mask: Mask) -> dict[str, Any]:
    """COCO run-length encoding with text counts, as JSON holds it."""
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def decode_mask(rle: dict[str, Any]) -> Mask:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools 2.0.11 under NumPy 2
        decoded: Mask = coco.decode(rle).astype(bool)
    return decoded


def banner_for(weights: str) -> str | None:
    """What every overlay must say about weights that do not segment, or None."""
    return None if weights == "distilled" else f"{weights} weights: masks are not meaningful"


def draw_overlay(result: Result, banner: str | None) -> npt.NDArray[np.uint8]:
    """The frame with masks tinted and outlined, prompts drawn in, RGB uint8 [H, W, 3].

    A carried mask is outlined only, a lost object is named at the lower edge.
    """
    picture: npt.NDArray[np.uint8] = result.frame.pixels.copy()
    line = max(1, round(max(picture.shape) / 500))
    for each in result.objects:
        colour = PALETTE[each.shown.colour % len(PALETTE)]
        if each.shown.mask is not None:
            _draw_mask(picture, each.shown.mask, colour, line, tinted=each.shown.state != "carried")
        if each.prompt is not None:
            _draw_prompt(picture, each.prompt, colour, line)
    if lost := [each.shown.name for each in result.objects if each.shown.state == "lost"]:
        _draw_text(picture, f"lost: {', '.join(lost)}", picture.shape[0] - 4 * line, line)
    if banner:
        _draw_banner(picture, banner, line)
    return picture


def _draw_mask(
    picture: npt.NDArray[np.uint8], mask: Mask, colour: tuple[int, int, int], line: int, tinted: bool
) -> None:
    if tinted:
        picture[mask] = (0.55 * picture[mask] + 0.45 * np.array(colour, np.float32)).astype(np.uint8)
    outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outline, -1, colour, line)


def _draw_prompt(
    picture: npt.NDArray[np.uint8], prompt: Prompt, colour: tuple[int, int, int], line: int
) -> None:
    if prompt.box_xyxy is not None:
        x0, y0, x1, y1 = (round(value) for value in prompt.box_xyxy)
        cv2.rectangle(picture, (x0, y0), (x1, y1), colour, line)
    for x, y, label in prompt.points:
        cv2.circle(picture, (round(x), round(y)), 4 * line, colour if label else (0, 0, 0), -1)
        cv2.circle(picture, (round(x), round(y)), 4 * line, (255, 255, 255), line)


def _draw_banner(picture: npt.NDArray[np.uint8], text: str, line: int) -> None:
    (_, height), baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * line, line)
    picture[: height + 2 * baseline + 2] //= 3
    _draw_text(picture, text, height + baseline, line)


def _draw_text(picture: npt.NDArray[np.uint8], text: str, bottom: int, line: int) -> None:
    """White letters with a dark edge, the lowest row of which is `bottom`."""
    for colour, width in (((0, 0, 0), 3 * line), ((255, 255, 255), line)):
        cv2.putText(picture, text, (4 * line, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.4 * line, colour, width)
