"""The TensorRT engine, its two modules replaced by ones that compute in this machine's own memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.bundle import Bundle
from stages.engines.backends import make_engine
from stages.engines.devices import Device
from stages.engines.engine import Engine
from stages.engines.plans import record_path
from stages.engines.tensorrt_engine import TensorRtEngine, tensorrt_library
from stages.engines.thread import EngineThread
from stages.errors import EngineError
from stages.tensors import Array
from tests.stages.engines.test_engine import mini_tiles
from tests.support.engines import BOARD, BROKEN, DISCRETE, FakeCuda, FakeTensorRt, linked, put_plan

DEVICES = pytest.mark.parametrize("device", [DISCRETE, BOARD], ids=["card", "board"])


@pytest.fixture
def bundle(mini_bundle: Bundle, tmp_path: Path) -> Bundle:
    return linked(mini_bundle, tmp_path / "bundle")


class Opened:
    """A TensorRtEngine over fake modules, which can be looked at."""

    def __init__(self, bundle: Bundle, name: str, device: Device, **cuda: Any) -> None:
        put_plan(bundle, name, device)
        self.cuda = FakeCuda(**cuda)
        self.trt = FakeTensorRt(bundle, name)
        self.engine = TensorRtEngine(bundle, name, device, (self.trt, self.cuda))


@pytest.fixture
def reference(mini_bundle: Bundle) -> Iterator[Engine]:
    engine = make_engine(mini_bundle, "window", "onnxruntime-cpu", threads=1)
    engine.open()
    yield engine
    engine.close()


def equal(found: dict[str, Array], expected: dict[str, Array]) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == array.dtype and np.array_equal(found[name], array)
        for name, array in expected.items()
    )


@DEVICES
def test_it_computes_what_its_stage_computes(bundle: Bundle, reference: Engine, device: Device) -> None:
    opened = Opened(bundle, "window", device)
    opened.engine.open()
    for count in (1, 3, 2):
        feeds = mini_tiles(bundle, count)
        assert equal(opened.engine.infer(feeds), reference.infer(feeds))
        assert equal(opened.engine.infer(feeds, ["scale"]), reference.infer(feeds, ["scale"]))
    opened.engine.close()


def test_what_it_returns_stays_as_it_is_when_buffers_are_used_again(bundle: Bundle) -> None:
    opened = Opened(bundle, "window", DISCRETE)
    opened.engine.open()
    tiles = mini_tiles(bundle, 2)
    first = opened.engine.infer(tiles)
    kept = {name: array.copy() for name, array in first.items()}
    tiles["tile"] = 255 - tiles["tile"]
    second = opened.engine.infer(tiles)
    assert equal(first, kept)
    assert not np.array_equal(first["embedding"], second["embedding"])
    assert all(array.flags.owndata for array in first.values())


def test_memory_is_taken_once_at_the_largest_shape(bundle: Bundle) -> None:
    opened = Opened(bundle, "window", DISCRETE)
    opened.engine.open()
    taken = [call for call in opened.cuda.calls if call in ("pagelocked_empty", "mem_alloc")]
    assert taken == ["pagelocked_empty", "mem_alloc"] * 6  # three inputs, three outputs
    assert opened.trt.execution is not None
    before = dict(opened.trt.execution.addresses)
    opened.cuda.calls.clear()
    for count in (3, 1):
        opened.engine.infer(mini_tiles(bundle, count))
    assert opened.trt.execution.addresses == before
    assert not {"pagelocked_empty", "mem_alloc"} & set(opened.cuda.calls)


def test_a_gpu_that_shares_the_systems_memory_copies_nothing(bundle: Bundle) -> None:
    opened = Opened(bundle, "window", BOARD)
    opened.engine.open()
    opened.engine.infer(mini_tiles(bundle, 2))
    assert not {"mem_alloc", "memcpy_htod_async", "memcpy_dtoh_async"} & set(opened.cuda.calls)


def test_only_outputs_that_are_asked_for_are_copied_back(bundle: Bundle) -> None:
    opened = Opened(bundle, "window", DISCRETE)
    opened.engine.open()
    opened.engine.infer(mini_tiles(bundle, 1), ["embedding"])
    assert opened.cuda.calls.count("memcpy_dtoh_async") == 1


def test_more_than_the_plan_takes_runs_in_parts(bundle: Bundle, reference: Engine) -> None:
    opened = Opened(bundle, "window", DISCRETE)
    opened.engine.open()
    three = mini_tiles(bundle, 3)
    many = {name: np.concatenate([array] * 10) for name, array in three.items()}
    found = opened.engine.infer(many)
    assert opened.trt.execution is not None
    assert opened.trt.execution.batches == [25, 5]
    one = {name: array[:1] for name, array in three.items()}
    close = reference.infer(one)["embedding"][0].astype(np.float32)
    assert found["embedding"].shape[0] == 30
    for index in (0, 24, 27):  # the same tile, whichever part it ran in
        assert np.abs(found["embedding"][index - index % 3].astype(np.float32) - close).max() < 4e-3


def decoder_feeds(bundle: Bundle, objects: int, points: int) -> dict[str, Array]:
    g, rng = bundle.geometry, np.random.default_rng(3)
    embedding = rng.standard_normal((1, g.prompt_dim, g.tokens, g.tokens))
    return {
        "image_embedding": embedding.astype(np.float32),
        "point_coords": (rng.random((objects, points, 2)) * g.image_size).astype(np.float32),
        "point_labels": np.ones((objects, points), np.float32),
        "mask_input": np.zeros((objects, 1, g.mask_px, g.mask_px), np.float32),
        "has_mask_input": np.zeros((objects, 1), np.float32),
    }


def test_objects_beyond_the_plan_run_in_parts_of_one_picture(bundle: Bundle) -> None:
    opened = Opened(bundle, "decoder", DISCRETE)
    opened.engine.open()
    feeds = decoder_feeds(bundle, 6, 2)
    found = opened.engine.infer(feeds)
    assert found["low_res_masks"].shape == (6, 4, bundle.geometry.mask_px, bundle.geometry.mask_px)
    last = {name: array if len(array) == 1 else array[5:] for name, array in feeds.items()}
    alone = opened.engine.infer(last)
    assert np.abs(found["iou"][5] - alone["iou"][0]).max() < 1e-5


def test_more_points_than_the_plan_takes_are_refused(bundle: Bundle) -> None:
    opened = Opened(bundle, "decoder", DISCRETE)
    opened.engine.open()
    with pytest.raises(EngineError, match=r"point_coords has shape \[1, 33, 2\], .*up to \[4, 32, 2\]; give"):
        opened.engine.infer(decoder_feeds(bundle, 1, 33))


@DEVICES
def test_closing_gives_everything_back(bundle: Bundle, device: Device) -> None:
    opened = Opened(bundle, "global", device)
    opened.engine.open()
    assert opened.cuda.live
    opened.engine.close()
    assert not opened.cuda.live
    assert not opened.cuda.stack


@pytest.mark.parametrize(
    ("call", "spare"), [("Stream", 0), ("pagelocked_empty", 0), ("pagelocked_empty", 4), ("mem_alloc", 5)]
)
def test_a_start_that_fails_half_way_leaves_nothing(bundle: Bundle, call: str, spare: int) -> None:
    opened = Opened(bundle, "window", DISCRETE, fail_at=call, spare=spare)
    with pytest.raises(EngineError, match=f"CUDA failed on stage window \\({call} failed: out of memory\\)"):
        opened.engine.open()
    assert not opened.cuda.live
    assert not opened.cuda.stack
    opened.engine.close()


def test_an_error_of_cuda_in_a_call_leaves_the_context_as_it_was(bundle: Bundle) -> None:
    opened = Opened(bundle, "window", DISCRETE, fail_at="synchronize")
    opened.engine.open()
    with pytest.raises(EngineError, match=r"CUDA failed on stage window .*restart this one"):
        opened.engine.infer(mini_tiles(bundle, 1))
    assert not opened.cuda.stack
    opened.engine.close()
    assert not opened.cuda.live


def test_a_plan_that_tensorrt_refuses_says_why(bundle: Bundle) -> None:
    opened = Opened(bundle, "window", DISCRETE)
    put_plan(bundle, "window", DISCRETE, BROKEN)
    with pytest.raises(
        EngineError, match=r"window.plan: tensorrt 10.3.0 .*magicTag does not match; run pedsam"
    ):
        opened.engine.open()
    assert not opened.cuda.stack


def test_too_little_memory_to_run_says_so(bundle: Bundle) -> None:
    put_plan(bundle, "window", DISCRETE)
    cuda = FakeCuda()
    engine = TensorRtEngine(bundle, "window", DISCRETE, (FakeTensorRt(bundle, "window", memory=False), cuda))
    with pytest.raises(EngineError, match=r"has no memory to run this plan: createExecutionContext: OutOf"):
        engine.open()


def test_a_second_failure_says_its_own_reason(bundle: Bundle) -> None:
    opened = Opened(bundle, "window", DISCRETE)
    opened.engine.open()
    tiles = mini_tiles(bundle, 1)
    for reason in ("enqueueV3: first reason", "enqueueV3: second reason"):
        opened.trt.errors = [reason]
        with pytest.raises(EngineError, match=f"^TensorRT refused to run its plan: {reason}$"):
            opened.engine.infer(tiles)


def test_of_many_errors_the_newest_are_told_whole(bundle: Bundle) -> None:
    opened = Opened(bundle, "window", DISCRETE)
    opened.engine.open()
    opened.trt.errors = [f"error {number} {'x' * 200}" for number in range(30)]
    told = "; ".join(opened.trt.errors[-2:])
    with pytest.raises(EngineError, match=f"^TensorRT refused to run its plan: {told}$"):
        opened.engine.infer(mini_tiles(bundle, 1))


def test_an_error_that_is_too_long_is_cut(bundle: Bundle) -> None:
    opened = Opened(bundle, "window", DISCRETE)
    opened.engine.open()
    opened.trt.errors = ["x" * 9999]
    with pytest.raises(EngineError, match=r"^TensorRT refused to run its plan: x{500}$"):
        opened.engine.infer(mini_tiles(bundle, 1))


def test_a_plan_of_another_device_is_never_loaded(bundle: Bundle) -> None:
    opened = Opened(bundle, "window", DISCRETE)
    other = Device("Test Card", (8, 9), 8 << 30, integrated=False)
    put_plan(bundle, "window", other)
    here = record_path(put_plan(bundle, "window", DISCRETE))
    there = here.parent.with_name(other.folder) / here.name
    here.write_bytes(there.read_bytes())
    with pytest.raises(
        EngineError, match=r"built for the GPU Test Card \(sm_89\), and here is Test Card \(sm_86"
    ):
        opened.engine.open()
    assert not opened.cuda.calls


@pytest.mark.anyio
async def test_two_engines_of_one_thread_share_the_device(bundle: Bundle, reference: Engine) -> None:
    cuda = FakeCuda()

    def make(name: str) -> TensorRtEngine:
        put_plan(bundle, name, DISCRETE)
        return TensorRtEngine(bundle, name, DISCRETE, (FakeTensorRt(bundle, name), cuda))

    factories = {name: (lambda name=name: make(name)) for name in ("window", "global")}
    feeds = mini_tiles(bundle, 2)
    async with EngineThread(factories) as engines:
        found = await engines.infer("window", feeds)
        again = np.concatenate([found["embedding"][:1]] * bundle.geometry.windows)
        await engines.infer("global", {"embedding": again})
        assert equal(await engines.infer("window", feeds), reference.infer(feeds))
        assert engines.engine("window").backend == "tensorrt 10.3.0 on Test Card (sm_86)"
        assert engines.engine("window").preferred_batch == 8
    assert not cuda.live


# What is missing on this machine


def test_without_tensorrt_it_says_where_it_comes_from() -> None:
    with pytest.raises(EngineError, match=r"the Python module tensorrt is missing .*JetPack.*pip install"):
        tensorrt_library("tensorrt")


def test_a_record_cannot_name_another_module_to_import(bundle: Bundle) -> None:
    path = record_path(put_plan(bundle, "window", DISCRETE))
    path.write_text(path.read_text().replace('"tensorrt"', '"antigravity"'))
    with pytest.raises(
        EngineError, match="'antigravity' is no TensorRT, expected one of tensorrt, tensorrt_r"
    ):
        TensorRtEngine(bundle, "window", DISCRETE).open()


def test_without_pycuda_it_says_how_to_get_it(bundle: Bundle) -> None:
    """The record names TensorRT for RTX, which is installed for the tests of the builder."""
    trt = tensorrt_library("tensorrt_rtx")
    plan = put_plan(bundle, "window", DISCRETE)
    text = record_path(plan).read_text().replace('"tensorrt"', '"tensorrt_rtx"')
    record_path(plan).write_text(text.replace('"10.3.0"', f'"{trt.__version__}"'))
    with pytest.raises(EngineError, match=r"the Python module pycuda.driver is missing .*pip install pycuda"):
        TensorRtEngine(bundle, "window", DISCRETE).open()


# What TensorRT prints while it loads a plan

SAMPLES = Path(__file__).parents[2] / "jetson/samples"
VERSION_TAG, OTHER_DEVICE, OTHER_MODEL = (SAMPLES / "trt-deserialize-errors.txt").read_text().splitlines()


def loading(bundle: Bundle, data: bytes | None, severity: int, message: str) -> TensorRtEngine:
    put_plan(bundle, "window", BOARD, data)
    trt = FakeTensorRt(bundle, "window")
    trt.loading = [(severity, message)]
    return TensorRtEngine(bundle, "window", BOARD, (trt, FakeCuda()))


@pytest.mark.parametrize("message", [VERSION_TAG, OTHER_DEVICE], ids=["version", "device"])
def test_a_plan_that_tensorrt_refuses_is_to_be_built_again(bundle: Bundle, message: str) -> None:
    with pytest.raises(EngineError) as refused:
        loading(bundle, BROKEN, FakeTensorRt.ILogger.Severity.ERROR, message).open()
    assert "cannot load this plan: " + message[:100] in str(refused.value)
    assert str(refused.value).endswith("; run pedsam build again")


def test_a_plan_of_another_model_of_device_is_only_warned_of(bundle: Bundle, reference: Engine) -> None:
    engine = loading(bundle, None, FakeTensorRt.ILogger.Severity.WARNING, OTHER_MODEL)
    engine.open()
    feeds = mini_tiles(bundle, 2)
    assert equal(engine.infer(feeds), reference.infer(feeds))
    engine.close()


def test_no_memory_to_load_a_plan_is_not_told_as_a_bad_plan(bundle: Bundle) -> None:
    nvmap = (SAMPLES / "nvmap-error12.txt").read_text().splitlines()[0]
    with pytest.raises(
        EngineError, match=r"has no memory to load this plan: .* error 12; stop other programs"
    ):
        loading(bundle, BROKEN, FakeTensorRt.ILogger.Severity.ERROR, nvmap).open()
