"""Parity checks of an export: each stage with its PyTorch module, and the chain of stages with the encoder.

A stage of a lower precision is checked twice: its graph and its module, both widened to fp32, must agree as
those of an fp32 stage do, and the chain of stages as exported must stay near the fp32 encoder.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from export.checks.tolerances import embedding_tolerance, rounding_noise, stage_tolerance
from export.checks.widen import widened_stage
from export.head import Head
from export.modules import GlobalStage, HeadStage, RestStage, WindowStage, reordered_encoder
from export.sam import Weights
from export.stages import StagePlan, as_numpy
from stages.bundle import Bundle
from stages.engines.backends import make_engine
from stages.engines.engine import Engine
from stages.engines.streaming_engine import StreamingEngine
from stages.errors import ParityError
from stages.hidden import HEAD, after_head
from stages.tensors import Array
from stages.tile_inputs import blank_canvas, whole_inputs, window_inputs

SEED = 20260101


def compare_stage(
    bundle: Bundle, plan: StagePlan, module: nn.Module, examples: tuple[Tensor, ...]
) -> dict[str, float]:
    """Largest difference per output, as a fraction of its largest value.

    A module of a lower precision is widened in place. Raises ParityError for a difference beyond
    `export.checks.tolerances`.
    """
    with tempfile.TemporaryDirectory(dir=bundle.path.parent) as folder:
        if plan.precision != "fp32":
            bundle, module = widened_stage(bundle, plan.name, Path(folder)), module.float()
        inputs = bundle.stage(plan.name).inputs
        feeds = {spec.name: as_numpy(spec, tensor) for spec, tensor in zip(inputs, examples, strict=True)}
        actual = infer(bundle, plan.name, feeds)
    expected = module(*examples)
    expected = expected if isinstance(expected, tuple) else (expected,)
    parity = {}
    noise = rounding_noise(module, examples, expected)
    for spec, tensor, moved in zip(plan.outputs, expected, noise, strict=True):
        parity[spec.name] = relative_difference(actual[spec.name], tensor.numpy())
        allowed = stage_tolerance(spec.dtype, moved)
        _require(f"stage {plan.name}, output {spec.name}", parity[spec.name], allowed)
    return parity


def infer(bundle: Bundle, stage: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
    with opened(bundle, stage) as engine:
        return engine.infer(feeds)


def window_feeds(bundle: Bundle, tiles: Mapping[str, Array]) -> dict[str, Array]:
    """Inputs of the window stage: these, or what the head makes of them."""
    return after_head(infer(bundle, HEAD, tiles), tiles) if bundle.head_blocks else dict(tiles)


@contextlib.contextmanager
def opened(bundle: Bundle, name: str) -> Iterator[Engine]:
    """A stage in onnxruntime on the CPU; one in bf16, which that cannot run, widened to fp32."""
    with tempfile.TemporaryDirectory(dir=bundle.path.parent) as folder:
        if bundle.stage(name).precision == "bf16":
            bundle = widened_stage(bundle, name, Path(folder))
        engine = make_engine(bundle, name, "onnxruntime-cpu")
        engine.open()
        try:
            yield engine
        finally:
            engine.close()


def check_chain(
    bundle: Bundle, weights: Weights, say: Callable[[str], None], head: Head | None = None
) -> dict[str, float]:
    """Compare the chain of stages and `whole` with segment_anything's own encoder, reordered, run whole.

    A projection is a step between its window blocks and its global ones, and so is what travels after a head.
    Where that is int8, a value between two steps may fall to either, as in fp16. Returns the largest absolute
    differences. Raises ParityError for one beyond `export.checks.tolerances`.
    """
    g = bundle.geometry
    rows, cols = g.resized(2, 3)
    canvas = blank_canvas(g)
    canvas[:rows, :cols] = np.random.default_rng(SEED).integers(0, 256, (rows, cols, 3))
    windows = window_inputs(bundle, canvas, g.extents(rows, cols), range(g.windows))
    reference = _reference(weights, _as_sent(bundle, windows)[:rows, :cols], head)
    parity = {"chain_pytorch": _difference(_split(weights, bundle, windows, head), reference)}
    embedding = infer(bundle, "window", window_feeds(bundle, windows))["embedding"]
    chain = infer(bundle, "global", {"embedding": embedding})["image_embedding"]
    parity["chain"] = _difference(chain, reference)
    inputs = whole_inputs(bundle, canvas, g.extents(rows, cols))
    whole = infer(bundle, "whole", inputs)["image_embedding"]
    parity["whole"] = _difference(whole, reference)

    say("chain    against the reordered encoder run whole: " + format_parity(parity))
    wire = {"float32": "fp32", "float16": "fp16"}[bundle.embedding_dtype]
    stages = [stage for stage in (HEAD, "window", "global") if stage in bundle.stages]
    split = (wire, *(computes_in(bundle, stage) for stage in stages))
    up = "fp32" if head is None or head.form == "fp32" else "fp16"
    rounded = "fp16" if head and head.form == "int8" else "fp32"
    for name, what, precisions in (
        ("chain_pytorch", "the chain of stages in PyTorch", (up,)),
        ("chain", "the chain of stages", (*split, up)),
        ("whole", "the whole stage", (computes_in(bundle, "whole"), rounded)),
    ):
        _require(what, parity[name], embedding_tolerance(precisions) * float(np.abs(reference).max()))
    return parity


def check_streaming(bundle: Bundle, say: Callable[[str], None]) -> dict[str, float]:
    """Compare the global stage in parts with the whole one, on random embeddings.

    Returns the largest difference, as a fraction of the largest value. Raises ParityError.
    """
    (spec,) = bundle.stage("global").inputs
    shape = [int(axis) for axis in spec.shape]
    embedding = np.random.default_rng(SEED).standard_normal(shape).astype(spec.dtype)
    engine = StreamingEngine(bundle)
    engine.open()
    try:
        actual = engine.infer({"embedding": embedding})["image_embedding"]
    finally:
        engine.close()
    expected = infer(bundle, "global", {"embedding": embedding})["image_embedding"]
    parity = {"streaming": relative_difference(actual, expected)}
    say("parts    against the global stage: " + format_parity(parity))
    allowed = embedding_tolerance([computes_in(bundle, "global")])
    _require("the global stage in parts", parity["streaming"], allowed)
    return parity


def computes_in(bundle: Bundle, stage: str) -> str:
    """Precision of a stage's matrix products."""
    return bundle.stage(stage).precision.split()[0]  # "fp32 from fp16 weights"


