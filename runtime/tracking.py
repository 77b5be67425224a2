"""Follow an object from frame to frame by matching image embeddings.

Every token of a new frame takes its label, how much of it is object, from the most similar tokens nearby in
the frame the object was started on and in the last few (label propagation: Jabri et al., "Space-time
correspondence as a contrastive random walk", 2020, section 3; the embeddings are those SAM's decoder gets
anyway). The box around the labels is the next prompt, and of the decoder's masks the one is used that fits
them best. Taking the box around the last mask instead lets an error of one frame grow in all that follow:
mean J of four DAVIS sequences with mini is 0.46 so and 0.58 here (benchmarks/results/tracking_mini.json).
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from runtime.canvas import Canvas
from runtime.decode import ObjectMask, choose_mask
from runtime.prompts import Prompt
from stages.tensors import Array

Floats = npt.NDArray[np.float32]

LARGEST_GRID = 32  # tokens a side that are matched; a larger embedding (64 for SAM) is averaged down to it
REACH = 1 / 6  # of the grid's side: how far a token looks for its like
RECENT = 2  # frames remembered besides the first
NEIGHBOURS = 8  # most similar tokens that vote
TEMPERATURE = 0.05  # of their votes, over cosine similarities
OBJECT = 0.4  # a label above it is object
FAINT = 0.05  # where no label nearby is above it, nothing is matched
OWN_LABEL = 0.35  # weight of the decoder's mask in a frame's labels; the rest keeps what was propagated
AGREE = 0.3  # IoU of mask and labels below which the object is lost
STRANGE = 2.0  # so many times as unlike its matches as usual, and the object is lost
USUAL = 30  # frames that say what is usual


class TrackState(enum.Enum):
    """What is known of an object on a frame: CARRIED means that its mask was moved along, not computed."""

    TRACKED = "tracked"
    CARRIED = "carried"
    LOST = "lost"


@dataclass(frozen=True)
class Tracked:
    """One object on one frame; `found` is None when it is lost."""

    name: str
    state: TrackState
    found: ObjectMask | None


class Still:
    """An object that is asked for with its own prompt on every frame, as pictures without order need it.

    For each frame call `question`, put its prompt to the decoder with `choose`, and give `update` the answer.
    """

    def __init__(self, start: Prompt) -> None:
        self.start = start

    @property
    def name(self) -> str:
        return self.start.name

    def question(self, canvas: Canvas, features: Floats) -> Prompt | None:
        """The prompt for this frame, or None when there is nothing to ask: the object is lost.

        `features` are the frame's `unit_features`.
        """
        return self.start

    def choose(self, low_res_masks: Array, iou: Array) -> int:
        """Which of the decoder's masks [4, M, M], rated [4], is the object's."""
        return choose_mask(self.start, iou)

    def update(self, canvas: Canvas, found: ObjectMask | None) -> Tracked:
        """Take the decoder's answer to the last question, None if there was none."""
        return Tracked(self.name, TrackState.LOST if found is None else TrackState.TRACKED, found)


@dataclass(frozen=True)
class Memory:
    """A frame as remembered: unit features [G, G, 256] of its tokens and their labels [G, G], 0..1."""

    features: Floats
    labels: Floats


class Track(Still):
    """An object of a video.

    It is lost, not guessed, while nothing near is labelled as object, while its tokens are far less like
    those remembered than they used to be, and while the decoder's mask and the labels disagree. What is
    remembered stays as it was meanwhile, so that it is found again near the place where it was last.
    """

    def __init__(self, start: Prompt) -> None:
        super().__init__(start)
        self._first: Memory | None = None
        self._recent: deque[Memory] = deque(maxlen=RECENT)
        self._features: Floats | None = None  # of the frame that was asked about last
        self._labels: Floats | None = None  # propagated to it; None on the first frame
        self._unlikeness = 0.0  # of its object's tokens to their matches
        self._usual: deque[float] = deque(maxlen=USUAL)

    def question(self, canvas: Canvas, features: Floats) -> Prompt | None:
        self._features = features
        if self._first is None:
            return self.start
        self._labels, likeness = propagate(self._features, [self._first, *self._recent])
        box = _box(self._labels, canvas)
        if box is None:
            return None
        self._unlikeness = 1 - float(np.average(likeness, weights=self._labels))
        return None if self._is_strange() else Prompt(self.name, box)

    def _is_strange(self) -> bool:
        return bool(self._usual) and self._unlikeness > STRANGE * float(np.median(self._usual))

    def choose(self, low_res_masks: Array, iou: Array) -> int:
        if self._labels is None:
            return super().choose(low_res_masks, iou)
        likely = _enlarged(self._labels, low_res_masks.shape[-1]) > OBJECT
        fits = [_iou(mask > 0, likely) for mask in low_res_masks]
        return int(np.argmax(np.array(fits) * (1 + iou)))

    def update(self, canvas: Canvas, found: ObjectMask | None) -> Tracked:
        if found is None or self._features is None or not self._agrees(found):
            return Tracked(self.name, TrackState.LOST, None)
        own = _shrunk(found.logits > 0, len(self._features))
        if self._first is None:
            self._first = Memory(self._features, own)
        elif self._labels is not None:
            labels = OWN_LABEL * own + (1 - OWN_LABEL) * self._labels
            self._recent.append(Memory(self._features, labels))
            self._usual.append(self._unlikeness)
        return Tracked(self.name, TrackState.TRACKED, found)

    def _agrees(self, found: ObjectMask) -> bool:
        mask = found.logits > 0
        if self._labels is None:
            return bool(mask.any())
        return _iou(mask, _enlarged(self._labels, len(mask)) > OBJECT) >= AGREE


