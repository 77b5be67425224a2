"""How long the edge's own steps take on this machine, on a synthetic frame with one object."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from anyio import CancelScope, to_thread

from runtime.check.prediction import EdgeTimes
from runtime.detectors.kinds import make_find
from runtime.detectors.network import Find
from runtime.detectors.thread import LookThread, Overdue
from runtime.encoder import local_encoder
from runtime.frames.canvas import Canvas, make_canvas
from runtime.frames.sources import Frame
from runtime.keeper import KeepOptions
from runtime.objects.decode import ObjectMask, decode
from runtime.objects.matching import FrameTokens, MemoryFrame, propagate
from runtime.objects.prompts import Prompt
from runtime.objects.tracking import RECENT_MEMORY, TrackState
from runtime.results.result import FrameResult, ObjectResult
from runtime.results.sinks import MaskLines, OverlayVideo, banner_for
from runtime.sites.client import choose_wire
from stages.bundle import Bundle
from stages.engines.backends import engine_factories
from stages.engines.thread import EngineThread
from stages.errors import EngineError
from stages.needs import require_edge
from stages.places import edge_stages
from stages.tensors import Array

RUNS = (3, 20)  # of each step, at least and at most, after a warm-up
MEASURE_S = 0.5  # after which no run beyond the minimum is started
NOTHING_KEPT = KeepOptions()
_FPS = 30.0  # what the video's header says; it changes nothing in how long writing takes


async def measure_edge(
    bundle: Bundle,
    size: tuple[int, int],
    backend: str,
    threads: int | None,
    keep: KeepOptions = NOTHING_KEPT,
) -> EdgeTimes:
    """Run each step of the loop for a frame of (height, width); nothing is kept of what it writes.

    Raises BundleError or EngineError when a stage or a detector cannot be used here, InputError when no file
    can be written.
    """
    names = [*edge_stages(bundle), *(["window"] if bundle.has("window") else [])]
    require_edge(bundle, names, backend, threads)
    stopwatch = _Stopwatch()
    frame = _picture(*size)
    async with (
        EngineThread(engine_factories(bundle, names, backend, threads)) as engines,
        local_encoder(bundle, engines, choose_wire(bundle, None)) as encoder,
    ):
        canvas = make_canvas(frame, bundle.geometry)
        read_s = await stopwatch.seconds(lambda: to_thread.run_sync(make_canvas, frame, bundle.geometry))
        embeddings = bundle.padding_embeddings()
        global_s = await stopwatch.seconds(lambda: encoder.run_global(embeddings))
        image = await encoder.run_global(embeddings)
        height, width = size
        prompt = Prompt("object", (width * 0.25, height * 0.25, width * 0.75, height * 0.75))
        decode_s = await stopwatch.seconds(lambda: decode(engines, image, canvas, [prompt]))
        await _follow(stopwatch, image)
        write_s = await _write_s(stopwatch, bundle, frame, canvas, prompt)
        head_s = 0.0
        if bundle.head_blocks:
            tiles = canvas.window_inputs(canvas.windows, bundle)
            head_s = await stopwatch.seconds(lambda: encoder.head.inputs(tiles))
        before_s = stopwatch.processor_s
        detect_s = await _detect_s(stopwatch, canvas, keep)
        processor_s, window_s = stopwatch.processor_s, None
        if "window" in engines:
            inputs = await encoder.head.inputs(canvas.window_inputs([0], bundle))
            window_s = await stopwatch.seconds(lambda: engines.infer("window", inputs))
    cores = len(os.sched_getaffinity(0))
    return EdgeTimes(
        read_s,
        global_s,
        decode_s,
        write_s,
        window_s,
        processor_s,
        cores,
        head_s,
        detect_s,
        processor_s - before_s,
    )


async def _detect_s(stopwatch: _Stopwatch, canvas: Canvas, keep: KeepOptions) -> float:
    """Seconds that all detectors look at one frame; they take as long whatever it shows. Raises EngineError
    for one that fails."""
    if not keep.kinds:
        return 0.0
    picture, thread = canvas.pixels[: canvas.rows, : canvas.cols], LookThread(keep.look_s)

    def look(kind: str, find: Find) -> None:
        thread.began(f"--keep {kind}")
        try:
            list(find(picture))
        except BaseException as exc:  # a user's own may raise anything
            raise EngineError(
                f"--keep {kind} failed ({type(exc).__name__}: {exc}); a run would lose its frames"
            ) from exc

    detect_s = 0.0
    try:
        for kind in keep.kinds:
            find = await thread.open(partial(make_find, kind, keep.detectors))
            detect_s += await stopwatch.seconds(partial(thread.look, partial(look, kind, find)))
    except Overdue as exc:
        raise EngineError(
            f"{exc.name} has looked at one frame for more than {keep.look_s:g} s; a run would lose its frames"
        ) from exc
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(thread.close)
    return detect_s


async def _follow(stopwatch: _Stopwatch, image_embedding: Array) -> None:
    """Match a frame with the memory of a track. It runs beside the engines: only its processor counts."""
    features = FrameTokens(image_embedding).features
    labels = np.zeros(features.shape[:2], np.float32)
    middle = slice(len(labels) // 4, len(labels) * 3 // 4)
    labels[middle, middle] = 1
    memory = [MemoryFrame(features.copy(), labels) for _ in range(1 + RECENT_MEMORY)]
    await stopwatch.seconds(
        lambda: to_thread.run_sync(lambda: propagate(FrameTokens(image_embedding), memory))
    )


async def _write_s(
    stopwatch: _Stopwatch, bundle: Bundle, frame: npt.NDArray[np.uint8], canvas: Canvas, prompt: Prompt
) -> float:
    """Masks to frame size, mask lines and an overlay video, as a run of a video writes them."""
    found = ObjectMask(prompt, _logits(canvas), 1.0)
    with tempfile.TemporaryDirectory() as folder:
        banner = banner_for(bundle.weights)
        sinks = (
            MaskLines(Path(folder) / "masks.jsonl", bundle.weights),
            OverlayVideo(Path(folder) / "overlay.mp4", _FPS, banner),
        )

        def write() -> None:
            mask = canvas.to_frame_mask(found.logits)
            result = ObjectResult(prompt.name, 0, TrackState.TRACKED, found.iou, mask, prompt)
            for sink in sinks:
                sink.write(FrameResult(Frame(0, "frame", 0.0, frame), (result,)))

        try:
            return await stopwatch.seconds(lambda: to_thread.run_sync(write))
        finally:
            for sink in sinks:
                sink.close()


class _Stopwatch:
    """Measures the median of several runs of a step, and the sum of the steps' processor seconds."""

    def __init__(self) -> None:
        self.processor_s = 0.0

    async def seconds(self, step: Callable[[], Awaitable[object]]) -> float:
        await step()
        wall: list[float] = []
        processor: list[float] = []
        while len(wall) < RUNS[0] or (len(wall) < RUNS[1] and sum(wall) < MEASURE_S):
            started, started_processor = time.perf_counter(), time.process_time()
            await step()
            wall.append(time.perf_counter() - started)
            processor.append(time.process_time() - started_processor)
        self.processor_s += statistics.median(processor)
        return statistics.median(wall)


def _picture(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Slopes of grey, uint8 [H, W, 3]: no content, and as easy to compress as a calm scene."""
    rows, cols = np.linspace(0, 255, height)[:, None], np.linspace(0, 255, width)[None]
    return np.repeat(((rows + cols) / 2).astype(np.uint8)[..., None], 3, axis=2)


def _logits(canvas: Canvas) -> npt.NDArray[np.float32]:
    """Low-resolution logits [M, M] of a mask over the middle half of the picture's rows and columns."""
    side = canvas.geometry.mask_px
    rows, cols = (length * side // canvas.geometry.image_size for length in (canvas.rows, canvas.cols))
    logits = np.full((side, side), -8, np.float32)
    logits[rows // 4 : rows * 3 // 4, cols // 4 : cols * 3 // 4] = 8
    return logits
