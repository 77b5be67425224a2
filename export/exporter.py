"""Export a bundle: write the stages, hold each against PyTorch and all of them against the whole encoder."""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from export.compact import round_weights
from export.modules import GlobalStage, WindowStage, reordered_encoder
from export.onnx_files import write_onnx
from export.sam import PIXEL_MEAN, PIXEL_STD, Sam, Weights
from export.stages import StagePlan, as_numpy, stage_plans
from stages.bundle import MANIFEST, PADDING_FILE, PROBE_FILE, Bundle, Stage, hash_files
from stages.engine import make_engine
from stages.errors import BundleError, ParityError
from stages.geometry import Geometry
from stages.tensors import Array

# Largest absolute difference of image embeddings (their values are near one: the neck ends in a norm).
CHAIN_TOLERANCE = {"float32": 1e-4, "float16": 2e-2}
# Largest difference of a stage's outputs as a fraction of their largest value: a value between two steps of
# fp16 or int8 may fall to either side.
STAGE_TOLERANCE = {"float32": 1e-4, "float16": 2e-3, "int8": 1.01 / 127}
# Largest difference a site may show on the probe, as a fraction of the embedding's largest value. Engines of
# other precisions stay within it; other weights are off by about one.
PROBE_TOLERANCE = {"float32": 1e-2, "float16": 2e-2, "int8": 3e-2}
PRECISION = {False: "fp32", True: "fp32 from fp16 weights"}  # of a stage, by whether its export is compact
SEED = 20260101


@torch.no_grad()
def export_bundle(
    weights: Weights,
    geometry: Geometry,
    out: Path,
    embedding_dtype: str = "float16",
    say: Callable[[str], None] = print,
    compact: bool = False,
) -> Bundle:
    """Write a whole bundle to `out`, which appears there only when every check has passed.

    `compact` rounds weights to fp16 and stores them so; stages still compute in fp32.
    Raises ParityError when a stage or the chain of stages differs by more than its tolerance, BundleError
    when `out` holds something that is no bundle.
    """
    _check_replaceable(out)
    if compact:
        weights = replace(weights, sam=round_weights(weights.sam))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        work = Path(scratch) / out.name
        work.mkdir()
        _write(weights, geometry, work, embedding_dtype, say, compact)
        if out.exists():
            shutil.rmtree(out)
        work.rename(out)
    return Bundle.load(out)


def _check_replaceable(out: Path) -> None:
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(f"{out} exists and is no bundle; give --out another directory or remove it")


def _write(
    weights: Weights,
    geometry: Geometry,
    work: Path,
    embedding_dtype: str,
    say: Callable[[str], None],
    compact: bool,
) -> None:
    bundle = Bundle(
        path=work,
        geometry=geometry,
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
        weights=weights.status,
        trained_on=weights.trained_on,
        embedding_dtype=embedding_dtype,
        head_blocks=0,
        stages={},
        edge_files={},
        probe_tolerance=PROBE_TOLERANCE,
    )
    for plan in stage_plans(weights.sam, geometry, embedding_dtype):
        bundle = _add_stage(bundle, plan, say, compact)
        gc.collect()  # an exported program holds on to its module's tensors in cycles
    bundle = _add_edge_files(bundle)
    bundle = replace(bundle, parity=_check_chain(bundle, weights.sam, say))
    bundle.save()


def _add_stage(bundle: Bundle, plan: StagePlan, say: Callable[[str], None], compact: bool = False) -> Bundle:
    module = plan.build().eval()
    examples = plan.examples(torch.Generator().manual_seed(SEED))
    file = f"{plan.name}/model.onnx"
    paths = write_onnx(module, examples, plan.inputs, plan.outputs, bundle.path / file, compact)
    names = [path.relative_to(bundle.path).as_posix() for path in paths]
    files = hash_files(bundle.path, names)
    stage = Stage(plan.name, file, files, plan.inputs, plan.outputs, PRECISION[compact])
    bundle = replace(bundle, stages={**bundle.stages, plan.name: stage})
    if plan.name == "whole":
        return bundle  # _check_chain holds it against segment_anything's own encoder
    parity = _compare_stage(bundle, plan, module, examples)
    say(f"{plan.name:8} onnxruntime against PyTorch: " + _format(parity))
    return replace(bundle, stages={**bundle.stages, plan.name: replace(stage, parity=parity)})


def _compare_stage(
    bundle: Bundle, plan: StagePlan, module: nn.Module, examples: tuple[Tensor, ...]
) -> dict[str, float]:
    """Largest difference per output, as a fraction of its largest value."""
    feeds = {spec.name: as_numpy(spec, tensor) for spec, tensor in zip(plan.inputs, examples, strict=True)}
    expected = module(*examples)
    expected = expected if isinstance(expected, tuple) else (expected,)
    actual = _infer(bundle, plan.name, feeds)
    parity = {}
    for spec, tensor in zip(plan.outputs, expected, strict=True):
        parity[spec.name] = relative_difference(actual[spec.name], tensor.numpy())
        _require(f"stage {plan.name}, output {spec.name}", parity[spec.name], STAGE_TOLERANCE[spec.dtype])
    return parity


