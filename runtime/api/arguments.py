"""What callers give, checked and brought into the form that the edge works on: frames, prompts, sizes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from media.pictures import read_picture
from runtime.api.errors import ArgumentError
from runtime.frames.boxes import BoxXyxy
from runtime.objects.prompts import Prompt, Prompts, entries_in, parse_objects, read_prompts
from stages.errors import InputError
from stages.tensors import Pixels

# A frame: RGB (or BGR, where that is said) uint8 [H, W, 3]; a Pillow image; the path of a picture.
Frame: TypeAlias = npt.NDArray[np.uint8] | Image.Image | str | os.PathLike[str]
ImageFormat: TypeAlias = Literal["RGB", "BGR"]
# Objects as in the file of `pedsam run --prompts`: that file, what it holds, or its entries.
PromptEntries: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | Sequence[Mapping[str, Any]]
Size: TypeAlias = tuple[int, int]  # height, width
Points: TypeAlias = tuple[tuple[float, float, int], ...]  # x, y, label
Asked: TypeAlias = tuple[BoxXyxy | None, Points]

_EXPECTED = "expected uint8 [height, width, 3], 0 to 255"
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"})


def pixels_of(frame: Frame, image_format: str = "RGB") -> Pixels:
    """RGB uint8 [H, W, 3] of a frame; an array in RGB is not copied. Blocks for a path.

    Raises ArgumentError for what is no frame, InputError for a file that cannot be read.
    """
    if image_format not in ("RGB", "BGR"):
        raise ArgumentError(f'image_format is {image_format!r}, expected "RGB", or "BGR" as OpenCV reads')
    if isinstance(frame, str | os.PathLike):
        return read_picture(Path(frame))
    if isinstance(frame, Image.Image):
        return _of_pillow(frame)
    pixels = _checked(frame)
    return pixels if image_format == "RGB" else np.ascontiguousarray(pixels[..., ::-1])


def _of_pillow(frame: Image.Image) -> Pixels:
    if frame.mode not in _MODES:
        raise ArgumentError(
            f"the frame is a Pillow image of mode {frame.mode}, expected one of 8 bits a channel: save it "
            "and give its path, which scales it"
        )
    try:
        return np.asarray(frame.convert("RGB"))
    except (AssertionError, OSError, SyntaxError, ValueError) as exc:  # it is read from its file only now
        raise ArgumentError(
            f"the frame is a Pillow image that cannot be read ({exc}): give it before it is closed, whole"
        ) from exc


def _checked(frame: object) -> Pixels:
    if not isinstance(frame, np.ndarray):
        raise ArgumentError(
            f"a frame is a {type(frame).__name__}, expected a numpy array, a Pillow image or the path of a "
            "picture"
        )
    if frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise ArgumentError(f"a frame has the shape {list(frame.shape)}, {_EXPECTED}{_of_shape(frame.shape)}")
    if frame.dtype != np.uint8:
        advice = (
            "" if frame.dtype.kind != "f" else ": of values 0 to 1, (frame * 255).round().astype(np.uint8)"
        )
        raise ArgumentError(f"a frame is {frame.dtype}, {_EXPECTED}{advice}")
    return frame


def _of_shape(shape: tuple[int, ...]) -> str:
    """What to do about a shape that is often met."""
    if len(shape) == 2:
        return ": of grey, np.stack([frame] * 3, axis=-1)"
    if len(shape) == 3 and shape[2] == 4:
        return ": without alpha, frame[..., :3]"
    if len(shape) == 3 and shape[0] == 3:
        return ": of channels first, frame.transpose(1, 2, 0)"
    return ": one frame a call" if len(shape) == 4 else ""


def prompts_of(boxes: npt.ArrayLike | None, points: Any, labels: Any) -> list[Prompt]:
    """One prompt an object, named "1", "2" and so on; Session.segment says what is given.

    Raises ArgumentError for other shapes, and for numbers that are no coordinates.
    """
    given = objects_asked(boxes, points, labels)
    _check_not_one_object(given)
    try:
        return [Prompt(str(number), box, points) for number, (box, points) in enumerate(given, 1)]
    except InputError as exc:
        raise ArgumentError(str(exc)) from exc


def objects_asked(boxes: npt.ArrayLike | None, points: Any, labels: Any) -> list[Asked]:
    """The box and the points of each object, as `prompts_of` takes them; none are judged but by their shape.

    Raises ArgumentError for other shapes.
    """
    of_boxes = None if boxes is None else _boxes(boxes)
    of_points = None if points is None else _points(points, labels)
    if of_boxes is None and of_points is None:
        raise ArgumentError("nothing to segment: give boxes, points, or both")
    if labels is not None and of_points is None:
        raise ArgumentError("labels are given without points, which they are of")
    if of_boxes is not None and of_points is not None and len(of_boxes) != len(of_points):
        raise ArgumentError(
            f"there are {len(of_boxes)} boxes and points of {len(of_points)} objects; give each one of both"
        )
    count = len(of_boxes if of_boxes is not None else of_points or ())
    none: list[None] = [None] * count
    return [(box, points or ()) for box, points in zip(of_boxes or none, of_points or none, strict=True)]


def _check_not_one_object(given: Sequence[Asked]) -> None:
    """Raise ArgumentError where points are probably those of one object, as SamPredictor takes them."""
    if len(given) > 1 and all(box is None and len(points) == 1 for box, points in given):
        for number, (_, ((_, _, label),)) in enumerate(given, 1):
            if not label:
                raise ArgumentError(
                    f"object {number} is a background point alone (label 0): [N, 2] is a point each of N "
                    "objects, and one object of several points is points=[[[x, y], [x, y]]], labels=[[1, 0]]"
                )


def check_inside(prompts: Iterable[Prompt], height: int, width: int) -> None:
    """Raise ArgumentError when a point or a whole box lies outside a frame of this size."""
    try:
        for prompt in prompts:
            prompt.check_inside(height, width)
    except InputError as exc:
        raise ArgumentError(str(exc)) from exc


def _boxes(boxes: npt.ArrayLike) -> list[BoxXyxy]:
    array = _rows(boxes, "boxes", 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ArgumentError(
            f"boxes have the shape {list(array.shape)}, expected [N, 4] or [4]: left, top, right, bottom"
        )
    return [(left, top, right, bottom) for left, top, right, bottom in array.tolist()]


def _points(points: Any, labels: Any) -> list[Points]:
    groups = _groups(points)
    marks = [np.ones(len(group)) for group in groups] if labels is None else _labels(labels, groups)
    for group, mark in zip(groups, marks, strict=True):
        if len(group) != len(mark):
            raise ArgumentError(f"an object has {len(group)} points and {len(mark)} labels; give one a point")
        if not np.isin(mark, (0, 1)).all():
            raise ArgumentError("labels are 1 for what belongs to an object and 0 for what does not")
    return [
        tuple((x, y, int(label)) for (x, y), label in zip(group.tolist(), mark, strict=True))
        for group, mark in zip(groups, marks, strict=True)
    ]


def _groups(points: Any) -> list[npt.NDArray[np.float64]]:
    """The points of each object, [P, 2] each, of [2], [N, 2], [N, P, 2] or a list of [P, 2]."""
    if _is_ragged(points):
        groups = [_numbers(group, "points") for group in points]
    else:
        array = _rows(points, "points", 2)
        groups = list(array[:, None] if array.ndim == 2 else array)
    if not all(group.ndim == 2 and group.shape[1] == 2 and len(group) for group in groups):
        raise ArgumentError(
            "points are x, y each: expected [N, 2], one for each of N objects, or [N, P, 2], P for each"
        )
    return groups


def _labels(labels: Any, groups: Sequence[npt.NDArray[np.float64]]) -> list[npt.NDArray[np.float64]]:
    """Of each object, [P] each, of what the points have without its last axis."""
    if _is_ragged(labels):
        marks = [_numbers(each, "labels") for each in labels]
    else:
        array = _numbers(labels, "labels")
        array = array[None] if array.ndim == 0 else array
        marks = list(array[:, None] if array.ndim == 1 else array)
    if len(marks) != len(groups) or not all(mark.ndim == 1 for mark in marks):
        raise ArgumentError(
            f"there are labels of {len(marks)} objects and points of {len(groups)}: expected labels like the "
            "points, without x and y"
        )
    return marks


def _is_ragged(values: Any) -> bool:
    """Whether these are lists of different lengths, one an object."""
    if not isinstance(values, list | tuple):
        return False
    return len({np.shape(each)[:1] for each in values if _has_shape(each)}) > 1


def _has_shape(value: Any) -> bool:
    try:
        np.shape(value)
    except ValueError:
        return False
    return True


def _rows(values: Any, what: str, width: int) -> npt.NDArray[np.float64]:
    """An array of at least two axes: of one row where it is flat, of none where it is an empty list."""
    array = _numbers(values, what)
    if array.shape == (0,):
        return array.reshape(0, width)
    return array[None] if array.ndim == 1 else array


def _numbers(values: Any, what: str) -> npt.NDArray[np.float64]:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as exc:
        raise ArgumentError(f"{what} are no array of numbers ({exc})") from exc


def objects_of(prompts: PromptEntries) -> Prompts:
    """Objects to follow, of a prompts file, of what it holds, or of its entries. Raises InputError as
    `pedsam run` does."""
    if isinstance(prompts, str | os.PathLike):
        return read_prompts((), (), Path(prompts))
    if isinstance(prompts, Mapping):
        prompts = _entries_in(prompts)
    try:
        entries = [_entry(entry) for entry in prompts]
    except (TypeError, ValueError, AttributeError) as exc:
        raise ArgumentError(
            'prompts are not entries like {"name": "cup", "box": [x0, y0, x1, y1], "points": [[x, y, 1]]} '
            f"({exc})"
        ) from exc
    parsed = parse_objects(entries, 1)
    names = [(prompt.name, prompt.from_frame) for prompt in parsed]
    if repeated := next((name for name, start in names if names.count((name, start)) > 1), None):
        raise ArgumentError(f"object {repeated} is given twice; give each object its own name")
    return Prompts(tuple(parsed))


def _entries_in(prompts: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    try:
        return entries_in(dict(prompts), 1)
    except InputError as exc:
        raise ArgumentError(f"prompts are no list of entries, nor what a file of them holds: {exc}") from exc


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry as JSON would hold it: lists of plain numbers in place of arrays."""
    plain = dict(entry.items())
    for key in ("box", "points"):
        if plain.get(key) is not None:
            plain[key] = np.asarray(plain[key], object).tolist()
    if isinstance(plain.get("from_frame"), np.integer):
        plain["from_frame"] = int(plain["from_frame"])
    return plain


def sizes_of(sizes: Iterable[Sequence[int]]) -> frozenset[Size]:
    """(height, width) of each kind of frame. Raises ArgumentError."""
    try:
        found = frozenset((int(height), int(width)) for height, width in sizes)
    except (TypeError, ValueError) as exc:
        raise ArgumentError(
            f"sizes are not [(height, width), ...] of the frames to come, as [frame.shape[:2]] ({exc})"
        ) from exc
    if not all(height > 0 and width > 0 for height, width in found):
        raise ArgumentError("sizes are heights and widths in pixels, at least 1 each")
    return found
