"""From an image embedding to masks: the decoder for all objects of a frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.frames.canvas import Canvas
from runtime.objects.prompts import Prompt
from stages.engines.thread import EngineThread
from stages.tensors import Array

Choose = Callable[[Array, Array], int]  # of masks [4, M, M] and their ratings [4], the number of one
NO_CHOICE: Mapping[str, Choose] = {}


@dataclass(frozen=True)
class ObjectMask:
    """One object on one frame: `logits` float32 [M, M] of the chosen mask, `iou` as the decoder rates it.

    `choices` are logits [3, M, M] and ratings [3] of the masks that one point alone may mean; else None.
    """

    prompt: Prompt
    logits: npt.NDArray[np.float32]
    iou: float
    choices: tuple[Array, Array] | None = None


async def decode(
    engines: EngineThread,
    image_embedding: Array,
    canvas: Canvas,
    prompts: Sequence[Prompt],
    choose: Mapping[str, Choose] = NO_CHOICE,
    order: int = 0,
) -> list[ObjectMask]:
    """Masks of all objects in the order of `prompts`; those with equally many tokens share a decoder call.

    `choose` says by the object's name which of its masks to use; `choose_mask` decides for the others.
    `order` is the frame's number: older frames go first on the engine thread.
    """
    masks: dict[str, ObjectMask] = {}
    for count in sorted({prompt.tokens for prompt in prompts}):
        group = [prompt for prompt in prompts if prompt.tokens == count]
        feeds = decoder_inputs(image_embedding, canvas, group)
        outputs = await engines.infer("decoder", feeds, order=order)
        for prompt, low_res, iou in zip(group, outputs["low_res_masks"], outputs["iou"], strict=True):
            chooser = choose.get(prompt.name)
            best = chooser(low_res, iou) if chooser else choose_mask(prompt, iou)
            choices = (low_res[1:].copy(), iou[1:].copy()) if prompt.single_point else None
            masks[prompt.name] = ObjectMask(prompt, low_res[best].copy(), float(iou[best]), choices)
    return [masks[prompt.name] for prompt in prompts]


def decoder_inputs(image_embedding: Array, canvas: Canvas, prompts: Sequence[Prompt]) -> dict[str, Array]:
    """Inputs of the decoder stage for prompts of equally many tokens. No earlier mask is given."""
    tokens = [prompt.decoder_tokens(canvas) for prompt in prompts]
    side = canvas.geometry.mask_px
    return {
        "image_embedding": image_embedding,
        "point_coords": np.stack([coords for coords, _ in tokens]),
        "point_labels": np.stack([labels for _, labels in tokens]),
        "mask_input": np.zeros((len(prompts), 1, side, side), np.float32),
        "has_mask_input": np.zeros((len(prompts), 1), np.float32),
    }


def choose_mask(prompt: Prompt, iou: Array) -> int:
    """Which of the decoder's four masks to use: for one point alone, which is ambiguous, the one that is
    meant or the best rated of 1..3, else mask 0 (segment_anything's multimask_output)."""
    if not prompt.single_point:
        return 0
    return prompt.mask or 1 + int(np.argmax(iou[1:]))