def _infer(bundle: Bundle, stage: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
    engine = make_engine(bundle, stage, "onnxruntime-cpu")
    engine.open()
    try:
        return engine.infer(feeds)
    finally:
        engine.close()


def _add_edge_files(bundle: Bundle) -> Bundle:
    (bundle.path / "edge").mkdir()
    g = bundle.geometry
    engine = make_engine(bundle, "window", "onnxruntime-cpu")
    engine.open()
    try:
        blank = [
            engine.infer(blank_window(g, index), ["embedding"])["embedding"] for index in range(g.windows)
        ]
        probe = probe_inputs(g)
        answer = engine.infer(probe, ["embedding"])["embedding"].astype(np.float32)
    finally:
        engine.close()
    np.save(bundle.path / PADDING_FILE, np.concatenate(blank))
    np.savez(bundle.path / PROBE_FILE, **{"embedding": answer, **probe})  # type: ignore[arg-type]
    return replace(bundle, edge_files=hash_files(bundle.path, (PADDING_FILE, PROBE_FILE)))


def blank_window(geometry: Geometry, index: int) -> dict[str, Array]:
    """Inputs of the window stage for a window without any picture."""
    return {
        "tile": np.zeros((1, *geometry.tile_shape), np.uint8),
        "index": np.array([[index]], np.int32),
        "extent": np.zeros((1, 2), np.int32),
    }


def probe_inputs(geometry: Geometry) -> dict[str, Array]:
    """A synthetic tile for the corner window, where padding of pixels and of tokens both matter."""
    side = geometry.tile_px
    rng = np.random.default_rng(SEED)
    ramp = np.add.outer(np.arange(side), 2 * np.arange(side))[..., None] % 200
    tile = (ramp + rng.integers(0, 56, (side, side, 3))).astype(np.uint8)
    return {
        "tile": tile[None],
        "index": np.array([[geometry.windows - 1]], np.int32),
        "extent": np.array([[side // 2 - 3, side // 3]], np.int32),
    }


def _check_chain(bundle: Bundle, sam: Sam, say: Callable[[str], None]) -> dict[str, float]:
    """Hold the chain of stages and `whole` against segment_anything's own encoder, reordered, run whole."""
    g = bundle.geometry
    rows, cols = g.resized(2, 3)
    picture = np.zeros((g.grid * g.tile_px, g.grid * g.tile_px, 3), np.uint8)
    picture[:rows, :cols] = np.random.default_rng(SEED).integers(0, 256, (rows, cols, 3))
    extents = g.extents(rows, cols)
    tiles = _cut(picture, g)
    index = np.arange(g.windows, dtype=np.int32)[:, None]
    canvas = np.ascontiguousarray(picture[None, : g.image_size, : g.image_size])
    parity = {"chain_pytorch": 0.0, "chain": 0.0, "whole": 0.0}

    # PyTorch in fp32 first: what reordering and cutting alone change.
    encode = WindowStage(sam, g, torch.float32).encode
    embeddings = [
        encode(*(torch.from_numpy(part[i : i + 1]) for part in (tiles, index, extents)))
        for i in range(g.windows)
    ]
    split = GlobalStage(sam, g)(torch.cat(embeddings)).numpy()
    pixels = torch.from_numpy(picture[:rows, :cols].copy()).permute(2, 0, 1)[None].float()
    own_order = sam.image_encoder.blocks
    reference = reordered_encoder(sam.image_encoder, g)(sam.preprocess(pixels)).numpy()
    sam.image_encoder.blocks = own_order  # the caller's model stays as it was
    parity["chain_pytorch"] = _difference(split, reference)

    answers = _infer(bundle, "window", {"tile": tiles, "index": index, "extent": extents})
    chain = _infer(bundle, "global", {"embedding": answers["embedding"]})["image_embedding"]
    parity["chain"] = _difference(chain, reference)
    extent = np.array([[rows, cols]], np.int32)
    whole = _infer(bundle, "whole", {"canvas": canvas, "extent": extent})["image_embedding"]
    parity["whole"] = _difference(whole, reference)

    say("chain    against the reordered encoder run whole: " + _format(parity))
    _require("the chain of stages in PyTorch", parity["chain_pytorch"], CHAIN_TOLERANCE["float32"])
    _require("the chain of stages", parity["chain"], CHAIN_TOLERANCE[bundle.embedding_dtype])
    _require("the whole stage", parity["whole"], CHAIN_TOLERANCE["float32"])
    return parity


def _cut(picture: Array, g: Geometry) -> Array:
    """[grid*S, grid*S, 3] -> [windows, S, S, 3], row-major."""
    tiles = picture.reshape(g.grid, g.tile_px, g.grid, g.tile_px, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(tiles.reshape(g.windows, *g.tile_shape))


def relative_difference(actual: Array, expected: Array) -> float:
    """Largest absolute difference over the largest absolute expected value."""
    return _difference(actual, expected) / max(float(np.abs(expected.astype(np.float32)).max()), 1e-12)


def _difference(actual: Array, expected: Array) -> float:
    return float(np.abs(actual.astype(np.float32) - expected.astype(np.float32)).max())


def _format(parity: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.1e}" for name, value in parity.items())


def _require(what: str, difference: float, tolerance: float) -> None:
    if not difference <= tolerance:  # also when it is NaN
        raise ParityError(
            f"{what} differs by {difference:.2e}, more than {tolerance:.0e}: the export is wrong and was not "
            "kept; try the torch and onnxscript versions of pyproject.toml"
        )
