"""Where results go: overlay pictures or an overlay video, and masks as COCO RLE lines.

All of it but `closing_all` blocks: use a thread.
"""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from anyio import CancelScope, to_thread
from pycocotools import mask as coco

from media.pictures import write_picture
from media.video_writer import VideoWriter
from runtime.objects.masks import Mask, encode_mask
from runtime.objects.prompts import Prompt
from runtime.objects.tracking import TrackState
from runtime.results.doubts import Doubt
from runtime.results.drawing import DARK, LIGHT, draw_names, draw_outline
from runtime.results.result import FrameResult, ObjectResult
from stages.durable import DurableFile
from stages.errors import PedsamError
from stages.files import writing
from stages.strips import row_strips
from stages.text_files import escaped

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


class Sink(ABC):
    """Takes results in the order of their frames."""

    @abstractmethod
    def write(self, result: FrameResult) -> None: ...

    def doubt(self, doubt: Doubt) -> None:  # noqa: B027  (most have no place for it)
        """Take in that results which were written are in doubt."""

    @abstractmethod
    def close(self) -> None:
        """Complete the files; called once, also after a failure.

        What `write` has raised already is not raised again.
        """


@contextlib.asynccontextmanager
async def closing_all(sinks: Sequence[Sink]) -> AsyncIterator[None]:
    """Closes every sink with the block, in a thread and also when cancelled. Of several errors the first is
    raised: it says why."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(PedsamError), CancelScope(shield=True):
            await to_thread.run_sync(close_all, sinks)
        raise
    with CancelScope(shield=True):
        await to_thread.run_sync(close_all, sinks)


def close_all(sinks: Sequence[Sink]) -> None:
    """Close every sink, also after one that fails; raises the first error."""
    errors = []
    for sink in sinks:
        try:
            sink.close()
        except PedsamError as exc:
            errors.append(exc)
    if errors:
        raise errors[0]


class FromFirstResult(Sink):
    """Sinks that `make` makes when the first result comes: until then nothing is changed on the disk."""

    def __init__(self, make: Callable[[], Sequence[Sink]]) -> None:
        self._make = make
        self._sinks: Sequence[Sink] | None = None

    def write(self, result: FrameResult) -> None:
        if self._sinks is None:
            self._sinks = self._make()
        for sink in self._sinks:
            sink.write(result)

    def doubt(self, doubt: Doubt) -> None:
        for sink in self._sinks or ():
            sink.doubt(doubt)

    def close(self) -> None:
        close_all(self._sinks or ())


class MaskLines(Sink):
    """`masks.jsonl`: one JSON object a frame and object, its mask as COCO run-length encoding.

    `state` is "tracked", "carried" (moved along by optical flow, not computed) or "lost", without a mask;
    `confidence` and `check` are those of runtime.objects.trust. A line without "frame" names frames of lines
    before it that are in doubt (Doubt.to_json).
    """

    def __init__(self, path: Path, weights: str) -> None:
        self._weights = weights
        self._path = path
        with writing(path):
            self._file = DurableFile(path)

    def write(self, result: FrameResult) -> None:
        self._append(self._line(result, each) for each in result.objects)

    def doubt(self, doubt: Doubt) -> None:
        self._append([doubt.to_json()])

    def close(self) -> None:
        with writing(self._path):
            self._file.close()

    def _append(self, lines: Iterable[dict[str, Any]]) -> None:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        with writing(self._path):
            self._file.write(text.encode("ascii"))
            self._file.keep()

    def _line(self, result: FrameResult, found: ObjectResult) -> dict[str, Any]:
        frame = result.frame
        rle = encode_mask(found.mask) if found.mask is not None else None
        return {
            "frame": frame.number,
            "source": escaped(frame.name),
            "time_s": round(frame.time_s, 4),
            "object": escaped(found.name),
            "state": found.state.value,
            "segmentation": rle,
            "bbox": [float(value) for value in coco.toBbox(rle)] if rle else None,
            "area": int(coco.area(rle)) if rle else 0,
            "predicted_iou": round(found.iou, 4),
            **found.trust.to_json(),
            "weights": self._weights,
            "doubtful": result.doubtful,
        }


class OverlayPictures(Sink):
    """`overlay/NAME.jpg` a frame; `note` is called with its path before it is written."""

    def __init__(
        self, folder: Path, banner: str | None, note: Callable[[Path], None] = lambda path: None
    ) -> None:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._banner = banner
        self._note = note

    def write(self, result: FrameResult) -> None:
        path = self._folder / f"{result.frame.name}.jpg"
        self._note(path)
        overlay = draw_overlay(result, self._banner)
        with writing(path):
            write_picture(path, overlay)

    def close(self) -> None:
        pass


class OverlayVideo(Sink):
    """`overlay.mp4`, whose frames are shown when their sources were; `fps` is only used where times say
    nothing. `warn` gets a sentence where MP4 cannot hold them."""

    def __init__(
        self,
        path: Path,
        fps: float | None,
        banner: str | None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._banner = banner
        self._writer = VideoWriter(path, fps, warn)

    def write(self, result: FrameResult) -> None:
        self._writer.write(draw_overlay(result, self._banner), result.frame.time_s)

    def close(self) -> None:
        self._writer.close()


def banner_for(weights: str) -> str | None:
    """What every overlay must say about weights that do not segment, or None."""
    return None if weights == "distilled" else f"{weights} weights: masks are not meaningful"


def draw_overlay(result: FrameResult, banner: str | None) -> npt.NDArray[np.uint8]:
    """The frame with masks tinted, outlined and named, prompts drawn in, RGB uint8 [H, W, 3].

    A mask that was carried, or is to be checked, is outlined only; a lost object is named at the lower edge,
    and so is a doubt.
    """
    picture: npt.NDArray[np.uint8] = result.frame.pixels.copy()
    line = max(1, round(max(picture.shape) / 500))
    named = []
    for each in result.objects:
        colour = PALETTE[each.colour % len(PALETTE)]
        if each.mask is not None and each.mask.any():
            tinted = each.state is not TrackState.CARRIED and each.trust.check is None
            box = _draw_mask(picture, each.mask, colour, line, tinted)
            named.append((each, box, colour))
        if each.prompt is not None:
            _draw_prompt(picture, each.prompt, colour, line)
    draw_names(picture, named)
    lost = [each.name for each in result.objects if each.state is TrackState.LOST]
    said = [f"lost: {', '.join(lost)}"] if lost else []
    if result.doubtful:
        said.append("doubtful: a site lied")
    if said:
        _draw_text(picture, "; ".join(said), picture.shape[0] - 4 * line, line)
    if banner:
        _draw_banner(picture, banner, line)
    return picture


def _draw_mask(
    picture: npt.NDArray[np.uint8], mask: Mask, colour: tuple[int, int, int], line: int, tinted: bool
) -> tuple[int, int, int, int]:
    """Returns left, top, right and bottom of what it has drawn."""
    if tinted:
        _tint(picture, mask, colour)
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    part = np.ascontiguousarray(mask[top : top + height, left : left + width])
    outline, _ = cv2.findContours(
        part.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(left, top)
    )
    draw_outline(picture, outline, colour, line)
    return left, top, left + width, top + height


def _tint(picture: npt.NDArray[np.uint8], mask: Mask, colour: tuple[int, int, int]) -> None:
    values = np.arange(256, dtype=np.float32)[:, None]
    tinted = (0.55 * values + 0.45 * np.array(colour, np.float32)).astype(np.uint8)[:, None]  # [256, 1, 3]
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    for rows in row_strips(height, max(1, width)):
        part = slice(top + rows.start, top + rows.stop), slice(left, left + width)
        cv2.copyTo(cv2.LUT(picture[part], tinted), mask[part].view(np.uint8), picture[part])


def _draw_prompt(
    picture: npt.NDArray[np.uint8], prompt: Prompt, colour: tuple[int, int, int], line: int
) -> None:
    if prompt.box_xyxy is not None:
        x0, y0, x1, y1 = (round(value) for value in prompt.box_xyxy)
        corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.int32)[:, None]
        draw_outline(picture, [corners], colour, line)
    for x, y, label in prompt.points:
        cv2.circle(picture, (round(x), round(y)), 6 * line, DARK, -1)
        cv2.circle(picture, (round(x), round(y)), 5 * line, LIGHT, -1)
        cv2.circle(picture, (round(x), round(y)), 4 * line, colour if label else DARK, -1)


def _draw_banner(picture: npt.NDArray[np.uint8], text: str, line: int) -> None:
    (_, height), baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * line, line)
    picture[: height + 2 * baseline + 2] //= 3
    _draw_text(picture, text, height + baseline, line)


def _draw_text(picture: npt.NDArray[np.uint8], text: str, bottom: int, line: int) -> None:
    """White letters with a dark edge, the lowest row of which is `bottom`."""
    for colour, width in (((0, 0, 0), 3 * line), ((255, 255, 255), line)):
        cv2.putText(picture, text, (4 * line, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.4 * line, colour, width)
