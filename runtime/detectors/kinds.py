"""The kinds of detectors: faces, text, and a function of the user's."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from runtime.detectors.faces import Faces
from runtime.detectors.network import DetectorOptions, Find
from runtime.detectors.text import Text
from runtime.frames.boxes import BoxXyxy
from stages.errors import InputError
from stages.tensors import Pixels

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
    check_kind(kind)
    if kind in KINDS:
        return KINDS[kind](options)
    module, _, name = kind.partition(":")
    try:
        find = getattr(importlib.import_module(module), name)
    except ImportError as exc:
        raise InputError(f"--keep {kind} cannot be imported: {exc}; is its folder in PYTHONPATH?") from exc
    except AttributeError as exc:
        raise InputError(f"--keep {kind} cannot be found: {exc}") from exc
    if not callable(find):
        raise InputError(f"--keep {kind} is no function: it must take a picture and give boxes")
    return _checked(kind, find)


def _checked(kind: str, find: Callable[[Pixels], Any]) -> Find:
    """A user's function, whose boxes are boxes."""

    def checked(picture: Pixels) -> Iterable[BoxXyxy]:
        boxes = np.asarray(list(find(picture)), np.float64).reshape(-1, 4)
        if not np.isfinite(boxes).all():
            raise ValueError(f"{kind} gave a box with a coordinate that is not finite")
        return [(float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in boxes]

    return checked