def _split(weights: Weights, bundle: Bundle, windows: Mapping[str, Array], head: Head | None) -> Array:
    """The image embedding of single windows in PyTorch, in fp32: what reordering and cutting alone change,
    and how hidden states travel."""
    sam, g, projection = weights.sam, weights.geometry, weights.projection
    window = WindowStage(sam, g, torch.float32, bundle.tiles, projection)
    encode = _encode_rest(weights, head) if head else window.encode
    parts = [torch.from_numpy(windows[name]) for name in ("tile", "index", "extent")]
    embeddings = [encode(*(part[i : i + 1] for part in parts)) for i in range(g.windows)]
    split: Array = GlobalStage(sam, g, projection)(torch.cat(embeddings)).numpy()
    return split


def _encode_rest(weights: Weights, head: Head) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Head and rest, one after the other, as WindowStage.encode."""
    sam, g = weights.sam, weights.geometry
    first, rest = HeadStage(sam, g, head), RestStage(sam, g, torch.float32, head, weights.projection)

    def encode(tile: Tensor, index: Tensor, extent: Tensor) -> Tensor:
        hidden, *scale = first(tile, index, extent)
        return rest.encode(hidden, index, *scale)

    return encode


def _as_sent(bundle: Bundle, windows: Mapping[str, Array]) -> Array:
    """The canvas [grid * S, grid * S, 3], fp32, that the code of tiles makes of all windows."""
    g = bundle.geometry
    tiles = bundle.tiles.decode(windows["tile"], g).reshape(g.grid, g.grid, g.tile_px, g.tile_px, 3)
    canvas: Array = tiles.transpose(0, 2, 1, 3, 4).reshape(g.grid * g.tile_px, g.grid * g.tile_px, 3)
    return canvas


def _reference(weights: Weights, picture: Array, head: Head | None) -> Array:
    """The image embedding of a picture, fp32 RGB, by segment_anything's own encoder, reordered; fp32."""
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
    sam, own_order = weights.sam, weights.sam.image_encoder.blocks
    encoder = reordered_encoder(sam.image_encoder, weights.geometry, weights.projection, head)
    reference: Array = encoder(sam.preprocess(pixels)).numpy()
    sam.image_encoder.blocks = own_order  # the caller's model stays as it was
    return reference


def relative_difference(actual: Array, expected: Array) -> float:
    """Largest absolute difference over the largest absolute expected value."""
    return _difference(actual, expected) / max(float(np.abs(expected.astype(np.float32)).max()), 1e-12)


def _difference(actual: Array, expected: Array) -> float:
    return float(np.abs(actual.astype(np.float32) - expected.astype(np.float32)).max())


def format_parity(parity: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.1e}" for name, value in parity.items())


def _require(what: str, difference: float, tolerance: float) -> None:
    if not difference <= tolerance:  # also when it is NaN
        raise ParityError(
            f"{what} differs by {difference:.2e}, more than {tolerance:.0e}: the export is wrong and was not "
            "kept; try the torch and onnxscript versions of pyproject.toml"
        )
