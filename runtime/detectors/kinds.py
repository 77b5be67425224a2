"""The kinds of detectors: faces, text, and a function of the user's."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from runtime.detectors.faces import Faces
from runtime.detectors.network import DetectorOptions, Find
from runtime.detectors.text import Text
from runtime.frames.boxes import BoxXyxy
from stages.errors import InputError
from stages.tensors import Pixels

BOXES = "expected (left, top, right, bottom) each, in pixels"
KINDS: Mapping[str, Callable[[DetectorOptions], Find]] = {
    "faces": lambda options: Faces(options).find,
    "text": lambda options: Text(options).find,
}


def check_kind(kind: str) -> None:
    """Raise InputError for what names no kind."""
    module, _, name = kind.partition(":")
    if kind not in KINDS and not (module and name):
        raise InputError(
            f"{kind!r} is nothing that can be kept; expected {', '.join(KINDS)}, or module:function, a "
            "detector of your own"
        )


def make_find(kind: str, options: DetectorOptions) -> Find:
    """The detector that `--keep` names: "faces", "text" or "module:function", which takes a picture and gives
    boxes. Raises InputError for one that is not there, EngineError for one that cannot be loaded."""
    return KINDS[kind](options) if kind in KINDS else own_find(kind)


def own_find(kind: str) -> Find:
    """The function "module:function". It raises ValueError, when called, for what are no boxes. Raises
    InputError where it is not there."""
    check_kind(kind)
    module, _, name = kind.partition(":")
    try:
        find = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as exc:
        raise InputError(f"--keep {kind} cannot be imported: {exc}; is its folder in PYTHONPATH?") from exc
    except AttributeError as exc:
        raise InputError(f"--keep {kind} cannot be found: {exc}") from exc
    except (Exception, SystemExit) as exc:  # a module may raise anything
        raise InputError(f"--keep {kind} fails when it is imported ({type(exc).__name__}: {exc})") from exc
    if not callable(find):
        raise InputError(f"--keep {kind} is no function: it must take a picture and give boxes")
    return lambda picture: _boxes(find(picture), picture)


def _boxes(given: Any, picture: Pixels) -> list[BoxXyxy]:
    """What a user's function gave for a picture [H, W, 3]. Raises ValueError for what are no boxes in it."""
    try:
        boxes = np.asarray(list(given), np.float64)
    except (TypeError, ValueError) as exc:
        raise ValueError(f"it gave {type(given).__name__}, not boxes: {BOXES}") from exc
    if not boxes.size:
        return []
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"it gave numbers of shape {list(boxes.shape)}, not boxes: {BOXES}")
    if not np.isfinite(boxes).all():
        raise ValueError("it gave a box with a coordinate that is not finite")
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise ValueError(f"it gave a box that ends before it begins: {BOXES}")
    height, width = picture.shape[:2]
    if (boxes[:, 2:] <= 0).any() or (boxes[:, :2] >= (width, height)).any():
        raise ValueError(f"it gave a box outside the picture of {width} x {height} pixels: {BOXES}")
    return [(left, top, right, bottom) for left, top, right, bottom in boxes.tolist()]
