"""From embeddings to masks: the global stage, then the decoder for all objects of a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.canvas import Canvas
from runtime.prompts import Prompt
from stages.engine import EngineThread
from stages.tensors import Array

EarlierMasks = Mapping[str, npt.NDArray[np.float32]]
NO_MASKS: EarlierMasks = {}


@dataclass(frozen=True)
class ObjectMask:
    """One object on one frame: `logits` float32 [M, M] of the chosen mask, `iou` as the decoder rates it."""

    prompt: Prompt
    logits: npt.NDArray[np.float32]
    iou: float


async def decode(
    engines: EngineThread,
    image_embedding: Array,
    canvas: Canvas,
    prompts: Sequence[Prompt],
    earlier: EarlierMasks = NO_MASKS,
) -> list[ObjectMask]:
    """Masks of all objects in the order of `prompts`; those with equally many tokens share a decoder call.

    `earlier` holds the logits [M, M] of an object's mask on an earlier frame, by the object's name.
    """
    masks: dict[str, ObjectMask] = {}
    for count in sorted({prompt.tokens for prompt in prompts}):
        group = [prompt for prompt in prompts if prompt.tokens == count]
        feeds = decoder_inputs(image_embedding, canvas, group, earlier)
        outputs = await engines.infer("decoder", feeds)
        for prompt, low_res, iou in zip(group, outputs["low_res_masks"], outputs["iou"], strict=True):
            best = choose_mask(prompt, iou)
            masks[prompt.name] = ObjectMask(prompt, low_res[best], float(iou[best]))
    return [masks[prompt.name] for prompt in prompts]


def decoder_inputs(
    image_embedding: Array, canvas: Canvas, prompts: Sequence[Prompt], earlier: EarlierMasks = NO_MASKS
) -> dict[str, Array]:
    """Inputs of the decoder stage for prompts of equally many tokens."""
    tokens = [prompt.decoder_tokens(canvas) for prompt in prompts]
    side = canvas.geometry.mask_px
    masks = np.zeros((len(prompts), 1, side, side), np.float32)
    given = np.zeros((len(prompts), 1), np.float32)
    for row, prompt in enumerate(prompts):
        if prompt.name in earlier:
            masks[row, 0], given[row] = earlier[prompt.name], 1
    return {
        "image_embedding": image_embedding,
        "point_coords": np.stack([coords for coords, _ in tokens]),
        "point_labels": np.stack([labels for _, labels in tokens]),
        "mask_input": masks,
        "has_mask_input": given,
    }


def choose_mask(prompt: Prompt, iou: Array) -> int:
    """Which of the decoder's four masks to use: for one point alone, which is ambiguous, the best rated of
    1..3, else mask 0 (segment_anything's multimask_output)."""
    return 1 + int(np.argmax(iou[1:])) if prompt.single_point else 0
