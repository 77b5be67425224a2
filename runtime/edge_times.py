"""How long the edge's own steps take on this machine, on a synthetic frame with one object."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from anyio import to_thread

from runtime.canvas import Canvas, make_canvas
from runtime.decode import ObjectMask, decode
from runtime.live import ShownObject
from runtime.prediction import EdgeTimes
from runtime.prompts import Prompt
from runtime.sinks import MaskLines, OverlayVideo, Result, ResultObject, banner_for
from runtime.sources import Frame
from runtime.tracking import RECENT, Memory, propagate, unit_features
from stages.bundle import Bundle
from stages.engine import EngineThread, engine_factories
from stages.tensors import Array

RUNS = (3, 20)  # of each step, at least and at most, after one that warms it up
ENOUGH_S = 0.5  # for the runs beyond the least
_FPS = 30.0  # what the video's header says; it changes nothing in how long writing takes


async def measure_edge(bundle: Bundle, size: tuple[int, int], backend: str, threads: int | None) -> EdgeTimes:
    """Run each step of the loop for a frame of (height, width); nothing is kept of what it writes.

    Raises BundleError or EngineError when a stage cannot be opened here.
    """
    names = ["global", "decoder", *(["window"] if bundle.has("window") else [])]
    watch = _Watch()
    frame = _picture(*size)
    async with EngineThread(engine_factories(bundle, names, backend, threads)) as engines:
        canvas = make_canvas(frame, bundle.geometry)
        read_s = await watch.seconds(lambda: to_thread.run_sync(make_canvas, frame, bundle.geometry))
        embedding = {"embedding": bundle.padding_embeddings()}
        global_s = await watch.seconds(lambda: engines.infer("global", embedding))
        image = (await engines.infer("global", embedding))["image_embedding"]
        height, width = size
        prompt = Prompt("object", (width * 0.25, height * 0.25, width * 0.75, height * 0.75))
        decode_s = await watch.seconds(lambda: decode(engines, image, canvas, [prompt]))
        await _follow(watch, image)
        write_s = await _write_s(watch, bundle, frame, canvas, prompt)
        processor_s, window_s = watch.processor_s, None
        if "window" in engines:
            window_s = await watch.seconds(lambda: engines.infer("window", canvas.window_inputs(0)))
    cores = len(os.sched_getaffinity(0))
    return EdgeTimes(read_s, global_s, decode_s, write_s, window_s, processor_s, cores)


async def _follow(watch: _Watch, image_embedding: Array) -> None:
    """Match a frame with those a track remembers. It runs beside the engines: only its processor counts."""
    features = unit_features(image_embedding)
    labels = np.zeros(features.shape[:2], np.float32)
    middle = slice(len(labels) // 4, len(labels) * 3 // 4)
    labels[middle, middle] = 1
    memories = [Memory(features, labels)] * (1 + RECENT)
    await watch.seconds(
        lambda: to_thread.run_sync(lambda: propagate(unit_features(image_embedding), memories))
    )


async def _write_s(
    watch: _Watch, bundle: Bundle, frame: npt.NDArray[np.uint8], canvas: Canvas, prompt: Prompt
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
            shown = ShownObject(prompt.name, 0, "tracked", found.iou, mask)
            for sink in sinks:
                sink.write(Result(Frame(0, "frame", 0.0, frame), (ResultObject(shown, prompt),)))

        try:
            return await watch.seconds(lambda: to_thread.run_sync(write))
        finally:
            for sink in sinks:
                sink.close()


class _Watch:
    """Takes the median of several runs of a step, and sums up the processor seconds of all steps."""

    def __init__(self) -> None:
        self.processor_s = 0.0

    async def seconds(self, step: Callable[[], Awaitable[object]]) -> float:
        await step()
        wall: list[float] = []
        processor: list[float] = []
        while len(wall) < RUNS[0] or (len(wall) < RUNS[1] and sum(wall) < ENOUGH_S):
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
