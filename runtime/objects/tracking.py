"""Follow an object from frame to frame by matching image embeddings.

Labels, how much of a token is object, are propagated to a new frame from the one that the object was started
on and the last few (`runtime.objects.matching`). The box around them is the next prompt, and of the decoder's
masks the one is used that fits them best. Taking the box around the last mask instead lets an error of one
frame grow in all that follow: mean J of four DAVIS sequences with mini is 0.55 so and 0.66 here
(benchmarks/results/tracking_mini.json).
"""

from __future__ import annotations

import enum
from collections import deque

import cv2
import numpy as np
import numpy.typing as npt

from runtime.frames.canvas import Canvas
from runtime.objects.decode import ObjectMask, choose_mask
from runtime.objects.masks import iou as mask_iou
from runtime.objects.matching import Floats, FrameTokens, MemoryFrame, propagate
from runtime.objects.prompts import Prompt
from runtime.objects.trust import Trust, Watch
from stages.tensors import Array

RECENT_MEMORY = 2  # memory frames besides the first
OBJECT_LABEL = 0.4  # a label above it is object
DECODER_WEIGHT = 0.35  # of the decoder's mask in a frame's labels; the rest keeps what was propagated
MIN_AGREEMENT = 0.3  # IoU of mask and labels below which the object is lost
MAX_DISSIMILARITY = 2.0  # times the median of recent frames, above which the object is lost
DISSIMILARITY_FRAMES = 30  # frames that median is taken over


class TrackState(enum.Enum):
    """What is known of an object on a frame: CARRIED means that its mask was moved along, not computed."""

    TRACKED = "tracked"
    CARRIED = "carried"
    LOST = "lost"


class FixedPrompt:
    """An object that is asked for with its own prompt on every frame, as pictures without order need it.

    For each frame call `next_prompt`, give its prompt to the decoder with `choose`, and `update` the mask.
    `labels` is then how much of each token the mask covers, [G, G], None where the object is not followed.
    """

    follows = False  # from frame to frame

    def __init__(self, start: Prompt) -> None:
        self.start = start
        self.labels: Floats | None = None
        self.watch = Watch()

    @property
    def name(self) -> str:
        return self.start.name

    def next_prompt(self, canvas: Canvas, tokens: FrameTokens) -> Prompt | None:
        """The prompt for the frame with these tokens, or None when there is nothing to ask: the object is
        lost."""
        return self.start

    def choose(self, low_res_masks: Array, iou: Array) -> int:
        """Which of the decoder's masks [4, M, M], rated [4], is the object's."""
        return choose_mask(self.start, iou)

    def update(self, canvas: Canvas, found: ObjectMask | None) -> ObjectMask | None:
        """The object on this frame, given the decoder's mask for the last prompt, None if there was none.

        None while the object is lost, as it is with a mask that has no pixel of the frame.
        """
        if found is None or not canvas.shows(found.logits):
            return None
        self.watch.judge(found.iou)
        return found

    @property
    def trust(self) -> Trust:
        """In the mask that was found last."""
        return self.watch.last

    def anchor(self, memory: MemoryFrame | None) -> None:
        """The object's mask on a frame is right, a person says: go on from there. `memory` is that frame,
        None where `labels` was."""
        self.watch.accept()


class Track(FixedPrompt):
    """An object of a video.

    It is lost, not guessed, while nothing near is labelled as object, while the dissimilarity of its tokens
    to their matches is above MAX_DISSIMILARITY times the median, and while the decoder's mask and the labels
    disagree. The memory frames stay as they were meanwhile, so that it is found again near the place where it
    was last.
    """

    follows = True

    def __init__(self, start: Prompt) -> None:
        super().__init__(start)
        self._first: MemoryFrame | None = None
        self._recent: deque[MemoryFrame] = deque(maxlen=RECENT_MEMORY)
        self._features: Floats | None = None  # of the frame that was asked about last
        self._labels: Floats | None = None  # propagated to it; None on the first frame
        self._dissimilarity = 0.0  # of its object's tokens to their matches
        self._dissimilarities: deque[float] = deque(maxlen=DISSIMILARITY_FRAMES)

    def next_prompt(self, canvas: Canvas, tokens: FrameTokens) -> Prompt | None:
        self._features = tokens.features
        if self._first is None:
            return self.start
        self._labels, similarity = propagate(tokens, [self._first, *self._recent])
        box = _box(self._labels, canvas)
        if box is None:
            return None
        self._dissimilarity = 1 - float(np.average(similarity, weights=self._labels))
        return None if self._is_dissimilar() else Prompt(self.name, box)

    def _is_dissimilar(self) -> bool:
        if not self._dissimilarities:
            return False
        return self._dissimilarity > MAX_DISSIMILARITY * float(np.median(self._dissimilarities))

    def choose(self, low_res_masks: Array, iou: Array) -> int:
        if self._labels is None:
            return super().choose(low_res_masks, iou)
        expected = _enlarged(self._labels, low_res_masks.shape[-1]) > OBJECT_LABEL
        agreement = [mask_iou(mask > 0, expected, empty=0.0) for mask in low_res_masks]
        return int(np.argmax(np.array(agreement) * (1 + iou)))

    def update(self, canvas: Canvas, found: ObjectMask | None) -> ObjectMask | None:
        if found is None or self._features is None or not canvas.shows(found.logits):
            return None
        agreement = self._agreement(found)
        if agreement is not None and agreement < MIN_AGREEMENT:
            return None
        self.labels = _shrunk(found.logits > 0, len(self._features))
        self.watch.judge(found.iou, agreement, self.labels)
        if self._first is None:
            self._first = MemoryFrame(self._features, self.labels)
        elif self._labels is not None:
            labels = DECODER_WEIGHT * self.labels + (1 - DECODER_WEIGHT) * self._labels
            self._recent.append(MemoryFrame(self._features, labels))
            self._dissimilarities.append(self._dissimilarity)
        return found

    def anchor(self, memory: MemoryFrame | None) -> None:
        if memory is not None:
            self._first = memory
            self._recent.clear()
            self._dissimilarities.clear()
            self.watch.accept(memory.labels)

    def _agreement(self, found: ObjectMask) -> float | None:
        """IoU of the decoder's mask and the labels; None on the first frame, which has none."""
        if self._labels is None:
            return None
        expected = _enlarged(self._labels, len(found.logits)) > OBJECT_LABEL
        return mask_iou(found.logits > 0, expected, empty=0.0)


def _box(labels: Floats, canvas: Canvas) -> tuple[float, float, float, float] | None:
    """The box around what is object, in frame pixels; None when nothing is."""
    size = canvas.geometry.image_size
    rows, cols = np.nonzero(_enlarged(labels, size)[: canvas.rows, : canvas.cols] > OBJECT_LABEL)
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
