"""Pictures with their instances, as evaluation takes them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyio import to_thread

from evaluation.masks import blurred
from evaluation.options import EvaluateOptions
from runtime.objects.masks import Mask, decode_mask, encode_mask
from stages.errors import InputError
from stages.tensors import Pixels
from training.data import read_samples
from training.samples import Sample
from training.tally import ANNOTATIONS, PICTURES, Tally


@dataclass(frozen=True)
class Scene:
    """A picture RGB uint8 [H, W, 3], blurred if that was asked for, and its instances.

    `instances` are masks as COCO run lengths, since a picture may have hundreds of them. Numbers count the
    masks of the data from 1; masks without a pixel are `empty`.
    """

    name: str
    picture: Pixels
    instances: Mapping[int, dict[str, Any]]
    empty: tuple[int, ...] = ()

    def mask(self, number: int) -> Mask:
        """An instance's mask, bool [H, W]."""
        return decode_mask(self.instances[number])


@dataclass(frozen=True)
class Survey:
    """What there is to measure: samples that hold instances, and the (height, width) of their pictures."""

    samples: tuple[Sample, ...]
    sizes: frozenset[tuple[int, int]]
    instances: int


def read_scene(sample: Sample, blur: float) -> Scene:
    """One sample's scene; `blur` as in `evaluation.masks.blurred`. It blocks: use a thread."""
    instances: dict[int, dict[str, Any]] = {}
    empty: list[int] = []
    for number, mask in enumerate(sample.each_mask(), 1):
        if mask.any():
            instances[number] = encode_mask(mask)
        else:
            empty.append(number)
    return Scene(sample.name, blurred(sample.image(), blur), instances, tuple(empty))


def choose_samples(options: EvaluateOptions, tally: Tally) -> list[Sample]:
    """All samples of the data, or so many as --limit says drawn with the seed, by name. It blocks: use a
    thread."""
    samples = read_samples(options.data, options.pictures, tally)
    if options.limit is None or options.limit >= len(samples):
        return samples
    drawing = random.Random(options.seed)  # noqa: S311  (no secret)
    return [samples[number] for number in sorted(drawing.sample(range(len(samples)), options.limit))]


async def survey(
    samples: Sequence[Sample], path: Path, tally: Tally, progress: Callable[[int], None]
) -> Survey:
    """Read everything once: what is wrong with the data is left out and counted before any tile is sent.

    Raises InputError when no picture holds an instance.
    """
    kept: list[Sample] = []
    sizes: set[tuple[int, int]] = set()
    instances = 0
    for done, sample in enumerate(samples, 1):
        progress(done)
        try:
            scene = await to_thread.run_sync(read_scene, sample, 0)
        except InputError as exc:
            tally.leave_out(PICTURES, "that cannot be used", str(exc))
            continue
        for number in scene.empty:
            tally.leave_out(ANNOTATIONS, "with an empty mask", f"mask {number} of {scene.name}")
        if scene.instances:
            kept.append(sample)
            sizes.add((scene.picture.shape[0], scene.picture.shape[1]))
            instances += len(scene.instances)
    if not kept:
        found = f" ({'; '.join(tally.sentences())})" if tally.sentences() else ""
        raise InputError(
            f"none of the {len(samples)} pictures read from {path} holds an instance{found}; "
            "give --data with label maps that have values from 1 on, or a COCO JSON whose annotations "
            "are not all crowds"
        )
    return Survey(tuple(kept), frozenset(sizes), instances)
