"""Export a bundle: write the stages, compare each with PyTorch and their chain with the whole encoder."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from export.checks.coding import measure_coding
from export.checks.memory import StageMemory, stage_memory
from export.checks.numerics import measure_numerics
from export.checks.parity import (
    SEED,
    check_chain,
    check_streaming,
    compare_stage,
    computes_in,
    format_parity,
    opened,
    window_feeds,
)
from export.checks.pictures import check_pictures
from export.compact import round_weights
from export.components import choose_head, choose_projection
from export.head import Head
from export.onnx_files import share_weights, write_onnx
from export.precision import FP32, STAGES
from export.sam import PIXEL_MEAN, PIXEL_STD, Weights
from export.stages import StagePlan, stage_plans, streaming_plans
from stages.bundle import (
    EDGE_FOLDER,
    FORMAT,
    HEAD_FORMAT,
    MANIFEST,
    PADDING_FILE,
    PROBE_FILE,
    Bundle,
    Stage,
    hash_files,
    is_bundle,
)
from stages.engines.plans import ENGINES, axis_sizes
from stages.errors import BundleError
from stages.files import writing
from stages.geometry import Geometry
from stages.hidden import HEAD
from stages.probe import relative_rms
from stages.tensors import Array, Pixels
from stages.tile_code import RGB, TileCode
from stages.tile_inputs import blank_canvas, tile_on_canvas, window_inputs

# Largest difference of a site's answer to the probe, relative RMS, by the precision of the window stage.
# Engines of other precisions stay within it (benchmarks/spot_checks.py); other weights are off by about one.
PROBE_TOLERANCE = {"fp32": 1e-2, "fp16": 1e-2, "bf16": 5e-2}
INT8_SLACK = 1.5  # times what int8 changes of the probe itself


@dataclass(frozen=True)
class ExportOptions:
    """How to write a bundle.

    `precisions` says which precision each stage's matrix products compute in, `tiles` how tiles are sent;
    `photos` is a folder of pictures to check lower precisions and coded tiles with, and to fit `components`
    to (see `choose_projection`). `compact` rounds weights to fp16 and stores them so; fp32 stages still
    compute in fp32. The first `head_blocks` window blocks become a stage of the edge, and what they leave
    travels in the form `hidden`, of `hidden_components` (see `choose_head`); `tiles` are RGB then. With
    `streaming` the global stage is written in parts too, for an edge that begins before all windows came.
    """

    embedding_dtype: str = "float16"
    compact: bool = False
    precisions: Mapping[str, str] = field(default_factory=lambda: FP32)
    photos: Path | None = None
    tiles: TileCode = RGB
    components: int | None = None
    head_blocks: int = 0
    hidden: str = "fp16"
    hidden_components: int | None = None
    streaming: bool = False


@torch.no_grad()
def export_bundle(
    weights: Weights,
    geometry: Geometry,
    out: Path,
    options: ExportOptions,
    say: Callable[[str], None] = print,
) -> Bundle:
    """Write a whole bundle to `out`, which appears there only when every check has passed.

    Raises ParityError when a stage or the chain of stages differs by more than its tolerance or overflows,
    BundleError when `out` holds something that is no bundle or no part of one, and InputError when it cannot
    be written; what was there stays then.
    """
    _check_replaceable(out)
    if options.compact:
        weights = replace(weights, sam=round_weights(weights.sam))
    weights = replace(
        weights, projection=choose_projection(weights, options.components, options.tiles, options.photos, say)
    )
    head = choose_head(
        weights, options.head_blocks, options.hidden, options.hidden_components, options.photos, say
    )
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
            work = Path(scratch) / out.name
            work.mkdir()
            _write(weights, geometry, work, options, head, say)
            put_in_place(work, out, Path(scratch) / "replaced")
    return Bundle.load(out)


def _check_replaceable(out: Path) -> None:
    """Raise BundleError where `out` holds something besides what an export and `pedsam build` write."""
    if not out.exists():
        return
    if not out.is_dir():
        raise BundleError(f"{out} is a file where a folder is needed; give another --out")
    held = {path.name for path in out.iterdir()}
    if held and not is_bundle(out):
        raise BundleError(f"{out} exists and is no bundle; give --out another directory or remove it")
    if foreign := sorted(held - {MANIFEST, EDGE_FOLDER, ENGINES, HEAD, *STAGES}):
        raise BundleError(
            f"{out} holds {foreign[0]}, which is no part of a bundle and would be lost; move it away or give "
            "another --out"
        )


def put_in_place(work: Path, out: Path, replaced: Path) -> None:
    """Rename `work` to `out`; what was there goes to `replaced`, and back when the rename fails."""
    if not out.exists():
        work.rename(out)
        return
    out.rename(replaced)
    try:
        work.rename(out)
    except OSError:
        replaced.rename(out)
        raise


def _write(
    weights: Weights,
    geometry: Geometry,
    work: Path,
    options: ExportOptions,
    head: Head | None,
    say: Callable[[str], None],
) -> None:
    bundle = empty_bundle(weights, geometry, work, options, head)
    measured = _check_numerics(weights, options, head, say) | _check_code(geometry, options, say)
    for plan in _plans(weights, options, options.precisions, head):
        bundle = add_stage(bundle, plan, say, options.compact)
        gc.collect()  # an exported program holds on to its module's tensors in cycles
    if options.streaming:
        bundle = add_parts(bundle, weights, say, options)
    bundle = add_edge_files(bundle)
    measured |= check_chain(bundle, weights, say, head)
    if options.streaming:
        measured |= check_streaming(bundle, say)
    bundle = replace(bundle, parity=measured)
    bundle.save()


def _plans(
    weights: Weights, options: ExportOptions, precisions: Mapping[str, str], head: Head | None
) -> tuple[StagePlan, ...]:
    sam, g, dtype = weights.sam, weights.geometry, options.embedding_dtype
    return stage_plans(sam, g, dtype, precisions, options.tiles, weights.projection, head)


def empty_bundle(
    weights: Weights, geometry: Geometry, path: Path, options: ExportOptions, head: Head | None = None
) -> Bundle:
    """A bundle at `path` without any stage yet; nothing is written."""
    projection = weights.projection
    return Bundle(
        path=path,
        geometry=geometry,
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
        weights=weights.status,
        trained_on=weights.trained_on,
        embedding_dtype=options.embedding_dtype,
        head_blocks=head.blocks if head else 0,
        stages={},
        edge_files={},
        probe_tolerance={},
        components=projection.components if projection else geometry.dim,
        variance_kept=projection.variance_kept if projection else 1.0,
        tiles=options.tiles,
        format=HEAD_FORMAT if head else FORMAT,
        hidden=head.hidden(geometry) if head else None,
    )


def _check_numerics(
    weights: Weights, options: ExportOptions, head: Head | None, say: Callable[[str], None]
) -> dict[str, float]:
    """Where a stage has a lower precision: what it does to pictures. First, since it needs no graph."""
    if set(options.precisions.values()) == {"fp32"}:
        return {}
    pictures, what = _pictures(weights.geometry, options)
    exact, low = (_plans(weights, options, each, head) for each in (FP32, options.precisions))
    numerics = measure_numerics(exact, low, weights.geometry, pictures, options.tiles)
    say(f"rounding against fp32 on {what}: {numerics.text}")
    return numerics.parity


def _check_code(geometry: Geometry, options: ExportOptions, say: Callable[[str], None]) -> dict[str, float]:
    """What coding tiles does to pictures."""
    if options.tiles == RGB:
        return {}
    pictures, what = _pictures(geometry, options)
    coding = measure_coding(options.tiles, geometry, pictures)
    say(
        f"tiles    {options.tiles.name}, {options.tiles.tile_bytes(geometry)} B each, on {what}: "
        f"{coding.psnr_db:.1f} dB, {100 * coding.saturated:.2f} % of coefficients saturate"
    )
    return coding.parity


def _pictures(geometry: Geometry, options: ExportOptions) -> tuple[list[Pixels], str]:
    """Pictures to check with, and what they are."""
    pictures = check_pictures(geometry, options.photos)
    return (
        pictures,
        "one synthetic picture" if options.photos is None else f"{len(pictures)} of {options.photos}",
    )


def add_stage(bundle: Bundle, plan: StagePlan, say: Callable[[str], None], compact: bool = False) -> Bundle:
    """The bundle with this stage written and compared. Raises ParityError."""
    module = plan.build().eval()
    bundle = write_stage(bundle, plan, module, compact)
    if plan.name == "whole":
        return bundle  # check_chain compares it with segment_anything's own encoder
    stage, memory = bundle.stage(plan.name), largest_memory(bundle, plan.name).text
    parity = compare_stage(bundle, plan, module, example_inputs(plan))
    say(f"{plan.name:8} onnxruntime against PyTorch: {format_parity(parity)}; {stage.precision}, {memory}")
    return replace(bundle, stages={**bundle.stages, plan.name: replace(stage, parity=parity)})


def add_parts(bundle: Bundle, weights: Weights, say: Callable[[str], None], options: ExportOptions) -> Bundle:
    """The bundle with the parts of its global stage written beside it, and compared."""
    sam, g, projection = weights.sam, weights.geometry, weights.projection
    precision = options.precisions["global"]
    for plan in streaming_plans(sam, g, options.embedding_dtype, precision, projection):
        module = plan.build().eval()
        bundle = write_part(bundle, plan, module, options.compact)
        stage = bundle.stage(plan.name)
        parity = compare_stage(bundle, plan, module, example_inputs(plan))
        say(f"{plan.name:8} onnxruntime against PyTorch: {format_parity(parity)}; {stage.precision}")
        bundle = replace(bundle, stages={**bundle.stages, plan.name: replace(stage, parity=parity)})
        gc.collect()
    return bundle


def write_part(bundle: Bundle, plan: StagePlan, module: nn.Module, compact: bool = False) -> Bundle:
    """The bundle with a part of its global stage, which keeps its weights in the global stage's file."""
    whole, file = bundle.stage("global"), f"global/{plan.name}.onnx"
    with tempfile.TemporaryDirectory(dir=bundle.path.parent) as folder:
        graph = Path(folder) / plan.name / "model.onnx"
        write_onnx(module, example_inputs(plan), plan.inputs, plan.outputs, graph, compact)
        share_weights(graph, bundle.path / whole.file, bundle.path / file)
    shared = {name: digest for name, digest in whole.files.items() if name != whole.file}
    files = hash_files(bundle.path, [file]) | shared
    stage = Stage(plan.name, file, files, plan.inputs, plan.outputs, whole.precision)
    return replace(bundle, stages={**bundle.stages, plan.name: stage})


