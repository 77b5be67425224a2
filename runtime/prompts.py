"""What to segment: objects given by boxes and points in frame coordinates.

A prompts file is JSON:

    {"objects": [{"name": "cup", "box": [x0, y0, x1, y1], "points": [[x, y, 1], [x, y, 0]], "from_frame": 0}]}

Label 1 is foreground, 0 background. `name` defaults to the object's number, `from_frame` to 0; an entry with
the name of an earlier one replaces its prompt from that frame on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.canvas import Canvas
from stages.errors import InputError
from stages.plans import POINTS
from stages.tensors import Array

_KEYS = {"name", "box", "points", "from_frame"}
_FARTHEST_PX = 1e6
MOST_POINTS = POINTS[-1] - 2  # what engines take of an object, less the corners of its box


@dataclass(frozen=True)
class Prompt:
    """One object. `box_xyxy` and `points` (x, y, label) are frame pixels."""

    name: str
    box_xyxy: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float, int], ...] = ()
    from_frame: int = 0

    def __post_init__(self) -> None:
        if self.box_xyxy is None and not self.points:
            raise InputError(f"object {self.name} has neither a box nor a point; give one of them")
        if len(self.points) > MOST_POINTS:
            raise InputError(
                f"object {self.name} has {len(self.points)} points; {MOST_POINTS} are the most, give fewer"
            )
        numbers = [*(self.box_xyxy or ()), *(value for point in self.points for value in point)]
        if not all(abs(number) <= _FARTHEST_PX for number in numbers):  # nor is NaN
            raise InputError(f"object {self.name} has a coordinate that lies in no picture")
        if any(label not in (0, 1) for _, _, label in self.points):
            raise InputError(f"object {self.name} has a point whose label is neither 0 (background) nor 1")
        if self.box_xyxy is not None:
            x0, y0, x1, y1 = self.box_xyxy
            if x0 >= x1 or y0 >= y1:
                raise InputError(
                    f"the box of object {self.name} is empty: give left, top, right, bottom, with left < "
                    "right and top < bottom"
                )

    @property
    def single_point(self) -> bool:
        """One point alone is ambiguous: SAM then offers three masks."""
        return self.box_xyxy is None and len(self.points) == 1

    @property
    def tokens(self) -> int:
        """k: prompt tokens the decoder takes for this object."""
        return len(self.points) + (1 if self.box_xyxy is None else 2)

    def check_inside(self, height: int, width: int) -> None:
        """Raise InputError when a point or the whole box lies outside a frame of this size."""
        frame = f"the frame of {width} x {height} pixels"
        for x, y, _ in self.points:
            if not (0 <= x < width and 0 <= y < height):
                raise InputError(f"point {x:g},{y:g} of object {self.name} lies outside {frame}")
        if self.box_xyxy is not None:
            x0, y0, x1, y1 = self.box_xyxy
            if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
                raise InputError(f"the box of object {self.name} lies outside {frame}")

    def decoder_tokens(self, canvas: Canvas) -> tuple[Array, Array]:
        """point_coords float32 [k, 2] and point_labels float32 [k] for the decoder stage.

        Points come first, then either the box's corners (labels 2 and 3) or one "no point" (label -1), as
        segment_anything's PromptEncoder orders them.
        """
        points = [(x, y) for x, y, _ in self.points]
        labels = [label for _, _, label in self.points]
        if self.box_xyxy is not None:
            x0, y0, x1, y1 = self.box_xyxy
            coords = canvas.to_canvas_xy([*points, (x0, y0), (x1, y1)])
            labels += [2, 3]
        else:
            coords = np.concatenate([canvas.to_canvas_xy(points), np.zeros((1, 2), np.float32)])
            labels += [-1]
        return coords, np.array(labels, np.float32)


@dataclass(frozen=True)
class Prompts:
    """All objects of a run, in the order they were given."""

    entries: tuple[Prompt, ...]

    def at(self, frame: int) -> tuple[Prompt, ...]:
        """The prompts in force at a frame, one an object."""
        active: dict[str, Prompt] = {}
        for prompt in sorted(self.entries, key=lambda entry: entry.from_frame):
            if prompt.from_frame <= frame:
                active[prompt.name] = prompt
        return tuple(active.values())

    def check_inside(self, sizes: Iterable[tuple[int, int]]) -> None:
        for height, width in sizes:
            for prompt in self.entries:
                prompt.check_inside(height, width)


def read_prompts(
    boxes: Sequence[Sequence[float]],
    points: Sequence[Sequence[float]],
    path: Path | None,
    required: bool = True,
) -> Prompts:
    """Prompts from the command line, each starting an object, then those of a file.

    If they are not `required`, there may be none and the file need not exist. Raises InputError in one
    sentence for whatever is wrong.
    """
    entries = [Prompt(str(i), (b[0], b[1], b[2], b[3])) for i, b in enumerate(boxes, 1)]
    entries += [Prompt(str(i), None, ((p[0], p[1], 1),)) for i, p in enumerate(points, len(entries) + 1)]
    if path is not None and (required or path.exists()):
        entries += _read_file(path, len(entries) + 1)
    if not entries and required:
        raise InputError("nothing to segment: give --box x0,y0,x1,y1, --point x,y or --prompts FILE")
    _check_once(entries)
    return Prompts(tuple(entries))


def write_prompts(path: Path, prompts: Prompts) -> None:
    """Replace a prompts file as a whole. Blocks. Raises InputError when it cannot be written."""
    temporary = path.with_name(path.name + ".tmp")
    data = {"objects": [_entry(prompt) for prompt in prompts.entries]}
    try:
        temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as exc:
        raise InputError(f"prompts file {path} cannot be written ({exc.strerror})") from exc


def _entry(prompt: Prompt) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": prompt.name, "from_frame": prompt.from_frame}
    if prompt.box_xyxy is not None:
        entry["box"] = [round(value, 2) for value in prompt.box_xyxy]
    if prompt.points:
        entry["points"] = [[x, y, label] for x, y, label in prompt.points]
    return entry


def _check_once(entries: Iterable[Prompt]) -> None:
    seen: set[tuple[str, int]] = set()
    for prompt in entries:
        if (prompt.name, prompt.from_frame) in seen:
            raise InputError(
                f"object {prompt.name} is given twice from frame {prompt.from_frame} on; give each object "
                "its own name"
            )
        seen.add((prompt.name, prompt.from_frame))


def _read_file(path: Path, first_number: int) -> list[Prompt]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise InputError(f"prompts file {path} cannot be read: {exc}") from exc
    objects = data.get("objects") if isinstance(data, dict) else None
    if not isinstance(objects, list) or not all(isinstance(entry, dict) for entry in objects):
        raise InputError(f'prompts file {path} must hold {{"objects": [{{...}}, ...]}}')
    try:
        return [_prompt(entry, str(number)) for number, entry in enumerate(objects, first_number)]
    except InputError as exc:
        raise InputError(f"prompts file {path}: {exc}") from exc


def _prompt(entry: Mapping[str, Any], default_name: str) -> Prompt:
    if unknown := sorted(set(entry) - _KEYS):
        raise InputError(
            f"an object has the unknown key {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}"
        )
    name = entry.get("name", default_name)
    if not isinstance(name, str) or not name:
        raise InputError(f"an object has the name {name!r:.80}, expected text")
    box, points, start = entry.get("box"), entry.get("points", []), entry.get("from_frame", 0)
    if box is not None and not _numbers(box, 4):
        raise InputError(f"the box of object {name} is not [left, top, right, bottom] in numbers")
    if not isinstance(points, list) or not all(_numbers(point, 3) for point in points):
        raise InputError(f"the points of object {name} are not a list of [x, y, label]")
    if type(start) is not int or start < 0:
        raise InputError(f"from_frame of object {name} is not a frame number")
    return Prompt(
        name,
        (box[0], box[1], box[2], box[3]) if box is not None else None,
        tuple((x, y, label) for x, y, label in points),
        start,
    )


def _numbers(value: object, count: int) -> bool:
    return (
        isinstance(value, list) and len(value) == count and all(type(item) in (int, float) for item in value)
    )
