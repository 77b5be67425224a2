"""Which projections a bundle's tokens travel in: that of the weights, one fitted to pictures, or none."""

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
from export.head import Head
from export.modules import HeadStage, WindowStage
from export.projection import Projection, fit_projection
from export.sam import Weights
from media.pictures import read_picture
from stages.console import make_console
from stages.errors import InputError
from stages.geometry import Geometry
from stages.progress import shown_progress
from stages.tensors import Pixels
from stages.tile_code import RGB, TileCode

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
    stage = WindowStage(weights.sam, weights.geometry, torch.float32, tiles)
    pictures = _pictures(weights, f"--components {components}", _instead(weights), photos)
    return _fitted(weights, components, tiles, stage, pictures, photos, say, console)


def choose_head(
    weights: Weights,
    blocks: int,
    form: str,
    components: int | None,
    photos: Path | None,
    say: Callable[[str], None],
    console: Console | None = None,
) -> Head | None:
    """What runs at the edge and how its result travels; None for no blocks.

    Its projection onto `components` is fitted as that of `choose_projection`; weights hold none. Raises
    InputError where no window block is left to the sites, and as that does.
    """
    g = weights.geometry
    if blocks == 0:
        return None
    if blocks > (most := len(g.window_blocks) - 1):
        raise InputError(
            f"--head-blocks {blocks} leaves sites nothing to do: {g.name} has {most + 1} window blocks, so "
            f"give at most {most}"
        )
    if components is None or components == g.dim:
        return Head(blocks, form)
    if components > g.dim:
        raise InputError(
            f"--hidden-components {components} is more than the {g.dim} channels of hidden states"
        )
    instead = f"leave it out to send all {g.dim} channels"
    pictures = _pictures(weights, f"--hidden-components {components}", instead, photos)
    stage = HeadStage(weights.sam, g, Head(blocks, form))
    return Head(blocks, form, _fitted(weights, components, RGB, stage, pictures, photos, say, console))


def _fitted(
    weights: Weights,
    components: int,
    tiles: TileCode,
    stage: WindowStage | HeadStage,
    pictures: Sequence[Callable[[], Pixels]],
    photos: Path | None,
    say: Callable[[str], None],
    console: Console | None,
) -> Projection:
    """The projection of what `stage` makes of pictures; tells of it."""
    what = "hidden state" if isinstance(stage, HeadStage) else "embedding"
    with shown_progress(console or make_console(), "projection", "fitting") as progress:
        tokens = stage_tokens(weights.geometry, stage, tiles, _counted(pictures, progress))
        fitted = fit_projection(tokens, components)
    source = "synthetic pictures" if photos is None else str(photos)
    say(f"{_text(fitted, weights.geometry.dim, what)}, fitted to {len(pictures)} of {source}")
    if photos is not None and len(pictures) < (wanted := _wanted(weights.geometry)):
        say(f"so few pictures may not be like those to come: {wanted} in --photos fit better")
    return fitted


def _text(projection: Projection, dim: int, what: str = "embedding") -> str:
    kept = 100 * projection.variance_kept
    return f"{what} of {projection.components} components for {dim} channels, {kept:.1f} % of the variance"


def _wanted(geometry: Geometry) -> int:
    """How many pictures have the tokens to fit with."""
    return math.ceil(TOKENS_A_CHANNEL * geometry.dim / geometry.tokens**2)


def _pictures(weights: Weights, option: str, instead: str, photos: Path | None) -> list[Callable[[], Pixels]]:
    """Pictures to fit with, read when they are called for. `option` is what asks for them, `instead` says
    what to give where there are none."""
    g = weights.geometry
    if photos is not None:
        paths = spread(photographs(photos), _wanted(g))
        return [partial(read_picture, path) for path in paths]
    if weights.status == "untrained":
        return [partial(made_picture, g, seed) for seed in range(len(SHAPES))]
    raise InputError(
        f"{option} is fitted to photographs: give --photos FOLDER with some dozens like those the cameras "
        f"will show, or {instead}"
    )


def _instead(weights: Weights) -> str:
    """What to give instead of --components that are not held."""
    if held := weights.projection:
        return f"leave --components out for the {held.components} that the weights hold"
    return f"give --components {weights.geometry.dim} to leave the embedding as it is"


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


def picture_tokens(
    weights: Weights, tiles: TileCode, pictures: Iterable[Callable[[], Pixels]]
) -> Iterator[Tensor]:
    """The tokens fp32 [n, D] of every picture's embedding that lie on the canvas, padding there included."""
    g = weights.geometry
    return stage_tokens(g, WindowStage(weights.sam, g, torch.float32, tiles), tiles, pictures)


@torch.no_grad()
def stage_tokens(
    g: Geometry,
    stage: WindowStage | HeadStage,
    tiles: TileCode,
    pictures: Iterable[Callable[[], Pixels]],
) -> Iterator[Tensor]:
    """The tokens fp32 [n, D] that a stage makes of every picture, those on the canvas, padding there
    included."""
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
