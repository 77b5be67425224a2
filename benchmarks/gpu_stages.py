"""How fast the stages run on a GPU, beside segment_anything's own encoder, in one run on one machine.

    python -m benchmarks.gpu_stages --out benchmarks/results/gpu_stages.json

Each piece (a backend on a model) is written to OUT as it is done, and a run that is called again skips it.
Needs torch with CUDA and segment_anything, onnxruntime-gpu in place of onnxruntime, and for the rows of
TensorRT its Python module and pycuda. A piece whose libraries are missing is noted with the reason and tried
again the next time. Bundles that are missing are exported with random weights into build/gpu.

Times are medians, arrays on the host before and after each call of `Engine.infer`, as a site and an edge see
it. Rows of the backend `torch`, which needs nothing but torch, are the stages' own modules replayed as a CUDA
graph, tensors on the device before and after.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
import torch
from torch import Tensor

from benchmarks.attention_forms import FORMS
from benchmarks.machine import describe
from export.decoder import DecoderStage
from export.exporter import ExportOptions, empty_bundle
from export.layers import TABLES, lowered
from export.modules import GlobalStage, WindowStage
from export.sam import Weights, build_sam
from stages.bundle import Bundle
from stages.engines.backends import make_engine
from stages.engines.devices import visible_device
from stages.engines.engine import Engine
from stages.errors import PedsamError
from stages.files import replace_file
from stages.geometry import GEOMETRIES, Geometry
from stages.tensors import Array
from stages.tile_inputs import window_inputs

MODELS = ("mini", "vit_b", "vit_h")
BACKENDS = ("onnxruntime-cuda", "tensorrt")
TORCH = "torch"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BATCHES = (1, 4, 8, 25)
PROMPTS = (1, 4, 16)
WARM_UP, ROUNDS, LIMIT_S = 3, 20, 10.0
CEILING_SIDE = 8192

Row = dict[str, Any]


@click.command()
@click.option("--model", "models", type=click.Choice(tuple(GEOMETRIES)), multiple=True, default=MODELS)
@click.option("--precision", default="fp16", show_default=True, help="Of the bundles that are exported.")
@click.option("--backend", "backends", multiple=True, default=BACKENDS, show_default=True)
@click.option(
    "--device", default="cuda", show_default=True, help="Of torch: cpu tries this script without a GPU."
)
@click.option("--seconds", type=click.FloatRange(0), default=540.0, help="Begin no piece after so long.")
@click.option("--bundles", type=click.Path(path_type=Path), default=Path("build/gpu"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(
    models: tuple[str, ...],
    precision: str,
    backends: tuple[str, ...],
    device: str,
    seconds: float,
    bundles: Path,
    out: Path,
) -> None:
    """Measure what OUT does not hold yet, and print it as a table."""
    until = time.monotonic() + seconds
    results = (
        json.loads(out.read_text(encoding="utf-8"))
        if out.exists()
        else {"machine": _machine(device), "pieces": {}}
    )
    for name, piece in _pieces(models, precision, backends, device, bundles):
        if "rows" in results["pieces"].get(name, {}):
            continue
        if time.monotonic() > until:
            click.echo(f"time is up before {name}; call again")
            break
        click.echo(f"measuring {name}")
        results["pieces"][name] = _run(piece)
        _write(out, results)
    click.echo(markdown(results["pieces"]))


def _pieces(
    models: tuple[str, ...], precision: str, backends: tuple[str, ...], device: str, bundles: Path
) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """What there is to measure, most wanted first, each by a name that does not change between runs."""
    yield "ceiling", partial(_ceiling, device)
    for model in models:
        path = bundles / f"{model}-{precision}"
        for backend in backends:
            name = f"{model} {precision} {backend}"
            if backend == TORCH:
                yield name, partial(_torch_stages, GEOMETRIES[model], DTYPES[precision], device)
            else:
                yield name, partial(_stages, path, model, precision, backend)
        yield (
            f"{model} {precision} attention",
            partial(_attention, GEOMETRIES[model], DTYPES[precision], device),
        )
        yield f"{model} segment_anything", partial(_segment_anything, GEOMETRIES[model], device)


def _run(piece: Callable[[], list[Row]]) -> Row:
    try:
        return {"rows": piece()}
    except (PedsamError, subprocess.CalledProcessError, RuntimeError) as exc:  # torch's, CUDA's among them
        return {"missing": str(exc)[:500]}


# What a machine can do at most


def _ceiling(device: str) -> list[Row]:
    """TFLOP/s of one large bf16 matrix product on random data: what torch can get out of this machine."""
    side = CEILING_SIDE if device == "cuda" else 512
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    milliseconds = _time(lambda: a @ b, _synchronise(device))
    return [{"what": f"bf16 {side} x {side} x {side}", "tflops": _tflops(2 * side**3, milliseconds)}]


# The stages


def _stages(path: Path, model: str, precision: str, backend: str) -> list[Row]:
    bundle = _bundle(path, model, precision)
    if backend == "tensorrt":
        _build(path)
    rows = []
    for stage, sizes in {"window": BATCHES, "global": (1,), "decoder": PROMPTS}.items():
        engine = make_engine(bundle, stage, backend)
        engine.open()
        try:
            rows += [_row(bundle, engine, stage, size) for size in sizes]
        finally:
            engine.close()
    return rows


def _row(bundle: Bundle, engine: Engine, stage: str, size: int) -> Row:
    inputs = feeds(bundle, stage, size)
    outputs = ["embedding"] if stage == "window" else None
    milliseconds = _time(lambda: engine.infer(inputs, outputs), lambda: None)
    return {**_timed(bundle.geometry, stage, size, milliseconds), "backend": engine.backend}


def _timed(g: Geometry, stage: str, size: int, milliseconds: float) -> Row:
    row: Row = {"what": f"{stage} x {size}", "ms": milliseconds}
    if stage == "window":
        row["tiles_per_s"] = 1000 * size / milliseconds
    if work := flops(g, stage):
        row["tflops"] = _tflops(size * work, milliseconds)
    return row


def _bundle(path: Path, model: str, precision: str) -> Bundle:
    if not (path / "bundle.json").exists():
        _pedsam("export", "--model", model, "--random-weights", "--out", str(path), "--precision", precision)
    return Bundle.load(path)


def _build(path: Path) -> None:
    _pedsam("build", "--bundle", str(path))


def _pedsam(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pedsam", *arguments], check=True)


def feeds(bundle: Bundle, stage: str, size: int) -> dict[str, Array]:
    """Random inputs; `size` is the batch of tiles, or the number of prompted objects."""
    rng, g = np.random.default_rng(0), bundle.geometry
    if stage == "window":
        side = g.grid * g.tile_px
        noise = rng.integers(0, 256, (side, side, 3), np.uint8)
        return window_inputs(bundle, noise, g.extents(side, side), range(size))
    if stage == "global":
        embeddings = rng.standard_normal((g.windows, *bundle.embedding_shape))
        return {"embedding": embeddings.astype(bundle.embedding_dtype)}
    return {
        "image_embedding": rng.standard_normal((1, g.prompt_dim, g.tokens, g.tokens)).astype(np.float32),
        "point_coords": (rng.random((size, 2, 2)) * g.image_size).astype(np.float32),
        "point_labels": np.tile(np.array([[2, 3]], np.float32), (size, 1)),
        "mask_input": np.zeros((size, 1, g.mask_px, g.mask_px), np.float32),
        "has_mask_input": np.zeros((size, 1), np.float32),
    }


def flops(g: Geometry, stage: str) -> int:
    """Floating point operations of one tile, or of one picture's global stage; 0 where they are not counted.

    Matrix products alone (two operations a multiplication): projections, attention, MLP, the relative
    positions, and the patch embedding or the neck.
    """
    window, whole = g.window**2, g.tokens**2
    if stage == "window":
        embed = 2 * window * g.dim * 3 * g.patch**2
        return embed + len(g.window_blocks) * _block(g.dim, window, g.window)
    if stage == "global":
        neck = 2 * whole * g.prompt_dim * (g.dim + 9 * g.prompt_dim)
        return neck + len(g.global_blocks) * _block(g.dim, whole, g.tokens)
    return 0


def _block(dim: int, tokens: int, side: int) -> int:
    projections = 2 * tokens * dim * dim * (3 + 1 + 8)  # qkv, output, and an MLP four times as wide
    return projections + 2 * 2 * tokens * tokens * dim + 2 * 2 * tokens * side * dim


def _torch_stages(g: Geometry, dtype: torch.dtype, device: str) -> list[Row]:
    rows = []
    sam = build_sam(g)
    bundle = empty_bundle(Weights(sam, g, "untrained", ""), g, Path(), ExportOptions())
    with torch.inference_mode():
        stages = {"window": WindowStage(sam, g, torch.float16), "global": GlobalStage(sam, g)}
        for name, stage in {**stages, "decoder": DecoderStage(sam)}.items():
            model = lowered(stage, dtype).to(device)
            for size in {"window": BATCHES, "global": (1,), "decoder": PROMPTS}[name]:
                inputs = [torch.from_numpy(array).to(device) for array in feeds(bundle, name, size).values()]
                with torch.device(device):  # the modules make small tensors as they run
                    call = _replayed(partial(model, *inputs), device)
                    milliseconds = _time(call, _synchronise(device))
                rows.append(_timed(g, name, size, milliseconds))
    return rows


def _attention(g: Geometry, dtype: torch.dtype, device: str) -> list[Row]:
    """The stages with each way to compute attention; `difference` is the largest from the exported one."""
    rows: list[Row] = []
    sam = build_sam(g)
    torch.manual_seed(0)
    for name, table in sam.image_encoder.named_parameters():
        if name.endswith(TABLES):
            table.data.normal_(0, 0.1)  # they start as zeros, which would hide a form that leaves them out
    bundle = empty_bundle(Weights(sam, g, "untrained", ""), g, Path(), ExportOptions())
    with torch.inference_mode(), torch.device(device):
        for stage, size in (("global", 1), ("window", BATCHES[-1])):
            module = GlobalStage(sam, g) if stage == "global" else WindowStage(sam, g, torch.float16)
            model = lowered(module.cpu(), dtype).to(device)
            inputs = [torch.from_numpy(array).to(device) for array in feeds(bundle, stage, size).values()]
            expected: Tensor | None = None
            for form, function in FORMS.items():
                with patch("export.modules.attention", function):
                    first = model(*inputs)
                    output = first if stage == "global" else first[0]
                    expected = output if expected is None else expected
                    milliseconds = _time(_replayed(partial(model, *inputs), device), _synchronise(device))
                difference = float((output.float() - expected.float()).abs().max())
                row = _timed(g, stage, size, milliseconds)
                rows.append({**row, "what": f"{row['what']}, attention {form}", "difference": difference})
    return rows


def _replayed(call: Callable[[], Any], device: str) -> Callable[[], Any]:
    """The call as a CUDA graph, so that starting kernels one by one is not what is measured."""
    if device != "cuda":
        return call
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


# The same model as its authors run it


def _segment_anything(geometry: Geometry, device: str) -> list[Row]:
    encoder = build_sam(geometry).image_encoder.to(device).eval()
    pixels = torch.randn(1, 3, geometry.image_size, geometry.image_size, device=device)
    work = geometry.windows * flops(geometry, "window") + flops(geometry, "global")
    rows = []
    with torch.inference_mode():
        for what, dtype, compiled in (
            ("eager fp32", torch.float32, False),
            ("eager bf16", torch.bfloat16, False),
            ("torch.compile bf16", torch.bfloat16, True),
        ):
            model = encoder.to(dtype)
            run = torch.compile(model) if compiled else model
            picture = pixels.to(dtype)
            milliseconds = _time(partial(run, picture), _synchronise(device))
            rows.append(
                {"what": f"encoder, {what}", "ms": milliseconds, "tflops": _tflops(work, milliseconds)}
            )
    return rows


# Measuring


def _time(call: Callable[[], Any], wait: Callable[[], None]) -> float:
    """Median milliseconds of a call, warm; `wait` returns when the device is done with it."""
    for _ in range(WARM_UP):
        call()
    wait()
    times: list[float] = []
    while len(times) < ROUNDS and (sum(times) < LIMIT_S or len(times) < 3):
        started = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def _synchronise(device: str) -> Callable[[], None]:
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def _tflops(operations: int, milliseconds: float) -> float:
    return operations / milliseconds / 1e9


# Reporting


def _machine(device: str) -> Row:
    gpu = visible_device()
    facts = {**describe(), "gpu": str(gpu), "torch": torch.__version__, "cuda": torch.version.cuda}
    if device == "cuda":
        asked = "--query-gpu=name,driver_version,memory.total,clocks.max.sm"
        line = ["nvidia-smi", asked, "--format=csv,noheader"]
        facts["driver"] = subprocess.run(line, capture_output=True, text=True, check=False).stdout.strip()
    return facts


def _write(out: Path, results: Row) -> None:
    """By rename: a run that is killed leaves the pieces that were done."""
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, json.dumps(results, indent=1) + "\n")


@dataclass(frozen=True)
class _Line:
    piece: str
    row: Row
    ceiling: float | None

    def __str__(self) -> str:
        tflops = self.row.get("tflops")
        share = f"{tflops / self.ceiling:.0%}" if tflops and self.ceiling else ""
        cells = (
            self.piece,
            self.row["what"],
            _number(self.row.get("ms")),
            _number(self.row.get("tiles_per_s")),
            _number(tflops),
            share,
        )
        return f"| {' | '.join(cells)} |"


def markdown(pieces: Row) -> str:
    """Every row, with its share of the bf16 ceiling of the same run; what could not be measured, and why."""
    ceiling = pieces.get("ceiling", {}).get("rows", [{}])[0].get("tflops")
    lines = ["| | | ms | tiles/s | TFLOP/s | of the bf16 ceiling |", "| --- | --- | --- | --- | --- | --- |"]
    for name, piece in pieces.items():
        lines += [str(_Line(name, row, ceiling)) for row in piece.get("rows", [])]
        if "missing" in piece:
            lines.append(f"| {name} | not measured: {' '.join(piece['missing'].split())} | | | | |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


if __name__ == "__main__":
    main()