def propagate(features: Floats, memories: list[Memory]) -> tuple[Floats, Floats]:
    """Labels of the tokens with these unit features [G, G, C], from the most similar ones nearby.

    Returns the labels [G, G] and how like those were, the mean cosine similarity [G, G]; both are 0 where
    nothing within reach is labelled.
    """
    side = len(features)
    reach = max(1, round(side * REACH))
    labelled = np.maximum.reduce([memory.labels for memory in memories]) > FAINT
    rows, cols = _reached(labelled.any(axis=1), reach), _reached(labelled.any(axis=0), reach)
    near = slice(max(0, cols.start - reach), cols.stop + reach)  # columns that may be looked at
    tokens = np.arange(side)
    far = np.abs(tokens[cols, None] - tokens[near]) > reach
    labels, likenesses = np.zeros((2, side, side), np.float32)
    for row in range(rows.start, rows.stop):
        band = slice(max(0, row - reach), row + reach + 1), near
        keys = np.concatenate([memory.features[band] for memory in memories])  # [frames * rows, near, C]
        values = np.concatenate([memory.labels[band] for memory in memories]).ravel()
        likeness = np.tensordot(features[row, cols], keys, ([1], [2]))  # [cols, frames * rows, near]
        likeness[np.broadcast_to(far[:, None], likeness.shape)] = -np.inf
        labels[row, cols], likenesses[row, cols] = _vote(likeness.reshape(len(far), -1), values)
    return labels, likenesses


def _reached(labelled: npt.NDArray[np.bool_], reach: int) -> slice:
    """What lies within reach of any True, along one axis; nothing when there is none."""
    (places,) = np.nonzero(labelled)
    if not len(places):
        return slice(0, 0)
    return slice(max(0, int(places[0]) - reach), min(len(labelled), int(places[-1]) + reach + 1))


def _vote(likeness: Floats, values: Floats) -> tuple[Floats, Floats]:
    """For each row of `likeness` [G, K] the mean of `values` [K] over its best, weighted by softmax.

    Returns these means and the means of the best, both [G].
    """
    best = np.argpartition(likeness, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:]
    likest = np.take_along_axis(likeness, best, axis=1)
    weights = np.exp((likest - likest.max(axis=1, keepdims=True)) / TEMPERATURE)
    votes = (weights * values[best]).sum(axis=1) / weights.sum(axis=1)
    return votes, likest.mean(axis=1)


def unit_features(image_embedding: Array) -> Floats:
    """Unit features [G, G, C] of an image embedding [1, C, E, E]."""
    step = -(-image_embedding.shape[2] // LARGEST_GRID)
    tokens = image_embedding[0].transpose(1, 2, 0)
    blocks = sum(tokens[row::step, col::step] for row in range(step) for col in range(step))
    features = np.ascontiguousarray(blocks, np.float32)
    unit: Floats = features / np.maximum(np.linalg.norm(features, axis=2, keepdims=True), 1e-12)
    return unit


def _box(labels: Floats, canvas: Canvas) -> tuple[float, float, float, float] | None:
    """The box around what is object, in frame pixels; None when nothing is."""
    size = canvas.geometry.image_size
    rows, cols = np.nonzero(_enlarged(labels, size)[: canvas.rows, : canvas.cols] > OBJECT)
    if not len(rows):
        return None
    down, across = canvas.height / canvas.rows, canvas.width / canvas.cols
    return (
        float(cols.min() * across), float(rows.min() * down),
        float((cols.max() + 1) * across), float((rows.max() + 1) * down),
    )  # fmt: skip


def _enlarged(labels: Floats, side: int) -> Floats:
    return np.asarray(cv2.resize(labels, (side, side), interpolation=cv2.INTER_LINEAR), np.float32)


def _shrunk(mask: npt.NDArray[np.bool_], side: int) -> Floats:
    """A mask [M, M] as the part of each of side x side tokens that it covers."""
    share = cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(share, np.float32)


def _iou(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 0.0
