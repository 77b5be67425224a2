"""Which projection a bundle's embeddings travel in: that of the weights, one fitted to pictures, or none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from export.checks.numerics import in_parts, window_tensors
from export.checks.pictures import made_picture, photographs, resized
from export.modules import WindowStage
from export.projection import Projection, fit_projection
from export.sam import Weights
from media.pictures import read_picture
from stages.console import make_console
from stages.errors import InputError
from stages.geometry import Geometry
from stages.progress import shown_progress
from stages.tensors import Pixels
from stages.tile_code import TileCode

TOKENS_A_CHANNEL = 100  # to fit with; on mini, twice as many keep 0.05 % more of other pictures' variance
# Rows to columns of the pictures, in turn, so that padding below and at the right is among what is fitted.
SHAPES = ((9, 16), (3, 4), (4, 3), (1, 1), (201, 333))


def choose_projection(
    weights: Weights,
    components: int | None,
    tiles: TileCode,
    photos: Path | None,
    say: Callable[[str], None],
    console: Console | None = None,
) -> Projection | None:
    """The projection for `components` of an export; None where embeddings travel whole.

    Without `components` it is what the weights hold, and with just as many and no `photos`. Weights that are
    trained are fitted to `photos`, random
    ones to synthetic pictures, as tiles in the code `tiles` show them. How far that is is shown on `console`,
    by default standard output. Raises InputError where there is nothing to fit to, or more components than
    channels.
    """
    held, dim = weights.projection, weights.geometry.dim
    if components == dim:
        if held:
            say(f"--components {dim} is every channel: the projection that the weights hold is left out")
        return None
    if components is None or (held and held.components == components and photos is None):
        if held:
            say(f"{_text(held, dim)}, as the weights hold it")
        return held
    if components > dim:
        raise InputError(f"--components {components} is more than the {dim} channels of the embedding")
    pictures = _pictures(weights, components, photos)
    with shown_progress(console or make_console(), "projection", "fitting") as progress:
        tokens = picture_tokens(weights, tiles, _counted(pictures, progress))
        fitted = fit_projection(tokens, components)
    what = "synthetic pictures" if photos is None else str(photos)
    say(f"{_text(fitted, dim)}, fitted to {len(pictures)} of {what}")
    if photos is not None and len(pictures) < (wanted := _wanted(weights.geometry)):
        say(f"so few pictures may not be like those to come: {wanted} in --photos fit better")
    return fitted


def _text(projection: Projection, dim: int) -> str:
    kept = 100 * projection.variance_kept
    return f"embedding of {projection.components} components for {dim} channels, {kept:.1f} % of the variance"


def _wanted(geometry: Geometry) -> int:
    """How many pictures have the tokens to fit with."""
    return math.ceil(TOKENS_A_CHANNEL * geometry.dim / geometry.tokens**2)


def _pictures(weights: Weights, components: int, photos: Path | None) -> list[Callable[[], Pixels]]:
    """Pictures to fit with, read when they are called for."""
    g = weights.geometry
    if photos is not None:
        paths = spread(photographs(photos), _wanted(g))
        return [partial(read_picture, path) for path in paths]
    if weights.status == "untrained":
        return [partial(made_picture, g, seed) for seed in range(len(SHAPES))]
    held = weights.projection
    instead = (
        f"leave --components out for the {held.components} that the weights hold"
        if held
        else (f"give --components {g.dim} to leave the embedding as it is")
    )
    raise InputError(
        f"--components {components} is fitted to photographs: give --photos FOLDER with some dozens like "
        f"those the cameras will show, or {instead}"
    )


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    """At most `count` of the paths, evenly over all."""
    chosen = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    return [paths[i] for i in chosen]


def _counted(
    pictures: Sequence[Callable[[], Pixels]], progress: Callable[[float], None]
) -> Iterator[Callable[[], Pixels]]:
    """The pictures, one by one; `progress` gets the fraction that is done."""
    for number, picture in enumerate(pictures):
        progress(number / len(pictures))
        yield picture
    progress(1.0)


@torch.no_grad()
def picture_tokens(
    weights: Weights, tiles: TileCode, pictures: Iterable[Callable[[], Pixels]]
) -> Iterator[Tensor]:
    """The tokens fp32 [n, D] of every picture that lie on the canvas, padding there included."""
    g = weights.geometry
    stage = WindowStage(weights.sam, g, torch.float32, tiles)
    for number, read in enumerate(pictures):
        picture = resized(cropped(read(), SHAPES[number % len(SHAPES)]), g)
        for tile, index, extent in in_parts(window_tensors(tiles, g, picture)):
            on_canvas = stage.canvas_tokens[index[:, 0].long(), ..., 0]
            yield stage.encode(tile, index, extent)[on_canvas]


def cropped(picture: Pixels, shape: tuple[int, int]) -> Pixels:
    """The largest part of a picture [H, W, 3] around its middle whose rows are to columns as `shape`."""
    height, width = picture.shape[:2]
    scale = min(height / shape[0], width / shape[1])
    rows, cols = max(1, int(shape[0] * scale)), max(1, int(shape[1] * scale))
    top, left = (height - rows) // 2, (width - cols) // 2
    return np.ascontiguousarray(picture[top : top + rows, left : left + cols])
