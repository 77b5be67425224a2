"""What an audit looks at: pictures, their labelled objects, the frames of a video."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from evaluation.audit.options import VIDEO_FRAMES, AuditOptions
from evaluation.audit.views import Mask
from runtime.frames.canvas import Canvas
from runtime.frames.sources import open_source
from stages.errors import InputError
from stages.tensors import Pixels
from training.data import is_coco, read_pictures, read_samples
from training.pairs import read_pairs
from training.samples import Sample
from training.segmentations import Frame
from training.tally import PICTURES, Tally


@dataclass(frozen=True)
class Still(Sample):
    """A picture in memory: a frame of a video."""

    name: str
    pixels: Pixels

    def image(self) -> Pixels:
        return self.pixels

    def shape(self) -> Frame:
        height, width = self.pixels.shape[:2]
        return height, width

    def objects(self) -> int:
        return 0

    def each_mask(self) -> Iterator[Mask]:
        return iter(())


@dataclass(frozen=True)
class Data:
    """Pictures by name; with `is_video` they are frames of one scene, in order."""

    samples: tuple[Sample, ...]
    is_video: bool

    def by_shape(self, options: AuditOptions) -> dict[Frame, list[int]]:
        """Numbers of the samples whose canvases are alike, by a (height, width) of theirs."""
        shapes: dict[tuple[int, int], tuple[Frame, list[int]]] = {}
        for number, sample in enumerate(self.samples):
            size = sample.shape()
            shapes.setdefault(options.geometry.resized(*size), (size, []))[1].append(number)
        return dict(shapes.values())


def read_data(options: AuditOptions, tally: Tally) -> Data:
    """What --data names, as much of it as --limit says. Raises InputError. It blocks: use a thread."""
    path = options.data
    if not os.path.lexists(path):
        raise InputError(f"--data {path} is not there; give a folder of pictures, a video or a COCO JSON")
    if path.is_dir() or is_coco(path):
        samples = _readable(_samples(path, tally), tally, path)
        if options.sequence:
            return Data(tuple(samples[: options.limit or VIDEO_FRAMES]), True)
        return Data(tuple(_drawn(samples, options)), False)
    with open_source(path) as source:
        frames = (frame for frame in source if not frame.error)
        is_video = source.is_sequence
        most = options.limit or VIDEO_FRAMES
        stills = tuple(Still(frame.name, frame.pixels) for frame in islice(frames, most))
    if not stills:
        raise InputError(f"--data {path} holds no picture that can be read")
    return Data(stills, is_video)


def _samples(path: Path, tally: Tally) -> list[Sample]:
    if is_coco(path):
        return read_samples(path, None, tally)
    labelled = read_pairs(path, None, Tally())
    return read_pictures(path, path if labelled else None, tally)


def _readable(samples: Sequence[Sample], tally: Tally, path: Path) -> list[Sample]:
    """Those whose header can be read."""
    kept = []
    for sample in samples:
        try:
            sample.shape()
        except InputError as exc:
            tally.leave_out(PICTURES, "that cannot be used", str(exc))
        else:
            kept.append(sample)
    if not kept:
        raise InputError(f"none of the pictures of {path} can be read: {'; '.join(tally.sentences())}")
    return kept


def _drawn(samples: Sequence[Sample], options: AuditOptions) -> list[Sample]:
    """So many as --limit says, drawn with the seed, in their order."""
    if options.limit is None or options.limit >= len(samples):
        return list(samples)
    drawing = random.Random(options.seed)  # noqa: S311  (no secret)
    return [samples[number] for number in sorted(drawing.sample(range(len(samples)), options.limit))]


def on_canvas(mask: Mask, canvas: Canvas) -> Mask:
    """A mask of the frame as one of the picture on its canvas, bool [rows, cols]."""
    size = canvas.cols, canvas.rows
    return np.asarray(cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)) > 0
