"""What to segment: objects given by boxes and points in frame coordinates.

A prompts file is JSON:

    {"objects": [{"name": "cup", "box": [x0, y0, x1, y1], "points": [[x, y, 1], [x, y, 0]], "from_frame": 0}]}

Label 1 is foreground, 0 background; an object has a box or a foreground point. `name` defaults to the
object's number, `from_frame` to 0; an entry with the name of an earlier one replaces its prompt from that
frame on. One point alone may say with "mask": 1, 2 or 3 which of the decoder's masks is meant, in place of
the one that it rates best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from runtime.frames.boxes import (
    check_finite,
    check_not_empty,
    check_touches,
    frame_in_words,
    within_one_pixel,
)
from runtime.frames.canvas import Canvas
from stages.engines.plans import POINTS
from stages.errors import InputError
from stages.json_values import brief
from stages.tensors import Array
from stages.text_files import read_json

_KEYS = {"name", "box", "points", "from_frame", "mask"}
MASKS = (1, 2, 3)  # of the decoder's for one point alone, by their place in its output
NOTHING_TO_SEGMENT = "nothing to segment: give --box x0,y0,x1,y1, --point x,y or --prompts FILE"
_EXPECTED = 'expected {"objects": [{...}, ...]}'
MAX_POINTS = POINTS[-1] - 2  # what engines take of an object, less the corners of its box


@dataclass(frozen=True)
class Prompt:
    """One object. `box_xyxy` and `points` (x, y, label) are frame pixels.

    `asked` is what a person asked for where this stands for it: an object of an earlier run. `mask` is which
    of the MASKS of one point alone is meant; None for the one that the decoder rates best.
    """

    name: str
    box_xyxy: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float, int], ...] = ()
    from_frame: int = 0
    asked: Prompt | None = None
    mask: int | None = None

    def __post_init__(self) -> None:
        if self.box_xyxy is None and not self.points:
            raise InputError(f"object {self.name} has neither a box nor a point; give one of them")
        if len(self.points) > MAX_POINTS:
            raise InputError(
                f"object {self.name} has {len(self.points)} points; {MAX_POINTS} are the most, give fewer"
            )
        numbers = [*(self.box_xyxy or ()), *(value for point in self.points for value in point)]
        check_finite(f"object {self.name}", numbers)
        if any(label not in (0, 1) for _, _, label in self.points):
            raise InputError(f"object {self.name} has a point whose label is neither 0 (background) nor 1")
        if self.box_xyxy is None and not any(label for _, _, label in self.points):
            raise InputError(
                f"object {self.name} has only background points (label 0): add a point on it (label 1), or a "
                "box"
            )
        if self.box_xyxy is not None:
            check_not_empty(f"the box of object {self.name}", self.box_xyxy)
        if self.mask is not None and not (self.single_point and self.mask in MASKS):
            raise InputError(
                f"object {self.name} has the mask {brief(self.mask)}: of one point alone, without a box, it "
                "may be 1, 2 or 3"
            )

    @property
    def single_point(self) -> bool:
        """One point alone is ambiguous: SAM then offers three masks."""
        return self.box_xyxy is None and len(self.points) == 1

    @property
    def tokens(self) -> int:
        """k: prompt tokens the decoder takes for this object."""
        return len(self.points) + (1 if self.box_xyxy is None else 2)

    def doubt(self) -> str | None:
        """A sentence about coordinates that are hardly pixels of the frame; None where they may be."""
        numbers = [*(self.box_xyxy or ()), *(value for x, y, _ in self.points for value in (x, y))]
        given = f"object {self.name} ({','.join(f'{number:g}' for number in numbers)})"
        corners = self.box_xyxy is None and all(number in (0, 1) for number in numbers)
        if all(0 <= number <= 1 for number in numbers) and not corners:
            return within_one_pixel(f"{'each point' if self.box_xyxy is None else 'the box'} of {given}")
        if self.box_xyxy is not None:
            x0, y0, x1, y1 = self.box_xyxy
            if x1 - x0 <= 1 and y1 - y0 <= 1:
                return f"the box of {given} is one pixel: give left, top, right and bottom in pixels"
        return None

    def check_inside(self, height: int, width: int, picture: str | None = None) -> None:
        """Raise InputError when a point or the whole box lies outside a frame of this size, of `picture`."""
        for x, y, _ in self.points:
            if not (0 <= x < width and 0 <= y < height):
                frame = frame_in_words(height, width, picture)
                raise InputError(f"point {x:g},{y:g} of object {self.name} lies outside {frame}")
        if self.box_xyxy is not None:
            check_touches(f"the box of object {self.name}", self.box_xyxy, height, width, picture)

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
class PromptRequest:
    """What a viewer asks to be segmented, in pixels of the frame `number` on which it was drawn.

    `name` None starts an object, which gets the name `new_name`, or a free one; the name of an object adds
    the points to its own and replaces its box.
    """

    number: int
    name: str | None = None
    points: tuple[tuple[float, float, int], ...] = ()
    box_xyxy: tuple[float, float, float, float] | None = None
    new_name: str | None = None


@dataclass(frozen=True)
class Prompts:
    """All objects of a run, in the order they were given."""

    entries: tuple[Prompt, ...]

    def at(self, frame: int) -> tuple[Prompt, ...]:
        """The prompts that hold at a frame, one an object."""
        active: dict[str, Prompt] = {}
        for prompt in sorted(self.entries, key=lambda entry: entry.from_frame):
            if prompt.from_frame <= frame:
                active[prompt.name] = prompt
        return tuple(active.values())

    def inside(
        self,
        sizes: Iterable[tuple[int, int]],
        say: Callable[[str], None],
        pictures: Mapping[tuple[int, int], str] = MappingProxyType({}),
    ) -> Prompts:
        """These, without objects of an earlier run that lie outside frames of (height, width), which is said.

        `pictures` names a picture of a size. Raises InputError for what a person asks for and lies outside.
        """
        sizes, kept = tuple(sizes), []
        for prompt in self.entries:
            try:
                for height, width in sizes:
                    prompt.check_inside(height, width, pictures.get((height, width)))
                kept.append(prompt)
            except InputError as exc:
                if prompt.asked is None:
                    raise
                say(f"object {prompt.name} of the last run is left out: {exc}")
        return Prompts(tuple(kept))

    def doubts(self) -> Iterator[str]:
        """What is probably not meant so, in a sentence each."""
        for prompt in self.entries:
            if doubt := prompt.doubt():
                yield doubt


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
        raise InputError(NOTHING_TO_SEGMENT)
    _check_once(entries)
    return Prompts(tuple(entries))


def entry_of(prompt: Prompt) -> dict[str, Any]:
    """The entry of a prompts file that asks for this."""
    entry: dict[str, Any] = {"name": prompt.name, "from_frame": prompt.from_frame}
    if prompt.box_xyxy is not None:
        entry["box"] = list(prompt.box_xyxy)
    if prompt.points:
        entry["points"] = [list(point) for point in prompt.points]
    if prompt.mask is not None:
        entry["mask"] = prompt.mask
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
    data = read_json(path, "prompts file")
    try:
        return parse_objects(entries_in(data, first_number), first_number)
    except InputError as exc:
        raise InputError(f"prompts file {path}: {exc}") from exc


def entries_in(data: Any, first_number: int) -> list[Any]:
    """The entries in what a prompts file holds. Raises InputError for anything else."""
    if not isinstance(data, dict):
        raise InputError(f"it holds {_kind_of(data)}, {_EXPECTED}")
    if unknown := sorted(set(data) - {"objects"}):
        raise InputError(f"it has the unknown key {brief(unknown[0])}, {_EXPECTED}")
    if "objects" not in data:
        raise InputError(f'it has no "objects", {_EXPECTED}')
    objects = data["objects"]
    if not isinstance(objects, list):
        raise InputError(f'"objects" is {_kind_of(objects)}, {_EXPECTED}')
    for number, entry in enumerate(objects, first_number):
        if not isinstance(entry, dict):
            raise InputError(f"object {number} is {_kind_of(entry)}, {_EXPECTED}")
    return objects


def _kind_of(value: Any) -> str:
    """What a value of JSON is, in a sentence."""
    if value is None:
        return "null"
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else brief(value)


def parse_objects(objects: Iterable[Mapping[str, Any]], first_number: int) -> list[Prompt]:
    """Prompts from their entries; those without a name are numbered. Raises InputError."""
    return [_prompt(entry, str(number)) for number, entry in enumerate(objects, first_number)]


def _prompt(entry: Mapping[str, Any], default_name: str) -> Prompt:
    name = entry.get("name", default_name)
    if not isinstance(name, str) or not name:
        raise InputError(f"object {default_name} has the name {brief(name)}, expected text")
    if unknown := sorted(set(entry) - _KEYS):
        raise InputError(
            f"object {name} has the unknown key {brief(unknown[0])}; known are {', '.join(sorted(_KEYS))}"
        )
    box, points, start = entry.get("box"), entry.get("points", []), entry.get("from_frame", 0)
    if box is not None and not _numbers(box, 4):
        raise InputError(f"the box of object {name} is not [left, top, right, bottom] in numbers")
    if not isinstance(points, list) or not all(_numbers(point, 3) for point in points):
        raise InputError(f"the points of object {name} are not a list of [x, y, label]")
    if type(start) is not int or start < 0:
        raise InputError(f"from_frame of object {name} is not a frame number")
    mask = entry.get("mask")
    if mask is not None and type(mask) is not int:
        raise InputError(f"the mask of object {name} is {brief(mask)}, expected 1, 2 or 3")
    return Prompt(
        name,
        (box[0], box[1], box[2], box[3]) if box is not None else None,
        tuple((x, y, label) for x, y, label in points),
        start,
        mask=mask,
    )


def _numbers(value: object, count: int) -> bool:
    return (
        isinstance(value, list) and len(value) == count and all(type(item) in (int, float) for item in value)
    )
