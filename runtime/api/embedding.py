"""Frames to image embeddings and masks: the encoder and the decoder of an open edge, for one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from runtime.api.errors import FrameLost
from runtime.api.masks import Masks
from runtime.edge import Edge
from runtime.encoder import Encoding
from runtime.encoder import FrameLost as EncoderLost
from runtime.frames.canvas import Canvas
from runtime.keeper import OfObjects
from runtime.objects.decode import choose_mask, decoder_inputs
from runtime.objects.prompts import Prompt
from stages.tensors import Array

AT_ONCE = 16  # objects a call of the decoder, whose memory grows with them


@dataclass(frozen=True)
class Embedded:
    """A frame on its canvas with its image embedding, fp32 [1, 256, E, E]. `number` is the session's."""

    canvas: Canvas
    image_embedding: Array
    number: int
    sites: frozenset[str]
    kept: frozenset[int]


async def collect(edge: Edge, canvas: Canvas, number: int, of_objects: OfObjects) -> Encoding:
    """Have the windows of a frame computed. Raises FrameLost.

    `of_objects` says which windows its objects touch, for `keep_objects`: whoever collects next may have
    others, so it is set in the very step in which the edge looks.
    """
    edge.keeper.of_objects = of_objects
    encoding = edge.encoder.start(canvas, number)
    try:
        await encoding.collect()
    except EncoderLost as exc:
        raise FrameLost(f"the frame is lost: {exc}") from exc
    return encoding


async def embed(edge: Edge, canvas: Canvas, number: int, of_objects: OfObjects) -> Embedded:
    """The image embedding of a frame. Raises FrameLost."""
    encoding = await collect(edge, canvas, number, of_objects)
    embedding = await encoding.finish()
    return Embedded(canvas, embedding, number, frozenset(encoding.sites), encoding.kept.windows)


async def decode_all(
    edge: Edge, embedded: Embedded, prompts: Sequence[Prompt], mask_input: Array | None = None
) -> tuple[Array, Array]:
    """All masks the decoder offers for each prompt: logits float32 [N, 4, M, M], scores float32 [N, 4].

    `mask_input`, logits [1, 1, M, M] of an earlier mask, is for one prompt alone.
    """
    side = embedded.canvas.geometry.mask_px
    logits, scores = (
        np.empty((len(prompts), 4, side, side), np.float32),
        np.empty((len(prompts), 4), np.float32),
    )
    for rows in _groups(prompts):
        group = [prompts[row] for row in rows]
        feeds = decoder_inputs(embedded.image_embedding, embedded.canvas, group)
        if mask_input is not None:
            feeds |= {"mask_input": mask_input, "has_mask_input": np.ones((1, 1), np.float32)}
        outputs = await edge.engines.infer("decoder", feeds, order=embedded.number)
        logits[rows], scores[rows] = outputs["low_res_masks"], outputs["iou"]
    return logits, scores


def _groups(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Places of prompts with equally many tokens, at most AT_ONCE together."""
    groups = []
    for count in sorted({prompt.tokens for prompt in prompts}):
        rows = [row for row, prompt in enumerate(prompts) if prompt.tokens == count]
        groups += [rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE)]
    return groups


def masks_of(
    embedded: Embedded,
    prompts: Sequence[Prompt],
    logits: Array,
    scores: Array,
    multimask: bool,
    doubtful: bool,
) -> Masks:
    """Of all that the decoder offers: the mask that each prompt means, or the three that it may mean.
    Blocks."""
    if multimask:
        chosen, rated = logits[:, 1:], scores[:, 1:]
    else:
        rows = np.arange(len(prompts))
        best = [choose_mask(prompt, rating) for prompt, rating in zip(prompts, scores, strict=True)]
        chosen, rated = logits[rows, best], scores[rows, best]
    canvas = embedded.canvas
    masks = np.empty((*rated.shape, canvas.height, canvas.width), bool)
    for place in np.ndindex(rated.shape):
        masks[place] = canvas.to_frame_mask(chosen[place])
    return Masks(masks, rated, chosen, embedded.sites, embedded.kept, doubtful)


def frame_logits(canvas: Canvas, logits: Array) -> npt.NDArray[np.float32]:
    """Low-resolution logits [M, M] at the frame's size, float32 [H, W], as Sam.postprocess_masks has them."""
    size = canvas.geometry.image_size
    square = cv2.resize(logits, (size, size), interpolation=cv2.INTER_LINEAR)
    picture = np.ascontiguousarray(square[: canvas.rows, : canvas.cols])
    enlarged = cv2.resize(picture, (canvas.width, canvas.height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(enlarged, np.float32)