def write_stage(bundle: Bundle, plan: StagePlan, module: nn.Module, compact: bool = False) -> Bundle:
    """The bundle with this stage written, not compared with anything. `module` is what the plan builds."""
    file = f"{plan.name}/model.onnx"
    paths = write_onnx(module, example_inputs(plan), plan.inputs, plan.outputs, bundle.path / file, compact)
    names = [path.relative_to(bundle.path).as_posix() for path in paths]
    precision = "fp32 from fp16 weights" if compact else plan.precision
    stage = Stage(plan.name, file, hash_files(bundle.path, names), plan.inputs, plan.outputs, precision)
    return replace(bundle, stages={**bundle.stages, plan.name: stage})


def example_inputs(plan: StagePlan) -> tuple[Tensor, ...]:
    return plan.examples(torch.Generator().manual_seed(SEED))


def largest_memory(bundle: Bundle, name: str) -> StageMemory:
    """Memory of a stage at the largest sizes that engines are built for."""
    largest = {axis: sizes[-1] for axis, sizes in axis_sizes(bundle.geometry).items()}
    return stage_memory(bundle.path / bundle.stage(name).file, largest)


def add_edge_files(bundle: Bundle) -> Bundle:
    """The bundle with padding embeddings and the probe written."""
    (bundle.path / EDGE_FOLDER).mkdir()
    with opened(bundle, "window") as engine:
        windows = range(bundle.geometry.windows)
        blanks = [window_feeds(bundle, blank_window(bundle, index)) for index in windows]
        blank = [engine.infer(each, ["embedding"])["embedding"] for each in blanks]
        probe = window_feeds(bundle, probe_inputs(bundle))
        answer = engine.infer(probe)
    embedding = answer["embedding"].astype(np.float32)
    np.save(bundle.path / PADDING_FILE, np.concatenate(blank))
    np.savez(bundle.path / PROBE_FILE, **{"embedding": embedding, **probe})  # type: ignore[arg-type]
    files = hash_files(bundle.path, (PADDING_FILE, PROBE_FILE))
    return replace(bundle, edge_files=files, probe_tolerance=_probe_tolerance(bundle, answer))


