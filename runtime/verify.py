"""Hold a run's masks against the same model run unsplit, in one process."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from runtime.canvas import Canvas, make_canvas
from runtime.follow import Followed, Follower, Kept
from runtime.objects import MakeTrack, Objects
from runtime.prompts import Prompts
from runtime.sinks import Mask, decode_mask
from runtime.sources import Source
from runtime.tracking import Still
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
    make: MakeTrack = Still,
    keyframe_every: int = 1,
) -> float | None:
    """The lowest IoU between masks of `masks_file` and those of the `whole` stage, over frames and objects.

    The objects are followed anew from the unsplit model's own masks, with `make` and `keyframe_every` as in
    the run; one that only one of the two has lost counts as 0. None when the file holds no mask. Raises
    BundleError when this bundle has no `whole` stage.
    """
    written = _read_masks(masks_file)
    engines = EngineThread(engine_factories(bundle, ("whole", "decoder"), backend, threads))
    ious: list[float] = []
    async with engines:
        follower = Follower(engines, Objects(prompts, make))
        for done, frame in enumerate(islice(source, max(written, default=-1) + 1), 1):
            if wanted := written.get(frame.number):
                kept = Kept(frame.number, make_canvas(frame.pixels, bundle.geometry))
                followed = await _follow(engines, follower, kept, keyframe_every)
                ious += _compare(kept.canvas, followed, wanted)
            progress(done)
    return min(ious, default=None)


async def _follow(
    engines: EngineThread, follower: Follower, kept: Kept, keyframe_every: int
) -> list[Followed]:
    """The objects of a frame, as the loop finds them, by the unsplit model."""
    if kept.number % keyframe_every and not follower.must_compute(kept.number):
        return await follower.carry(kept)
    whole = await engines.infer("whole", kept.canvas.whole_inputs())
    kept.image_embedding = whole["image_embedding"]
    return await follower.compute(kept)


def _compare(
    canvas: Canvas, followed: list[Followed], written: Mapping[str, dict[str, Any] | None]
) -> list[float]:
    ious = []
    for each in followed:
        rle = written[each.name]
        if each.found is None or rle is None:
            ious.append(float(each.found is None and rle is None))
        else:
            ious.append(iou(canvas.to_frame_mask(each.found.logits), decode_mask(rle)))
    return ious


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two masks of one size; 1 when both are empty."""
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 1.0


def _read_masks(path: Path) -> dict[int, dict[str, dict[str, Any] | None]]:
    """Frame number -> object -> COCO run-length encoding, None where the object is lost."""
    masks: defaultdict[int, dict[str, dict[str, Any] | None]] = defaultdict(dict)
    with path.open(encoding="utf-8") as lines:
        for entry in map(json.loads, lines):
            masks[entry["frame"]][entry["object"]] = entry["segmentation"]
    return masks
