"""Pictures with their instances, as evaluation takes them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread

from evaluation.masks import Pixels, blurred
from export.data import Sample, read_samples
from runtime.sinks import Mask
from stages.errors import InputError


@dataclass(frozen=True)
class Scene:
    """A picture RGB uint8 [H, W, 3], blurred if that was asked for, and its instances: number -> bool [H, W].

    Numbers count the masks of the data from 1; a mask without a pixel is left out.
    """

    name: str
    picture: Pixels
    instances: dict[int, Mask]


@dataclass(frozen=True)
class Survey:
    """What there is to measure: samples that hold instances, and the (height, width) of their pictures."""

    samples: tuple[Sample, ...]
    sizes: frozenset[tuple[int, int]]
    instances: int


def read_scene(sample: Sample, blur: float) -> Scene:
    """One sample's scene; `blur` as in `evaluation.masks.blurred`. It blocks: use a thread."""
    picture, masks = sample.image(), sample.masks()
    if masks.shape[1:] != picture.shape[:2]:
        raise InputError(
            f"the masks of {sample.name} are {masks.shape[2]} x {masks.shape[1]} pixels, its picture "
            f"{picture.shape[1]} x {picture.shape[0]}; they must be equal, so correct the annotations"
        )
    instances = {number: mask for number, mask in enumerate(masks, 1) if mask.any()}
    return Scene(sample.name, blurred(picture, blur), instances)


def choose_samples(path: Path, limit: int | None, seed: int) -> list[Sample]:
    """All samples at `path`, or `limit` of them drawn with `seed`, by name. It blocks: use a thread."""
    samples = read_samples(path)
    if limit is None or limit >= len(samples):
        return samples
    chosen = random.Random(seed).sample(range(len(samples)), limit)  # noqa: S311  (no secret)
    return [samples[number] for number in sorted(chosen)]


async def survey(samples: Sequence[Sample], path: Path, progress: Callable[[int], None]) -> Survey:
    """Read everything once: what is wrong with the data is said before any tile is sent.

    Raises InputError when no picture holds an instance.
    """
    kept: list[Sample] = []
    sizes: set[tuple[int, int]] = set()
    instances = 0
    for done, sample in enumerate(samples, 1):
        scene = await to_thread.run_sync(read_scene, sample, 0)
        if scene.instances:
            kept.append(sample)
            sizes.add(scene.picture.shape[:2])
            instances += len(scene.instances)
        progress(done)
    if not kept:
        raise InputError(
            f"none of the {len(samples)} pictures read from {path} holds an instance; give --data with label "
            "maps that have values from 1 on, or a COCO JSON whose annotations are not all crowds"
        )
    return Survey(tuple(kept), frozenset(sizes), instances)
