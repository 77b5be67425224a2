"""Stages on a GPU: TensorRT and onnxruntime's CUDA provider, compared with onnxruntime on the CPU.

Needs an NVIDIA GPU; for TensorRT the module tensorrt or tensorrt_rtx, and pycuda; for CUDA onnxruntime-gpu.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import onnxruntime
import pytest

from export.checks.parity import relative_difference
from export.engines.build import Target, build_stage
from stages.bundle import Bundle
from stages.engines.backends import engine_factories, make_engine
from stages.engines.devices import Device
from stages.engines.engine import Engine
from stages.engines.onnxruntime_engine import CUDA
from stages.engines.plans import plan_path, record_path
from stages.engines.thread import EngineThread
from stages.errors import EngineError
from stages.tensors import Array
from stages.tile_inputs import blank_canvas, whole_inputs, window_inputs
from tests.stages.engines.test_engine import mini_tiles
from tests.stages.engines.test_tensorrt_engine import decoder_feeds

pytestmark = pytest.mark.gpu
STAGES = ("window", "global", "decoder")
# Sums are taken in another order; fp16 outputs then differ by a step or two, int8 ones by one of 127.
TOLERANCE = {"float32": 1e-3, "float16": 4e-3, "int8": 1 / 127}


@contextlib.contextmanager
def opened(bundle: Bundle, name: str, backend: str) -> Iterator[Engine]:
    engine = make_engine(bundle, name, backend)
    engine.open()
    try:
        yield engine
    finally:
        engine.close()


def feeds_of(bundle: Bundle, name: str, count: int = 2) -> dict[str, Array]:
    if name == "window":
        return mini_tiles(bundle, count)
    if name == "decoder":
        return decoder_feeds(bundle, count, 2)
    shape = (bundle.geometry.windows, *bundle.embedding_shape)
    values = np.random.default_rng(5).standard_normal(shape)
    return {"embedding": values.astype(bundle.embedding_dtype)}


def check(bundle: Bundle, name: str, backend: str, count: int = 2) -> None:
    feeds = feeds_of(bundle, name, count)
    with opened(bundle, name, "onnxruntime-cpu") as reference, opened(bundle, name, backend) as engine:
        expected, found = reference.infer(feeds), engine.infer(feeds)
    for output, array in expected.items():
        assert found[output].dtype == array.dtype
        assert relative_difference(found[output], array) < TOLERANCE[array.dtype.name], output


@pytest.mark.parametrize("name", STAGES)
def test_cuda_computes_what_the_cpu_does(bundle: Bundle, cuda: Device, name: str) -> None:
    check(bundle, name, "onnxruntime-cuda")


@pytest.mark.parametrize("name", STAGES)
def test_tensorrt_computes_what_the_cpu_does(bundle: Bundle, target: Target, name: str) -> None:
    assert build_stage(bundle, name, target, lambda fraction: None).reason == "not built yet"
    check(bundle, name, "tensorrt")
    check(bundle, name, "auto")


@pytest.mark.parametrize("count", [1, 3])
def test_a_plan_takes_every_batch_of_its_profile(bundle: Bundle, target: Target, count: int) -> None:
    build_stage(bundle, "window", target, lambda fraction: None)
    check(bundle, "window", "tensorrt", count)


def test_a_plan_runs_more_than_its_profile_in_parts(bundle: Bundle, target: Target) -> None:
    build_stage(bundle, "window", target, lambda fraction: None)
    three = mini_tiles(bundle, 3)
    with opened(bundle, "window", "tensorrt") as engine:
        expected = engine.infer(three)["embedding"]
        found = engine.infer({name: np.concatenate([array] * 10) for name, array in three.items()})
    many = np.concatenate([expected] * 10)
    assert relative_difference(found["embedding"], many) < TOLERANCE["float16"]


def test_results_outlive_the_next_call(bundle: Bundle, target: Target) -> None:
    build_stage(bundle, "window", target, lambda fraction: None)
    tiles = mini_tiles(bundle, 2)
    with opened(bundle, "window", "tensorrt") as engine:
        first = engine.infer(tiles)["embedding"]
        kept = first.copy()
        second = engine.infer({**tiles, "tile": 255 - tiles["tile"]})["embedding"]
        again = engine.infer(tiles)["embedding"]
    assert np.array_equal(first, kept)
    assert not np.array_equal(first, second)
    assert np.array_equal(first, again)


@pytest.mark.anyio
async def test_engines_of_one_process_share_the_gpu(bundle: Bundle, target: Target) -> None:
    """Two TensorRT engines and, where it is installed, one of onnxruntime, run in turns."""
    for name in ("window", "global"):
        build_stage(bundle, name, target, lambda fraction: None)
    factories = engine_factories(bundle, ("window", "global"), "tensorrt")
    if CUDA in onnxruntime.get_available_providers():
        factories |= engine_factories(bundle, ("decoder",), "onnxruntime-cuda")
    feeds = {name: feeds_of(bundle, name) for name in factories}
    async with EngineThread(factories) as engines:
        first = {name: await engines.infer(name, feeds[name]) for name in factories}
        for name in [*factories, *reversed(factories)]:
            for output, array in (await engines.infer(name, feeds[name])).items():
                assert np.array_equal(array, first[name][output]), (name, output)


def test_a_plan_is_loaded_again_and_again(bundle: Bundle, target: Target) -> None:
    build_stage(bundle, "global", target, lambda fraction: None)
    results = []
    for _ in range(3):
        with opened(bundle, "global", "tensorrt") as engine:
            results.append(engine.infer(feeds_of(bundle, "global"))["image_embedding"])
    assert all(np.array_equal(result, results[0]) for result in results)


def test_a_plan_that_does_not_fit_is_an_error_under_auto_too(bundle: Bundle, target: Target) -> None:
    build_stage(bundle, "global", target, lambda fraction: None)
    path = record_path(plan_path(bundle, "global", target.device))
    path.write_text(path.read_text().replace(target.version, "10.0.0"))
    with pytest.raises(EngineError, match=r"built for .* 10.0.0, and here is .*; build it again"):
        make_engine(bundle, "global", "auto").open()


def test_stages_on_the_gpu_equal_the_model_run_whole(bundle: Bundle, target: Target) -> None:
    """All windows through the window stage, then the global stage: split = whole, on this backend."""
    for name in ("window", "global"):
        build_stage(bundle, name, target, lambda fraction: None)
    g = bundle.geometry
    canvas = blank_canvas(g)
    rows, cols = g.resized(3, 4)
    canvas[:rows, :cols] = np.random.default_rng(7).integers(0, 256, (rows, cols, 3))
    feeds = window_inputs(bundle, canvas, g.extents(rows, cols), range(g.windows))
    with opened(bundle, "window", "tensorrt") as window:
        embedding = window.infer(feeds, ["embedding"])["embedding"]
    with opened(bundle, "global", "tensorrt") as last:
        split = last.infer({"embedding": embedding})["image_embedding"]
    with opened(bundle, "whole", "onnxruntime-cpu") as whole:
        expected = whole.infer(whole_inputs(bundle, canvas, g.extents(rows, cols)))["image_embedding"]
    assert relative_difference(split, expected) < 5e-3  # the embeddings between the two are fp16
