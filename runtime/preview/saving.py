"""Files that a viewer may keep of a frame it was sent, in the frame's own pixels."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from runtime.objects.masks import Mask, encode_mask
from runtime.results.result import FrameResult, ObjectResult
from runtime.results.sinks import draw_overlay
from stages.errors import InputError

JPEG_QUALITY = 95  # of what is kept; viewers get less while it moves
_UNSAFE = re.compile(r"[^\w.-]+")
_MOST_CHARACTERS = 60  # of the name of a frame or object in that of a file


@dataclass(frozen=True)
class SavedFile:
    """`name` is what to call it, `media` its media type."""

    name: str
    media: str
    data: bytes


def make_file(file: str, result: FrameResult, name: str | None, banner: str | None) -> SavedFile:
    """One of FILES, of the object of this name or, for None, of all objects. Blocks.

    Raises InputError when there is no such object on the frame, or no mask where one is needed.
    """
    chosen = tuple(found for found in result.objects if name in (None, found.name))
    if name is not None and not chosen:
        raise InputError(f"there is no object {name} on frame {result.number}")
    suffix, media, make = _KINDS[file]
    data = make(replace(result, objects=chosen), banner)
    of_object = name is not None and file != "frame.png"  # which has no object in it
    parts = [_safe(result.frame.name), *([_safe(str(name))] if of_object else [])]
    return SavedFile("_".join(parts) + suffix, media, data)


def _frame_png(result: FrameResult, banner: str | None) -> bytes:
    """The frame as it came, without anything drawn over it."""
    return _encoded(".png", result.frame.pixels)


def _overlay_png(result: FrameResult, banner: str | None) -> bytes:
    return _encoded(".png", _overlay(result, banner))


def _overlay_jpeg(result: FrameResult, banner: str | None) -> bytes:
    return _encoded(".jpg", _overlay(result, banner), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])


def _overlay(result: FrameResult, banner: str | None) -> npt.NDArray[np.uint8]:
    """As recordings have it, but for the prompts."""
    objects = tuple(replace(found, prompt=None) for found in result.objects)
    return draw_overlay(replace(result, objects=objects), banner)


def _cutout(result: FrameResult, banner: str | None) -> bytes:
    """What the masks cover, cut to the box around them. Around it there is nothing, also in the colours of
    what is transparent."""
    masks = [mask for _, mask in _masked(result)]
    if not masks:
        raise InputError(f"no object has a mask on frame {result.number}, so there is nothing to cut out")
    union: Mask = np.logical_or.reduce(masks)
    left, top, width, height = cv2.boundingRect(union.view(np.uint8))
    part = slice(top, top + height), slice(left, left + width)
    inside = union[part]
    alpha = inside.astype(np.uint8) * np.uint8(255)
    return _encoded(".png", np.dstack([np.where(inside[..., None], result.frame.pixels[part], 0), alpha]))


def _coco(result: FrameResult, banner: str | None) -> bytes:
    """Objects as annotations, each of a category of its own name."""
    height, width = result.frame.pixels.shape[:2]
    found = _masked(result)
    data = {
        "info": {"description": f"masks of frame {result.number}, drawn by pedsam"},
        "images": [
            {"id": 1, "file_name": f"{_safe(result.frame.name)}.png", "width": width, "height": height}
        ],
        "annotations": [_annotation(number, *each) for number, each in enumerate(found, 1)],
        "categories": [{"id": number, "name": each.name} for number, (each, _) in enumerate(found, 1)],
    }
    return (json.dumps(data, indent=1) + "\n").encode()


def _annotation(number: int, found: ObjectResult, mask: Mask) -> dict[str, Any]:
    rle = encode_mask(mask)
    return {
        "id": number,
        "image_id": 1,
        "category_id": number,
        "iscrowd": 0,
        "segmentation": rle,
        "area": int(coco.area(rle)),
        "bbox": [float(value) for value in coco.toBbox(rle)],
        "predicted_iou": round(found.iou, 4),
        **found.trust.to_json(),
    }


def _masked(result: FrameResult) -> list[tuple[ObjectResult, Mask]]:
    """Objects with a mask that has a pixel."""
    return [(found, found.mask) for found in result.objects if found.mask is not None and found.mask.any()]


def _encoded(suffix: str, pixels: npt.NDArray[np.uint8], parameters: Sequence[int] = ()) -> bytes:
    """A picture, RGB or RGBA, as a file of this kind."""
    order = cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR
    done, data = cv2.imencode(suffix, cv2.cvtColor(pixels, order), parameters)
    if not done:
        raise RuntimeError(f"OpenCV cannot write {suffix}")
    return data.tobytes()


def _safe(name: str) -> str:
    """A name as part of a file's, on any system."""
    return _UNSAFE.sub("_", name).strip("._")[:_MOST_CHARACTERS] or "frame"


_Make: TypeAlias = Callable[[FrameResult, "str | None"], bytes]
# What a viewer may ask for: how the file's name ends, its media type, and what makes it.
_KINDS: Mapping[str, tuple[str, str, _Make]] = {
    "frame.png": (".png", "image/png", _frame_png),
    "overlay.png": ("_masks.png", "image/png", _overlay_png),
    "overlay.jpg": ("_masks.jpg", "image/jpeg", _overlay_jpeg),
    "cutout.png": ("_cutout.png", "image/png", _cutout),
    "coco.json": ("_coco.json", "application/json", _coco),
}
FILES = tuple(_KINDS)
