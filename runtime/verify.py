"""Hold a run's masks against the same model run unsplit, in one process."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from runtime.canvas import make_canvas
from runtime.decode import decode
from runtime.prompts import Prompts
from runtime.sinks import Mask, decode_mask
from runtime.sources import Source
from stages.bundle import Bundle
from stages.engine import EngineThread, engine_factories


async def iou_with_unsplit(
    bundle: Bundle,
    source: Source,
    prompts: Prompts,
    masks_file: Path,
    backend: str = "auto",
    threads: int | None = None,
    progress: Callable[[int], None] = lambda frames: None,
) -> float | None:
    """The lowest IoU between masks of `masks_file` and those of the `whole` stage, over frames and objects.

    None when the file holds no mask. Raises BundleError when this bundle has no `whole` stage.
    """
    written = _read_masks(masks_file)
    engines = EngineThread(engine_factories(bundle, ("whole", "decoder"), backend, threads))
    ious: list[float] = []
    async with engines:
        for done, frame in enumerate(islice(source, max(written, default=-1) + 1), 1):
            if wanted := written.get(frame.number):
                canvas = make_canvas(frame.pixels, bundle.geometry)
                whole = await engines.infer("whole", canvas.whole_inputs())
                found = await decode(engines, whole["image_embedding"], canvas, prompts.at(frame.number))
                for each in found:
                    mask = canvas.to_frame_mask(each.logits)
                    ious.append(iou(mask, decode_mask(wanted[each.prompt.name])))
            progress(done)
    return min(ious, default=None)


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two masks of one size; 1 when both are empty."""
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 1.0


def _read_masks(path: Path) -> dict[int, dict[str, dict[str, Any]]]:
    """Frame number -> object -> COCO run-length encoding."""
    masks: defaultdict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
    with path.open(encoding="utf-8") as lines:
        for entry in map(json.loads, lines):
            masks[entry["frame"]][entry["object"]] = entry["segmentation"]
    return masks
