"""Hold a run's masks against the same model run unsplit, in one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

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
    worst: list[float] = []
    async with engines:
        for done, frame in enumerate(source, 1):
            wanted = {name: mask for (number, name), mask in written.items() if number == frame.number}
            if wanted:
                canvas = make_canvas(frame.pixels, bundle.geometry)
                whole = await engines.infer("whole", canvas.whole_inputs())
                found = await decode(engines, whole["image_embedding"], canvas, prompts.at(frame.number))
                for each in found:
                    worst.append(iou(canvas.to_frame_mask(each.logits), wanted[each.prompt.name]))
            progress(done)
    return min(worst, default=None)


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two masks of one size; 1 when both are empty."""
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 1.0


def _read_masks(path: Path) -> dict[tuple[int, str], Mask]:
    masks = {}
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        masks[entry["frame"], entry["object"]] = decode_mask(entry["segmentation"])
    return masks