def _probe_tolerance(bundle: Bundle, answer: Mapping[str, Array]) -> dict[str, float]:
    """By the wire's dtype, from what the window stage answers to the probe."""
    floats = PROBE_TOLERANCE[computes_in(bundle, "window")]
    rounded = answer["embedding_q8"] * answer["scale"].astype(np.float32)
    int8 = floats + INT8_SLACK * relative_rms(rounded, answer["embedding"])
    return {"float32": floats, "float16": floats, "int8": int8}


def blank_window(bundle: Bundle, index: int) -> dict[str, Array]:
    """Inputs of the window stage for a window without any picture."""
    g = bundle.geometry
    return window_inputs(bundle, blank_canvas(g), g.extents(0, 0), [index])


def probe_inputs(bundle: Bundle) -> dict[str, Array]:
    """A synthetic tile for the corner window, where padding of pixels and of tokens both matter."""
    g = bundle.geometry
    side, corner = g.tile_px, g.windows - 1
    rng = np.random.default_rng(SEED)
    ramp = np.add.outer(np.arange(side), 2 * np.arange(side))[..., None] % 200
    tile = (ramp + rng.integers(0, 56, (side, side, 3))).astype(np.uint8)
    extents = g.extents(g.image_size, g.image_size)
    extents[corner] = 0, 0, side // 2 - 3, side // 3
    return window_inputs(bundle, tile_on_canvas(tile, corner, g), extents, [corner])
