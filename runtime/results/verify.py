"""Compare a run's masks with the same model run unsplit, in one process.

Objects must have been found as the prompts say throughout: LivePipeline lets no viewer change them in a run
that is verified. A viewer may pause it; what was then not segmented is not compared.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from runtime.frames.canvas import Canvas, make_canvas
from runtime.frames.sources import Source
from runtime.objects.follower import FollowedObject, Follower, RecentFrame
from runtime.objects.masks import decode_mask, iou
from runtime.objects.prompts import Prompts
from runtime.objects.registry import MakeTrack, ObjectRegistry
from runtime.objects.tracking import FixedPrompt, TrackState
from stages.bundle import Bundle
from stages.engines.backends import engine_factories
from stages.engines.thread import EngineThread

_Rle: TypeAlias = dict[str, Any]  # COCO run-length encoding


async def iou_with_unsplit(
    bundle: Bundle,
    source: Source,
    prompts: Prompts,
    masks_file: Path,
    backend: str = "auto",
    threads: int | None = None,
    progress: Callable[[int], None] = lambda frames: None,
    make: MakeTrack = FixedPrompt,
    keyframe_every: int = 1,
) -> float | None:
    """The lowest IoU between masks of `masks_file` and those of the `whole` stage, over frames and objects.

    The objects are followed anew from the unsplit model's own masks, with `make` and `keyframe_every` as in
    the run; one that only one of the two has lost counts as 0. None when the file holds no mask.
    Raises BundleError when this bundle has no `whole` stage.
    """
    written = _read_masks(masks_file)
    engines = EngineThread(engine_factories(bundle, ("whole", "decoder"), backend, threads))
    ious: list[float] = []
    async with engines:
        follower = Follower(engines, ObjectRegistry(prompts, make))
        unsplit = _Unsplit(bundle, engines, follower, keyframe_every)
        for done, frame in enumerate(islice(source, max(written, default=-1) + 1), 1):
            if lines := written.get(frame.number):
                recent = RecentFrame(frame.number, make_canvas(frame.pixels, bundle.geometry))
                followed = await unsplit.follow(recent, lines.states)
                ious += _compare(recent.canvas, followed, lines.masks)
            progress(done)
    return min(ious, default=None)


@dataclass
class _Lines:
    """What the file says of a frame: the mask of each object, None where it is lost, and their states."""

    masks: dict[str, _Rle | None] = field(default_factory=dict)
    states: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Unsplit:
    """Finds the objects of a frame as the pipeline does, by the unsplit model."""

    bundle: Bundle
    engines: EngineThread
    follower: Follower
    keyframe_every: int

    async def follow(self, frame: RecentFrame, states: Collection[str]) -> list[FollowedObject]:
        """The objects of a frame of which the run says that they were in these states."""
        if self._was_carried(frame.number, states):
            return await self.follower.carry(frame)
        whole = await self.engines.infer("whole", frame.canvas.whole_inputs(self.bundle))
        frame.image_embedding = whole["image_embedding"]
        return await self.follower.compute(frame)

    def _was_carried(self, number: int, states: Collection[str]) -> bool:
        """Whether the run carried masks to this frame. Where all are lost its file does not say, but it was
        so planned; a pause, after which a frame is computed, changes nothing for what stays lost."""
        if set(states) == {TrackState.LOST.value}:
            return number % self.keyframe_every != 0 and not self.follower.needs_keyframe(number)
        return TrackState.CARRIED.value in states


def _compare(
    canvas: Canvas, followed: list[FollowedObject], written: Mapping[str, _Rle | None]
) -> list[float]:
    ious = []
    for each in followed:
        rle = written.get(each.name)
        if each.found is None or rle is None:
            ious.append(float(each.found is None and rle is None))
        else:
            ious.append(iou(canvas.to_frame_mask(each.found.logits), decode_mask(rle)))
    return ious


def _read_masks(path: Path) -> dict[int, _Lines]:
    """By frame number."""
    frames: defaultdict[int, _Lines] = defaultdict(_Lines)
    with path.open(encoding="utf-8") as lines:
        for entry in map(json.loads, lines):
            if "frame" not in entry:  # a doubt
                continue
            frame = frames[entry["frame"]]
            frame.masks[entry["object"]] = entry["segmentation"]
            frame.states.add(entry["state"])
    return frames
