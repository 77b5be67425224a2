"""The three ways to run a model: whole, split in this process, or split with its windows at sites."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from runtime.edge import EdgeOptions, open_edge
from runtime.frames.canvas import Canvas
from runtime.objects.decode import ObjectMask, decode
from runtime.objects.prompts import Prompt
from stages.bundle import Bundle
from stages.engines.backends import engine_factories
from stages.engines.thread import EngineThread
from stages.errors import InputError
from stages.geometry import Geometry
from stages.tensors import Array


@dataclass(frozen=True)
class Model:
    """An open model. `how` is "whole", "split" or "sites"; `wire` is None where nothing is rounded for one.

    `encode` gives the image embedding of a canvas, or raises FrameLost; `decode` the masks of prompts, in
    their order.
    """

    how: str
    wire: str | None
    encode: Callable[[Canvas], Awaitable[Array]]
    decode: Callable[[Array, Canvas, Sequence[Prompt]], Awaitable[list[ObjectMask]]]


@dataclass(frozen=True)
class Subject:
    """What is evaluated: `facts` are what its report says of it; `open` gives a Model for pictures of these
    (height, width), or raises a PedsamError before any tile is sent."""

    geometry: Geometry
    facts: Mapping[str, str | None]
    open: Callable[
        [Collection[tuple[int, int]], Callable[[str], None]], contextlib.AbstractAsyncContextManager[Model]
    ]


def bundle_subject(bundle: Bundle, options: EdgeOptions, whole: bool) -> Subject:
    """A bundle, whole or split as the options say. Raises a PedsamError when it cannot be run whole."""
    if whole:
        _check_whole(bundle, options)
    facts = {
        "description": bundle.description,
        "model": bundle.geometry.name,
        "weights": bundle.weights,
        "trained_on": bundle.trained_on,
        "site_digest": bundle.site_digest,
    }
    return Subject(bundle.geometry, facts, partial(_open_bundle, bundle, options, whole))


def whole_model(engines: EngineThread, inputs: Callable[[Canvas], Mapping[str, Array]]) -> Model:
    """A model whose `whole` and `decoder` stages are open; `inputs` are those of `whole` for a canvas."""
    return Model("whole", None, partial(_encode_whole, engines, inputs), partial(decode, engines))


@contextlib.asynccontextmanager
async def _open_bundle(
    bundle: Bundle,
    options: EdgeOptions,
    whole: bool,
    sizes: Collection[tuple[int, int]],
    on_message: Callable[[str], None],
) -> AsyncIterator[Model]:
    if whole:
        factories = engine_factories(bundle, ("whole", "decoder"), options.backend, options.threads)
        async with EngineThread(factories) as engines:
            yield whole_model(engines, partial(Canvas.whole_inputs, bundle=bundle))
    else:
        async with open_edge(bundle, sizes, options, on_message) as edge:
            how = "sites" if options.sites else "split"
            yield Model(how, edge.wire_format, edge.encoder.encode, partial(decode, edge.engines))


def _check_whole(bundle: Bundle, options: EdgeOptions) -> None:
    if options.sites is not None:
        raise InputError("--whole runs no window at a site; give either --whole or --sites")
    if options.wire is not None:
        raise InputError("--whole sends nothing over a wire; give either --whole or --wire")
    bundle.verified_file("whole")


async def _encode_whole(
    engines: EngineThread, inputs: Callable[[Canvas], Mapping[str, Array]], canvas: Canvas
) -> Array:
    outputs = await engines.infer("whole", inputs(canvas))
    return outputs["image_embedding"]
