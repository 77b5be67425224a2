"""What a detector is, the kinds that come with pedsam, and how a user's own is named."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from runtime.frames.boxes import BoxXyxy
from stages.engines.devices import Device
from stages.engines.onnxruntime_engine import open_session
from stages.errors import InputError
from stages.tensors import Array, Pixels

# Boxes, in pixels of an RGB picture uint8 [H, W, 3], around what is to be kept.
Find: TypeAlias = Callable[[Pixels], Iterable[BoxXyxy]]

MODELS = Path(__file__).with_name("models")
STRIDE_PX = 32  # the sides of what both networks take are multiples of it


@dataclass(frozen=True)
class DetectorOptions:
    """How the detectors that come with pedsam run: on pictures whose longest side is `px`, by `threads` of
    the CPU or on `device`."""

    px: int = 960
    threads: int | None = None
    device: Device | None = None


class Network:
    """A detector's network, an ONNX graph with one input [1, 3, H, W] of any size."""

    def __init__(self, file: str, options: DetectorOptions) -> None:
        self._session = open_session(MODELS / file, options.threads, options.device)
        self._input = self._session.get_inputs()[0].name
        self._px = options.px

    def resized(self, picture: Pixels) -> Pixels:
        """The picture with its longest side `px`, each side a multiple of STRIDE_PX."""
        height, width = picture.shape[:2]
        scale = self._px / max(height, width)
        size = [max(STRIDE_PX, round(side * scale / STRIDE_PX) * STRIDE_PX) for side in (width, height)]
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)

    def run(self, picture: npt.NDArray[np.float32]) -> list[Array]:
        """The outputs for a picture [H, W, 3], as resized and normalised."""
        outputs: list[Array] = self._session.run(None, {self._input: picture.transpose(2, 0, 1)[None]})
        return outputs


def make_find(kind: str, options: DetectorOptions) -> Find:
    """The detector that `--keep` names: "faces", "text" or "module:function", which takes a picture and gives
    boxes. Raises InputError for one that is not there, EngineError for one that cannot be loaded."""
    if kind in KINDS:
        return KINDS[kind](options)
    module, _, name = kind.partition(":")
    if not module or not name:
        raise InputError(
            f"--keep {kind} is unknown; expected {', '.join(KINDS)}, or module:function of your own detector"
        )
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


def _faces(options: DetectorOptions) -> Find:
    from runtime.detectors.faces import Faces

    return Faces(options).find


def _text(options: DetectorOptions) -> Find:
    from runtime.detectors.text import Text

    return Text(options).find


KINDS: Mapping[str, Callable[[DetectorOptions], Find]] = {"faces": _faces, "text": _text}
