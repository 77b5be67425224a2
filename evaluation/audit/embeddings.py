"""What comes back from sites, turned into pixels again: embeddings as they travel, of every second picture,
by a regression that was fitted to the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from evaluation.audit.attacks import psnr, ssim
from evaluation.audit.inversion import fit_inversion
from evaluation.audit.measures import Figures
from runtime.frames.canvas import Canvas
from runtime.sites.answers import to_embedding
from runtime.sites.client import WIRE_OUTPUTS, choose_wire
from stages.bundle import Bundle
from stages.engines.backends import make_engine
from stages.engines.engine import Engine
from stages.tensors import Array, Pixels
from stages.tile_code import cut

# What of the windows of a canvas is known to an attacker: values [n, tokens, D] of its windows.
Values = Callable[[Canvas, Sequence[int]], Array]


def embeddings_of(bundle: Bundle, engine: Engine) -> Values:
    """Embeddings as a site of this bundle answers them, with its components and its wire format."""
    outputs = WIRE_OUTPUTS[choose_wire(bundle, None)]

    def values(canvas: Canvas, windows: Sequence[int]) -> Array:
        answer = engine.infer(canvas.window_inputs(windows, bundle), outputs)
        embedding: Array = to_embedding(answer, bundle.embedding_dtype)
        return embedding.reshape(len(windows), -1, embedding.shape[-1])

    return values


def measure_inversion(values: Values, canvases: Sequence[Canvas], seed: int) -> dict[str, Any]:
    """PSNR and SSIM of windows rebuilt from their values. Only windows full of picture are looked at.

    Every second canvas is measured, the others are fitted to; empty where one of both has no such window.
    """
    fitted, measured = canvases[::2], canvases[1::2]
    known = [pair for canvas in fitted if (pair := _full(values, canvas))]
    if not known:
        return {}
    inversion = fit_inversion(
        np.concatenate([hidden for hidden, _ in known]), np.concatenate([pixels for _, pixels in known])
    )
    figures = Figures()
    for number, canvas in enumerate(measured):
        if pair := _full(values, canvas):
            hidden, pixels = pair
            everywhere = np.ones(pixels.shape[1:3], bool)
            for truth, made in zip(pixels, inversion.invert(hidden), strict=True):
                figures.add("psnr", number, [psnr(truth, made, everywhere)])
                figures.add("ssim", number, [ssim(truth, made, everywhere)])
    return figures.summary(seed)


def measure_embeddings(bundle: Bundle, canvases: Sequence[Canvas], seed: int) -> dict[str, Any]:
    """The same of a bundle's embeddings. Raises EngineError where its window stage cannot be run."""
    engine = make_engine(bundle, "window", "auto", None)
    engine.open()
    with closing(engine):
        return measure_inversion(embeddings_of(bundle, engine), canvases, seed)


def _full(values: Values, canvas: Canvas) -> tuple[Array, Pixels] | None:
    """Values and pixels of the windows that are full of picture; None where there is none."""
    side = canvas.geometry.tile_px
    windows = [int(n) for n in np.flatnonzero((canvas.extents[:, 2:] == side).all(axis=1))]
    if not windows:
        return None
    pixels = np.stack([cut(canvas.pixels, window, canvas.geometry) for window in windows])
    return values(canvas, windows), pixels
