"""The global stage row by row: what is done ahead, what is left, and what stays of frames that break off."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import numpy as np
import pytest

from runtime.encoder import Encoding, FrameLost, ImageEncoder, LocalWindows, SendingPaused, streaming_of
from runtime.frames.canvas import Canvas
from runtime.sites.ledger import ExposureLedger
from runtime.sites.windows import open_sites
from stages.bundle import Bundle
from stages.engines.backends import make_engine, make_streaming_engine
from stages.engines.streaming_engine import Known
from stages.engines.thread import EngineThread
from stages.tensors import Array
from tests.support.edge import canvas_of
from tests.support.fakes import until

pytestmark = pytest.mark.anyio


class HeldBack(LocalWindows):
    """A window engine that answers each window when the test lets it: random numbers of its own."""

    def __init__(self, bundle: Bundle) -> None:
        self._shape, self._dtype = bundle.embedding_shape, bundle.embedding_dtype
        self.let = {window: anyio.Event() for window in range(bundle.geometry.windows)}
        self.lose: int | None = None

    async def embed(self, window: int, inputs: Mapping[str, Array], order: int = 0) -> Array:
        await self.let[window].wait()
        if window == self.lose:
            raise FrameLost("no way out")
        values: Array = (
            np.random.default_rng([order, window]).standard_normal(self._shape).astype(self._dtype)
        )
        return values

    def let_rows(self, *rows: int) -> None:
        for row in rows:
            for window in range(5 * row, 5 * row + 5):
                self.let[window].set()


@dataclass
class Row:
    """An encoder over HeldBack windows, and what it did ahead of a frame's last window, by frame."""

    encoder: ImageEncoder
    local: HeldBack
    canvas: Canvas
    parts: dict[int, list[str]] = field(default_factory=dict)

    def note(self, part: str, frame: int, start_s: float, end_s: float) -> None:
        assert start_s <= end_s
        self.parts.setdefault(frame, []).append(part)


@asynccontextmanager
async def row_by_row(bundle: Bundle) -> AsyncIterator[Row]:
    factories = {"global": partial(make_streaming_engine, bundle, "onnxruntime-cpu", 1)}
    ledger, local = ExposureLedger.open(None, {}, {}), HeldBack(bundle)
    async with (
        EngineThread(factories) as engines,
        open_sites(bundle, (), ledger, (), print, window_engine=True) as sites,
    ):
        parts: dict[int, list[str]] = {}
        canvas = canvas_of("16:9", bundle.geometry)
        noted: list[Row] = []
        encoder = ImageEncoder(
            bundle,
            engines,
            sites,
            local,
            streaming=streaming_of(engines),
            on_part=lambda *what: noted[0].note(*what),
        )
        noted.append(Row(encoder, local, canvas, parts))
        yield noted[0]


def known_of(encoding: Encoding) -> Known:
    known = encoding._global._frame.known  # type: ignore[attr-defined]  # what a test waits for to go
    assert isinstance(known, Known)
    return known


def whole(bundle: Bundle, embeddings: Array) -> Array:
    engine = make_engine(bundle, "global", "onnxruntime-cpu", 1)
    engine.open()
    try:
        return engine.infer({"embedding": embeddings})["image_embedding"]
    finally:
        engine.close()


def pairs(*rows: int, among: tuple[int, ...]) -> set[str]:
    """Steps of these rows with each other and with `among`."""
    return {f"attend {q} {k}" for q in (*rows, *among) for k in (*rows, *among) if q in rows or k in rows} | {
        f"project {row}" for row in rows
    }


async def test_rows_are_worked_on_as_they_come_and_the_last_costs_its_own_part(
    mini_streaming_bundle: Bundle,
) -> None:
    async with row_by_row(mini_streaming_bundle) as it, anyio.create_task_group() as tasks:
        encoding = it.encoder.start(it.canvas, 0)
        tasks.start_soon(encoding.collect)
        it.local.let_rows(2)
        for window in (0, 1, 3, 4):  # and not 2: this row is not complete
            it.local.let[window].set()
        early = {"padding"} | pairs(2, among=(3, 4))
        await until(lambda: set(it.parts.get(0, ())) == early)
        it.local.let_rows(1)
        await until(lambda: set(it.parts[0]) == early | pairs(1, among=(2, 3, 4)))
        assert len(it.parts[0]) == len(set(it.parts[0]))
        assert encoding.ahead_s > 0
        it.local.let_rows(0)
        await until(lambda: encoding._collected)
        image = await encoding.finish()
    expected = whole(mini_streaming_bundle, encoding.embeddings)
    assert np.abs(image - expected).max() < 1e-4 * np.abs(expected).max()


async def test_frames_under_way_together_keep_apart(mini_streaming_bundle: Bundle) -> None:
    async with row_by_row(mini_streaming_bundle) as it:
        it.local.let_rows(0, 1, 2)
        encodings = [it.encoder.start(it.canvas, order) for order in range(3)]
        async with anyio.create_task_group() as tasks:
            for encoding in encodings:
                tasks.start_soon(encoding.collect)
        images = [await encoding.finish() for encoding in encodings]
    for encoding, image in zip(encodings, images, strict=True):
        expected = whole(mini_streaming_bundle, encoding.embeddings)
        assert np.abs(image - expected).max() < 1e-4 * np.abs(expected).max()


async def break_off(it: Row, end: Callable[[Encoding], Any], error: type[Exception] | None) -> bool:
    """Whether nothing is left of a frame that ends after two of its rows have come; it raises `error`."""
    encoding = it.encoder.start(it.canvas, 0)
    known = weakref.ref(known_of(encoding))
    raised: list[type[Exception]] = []

    async def collect() -> None:
        try:
            await encoding.collect()
        except (FrameLost, SendingPaused) as exc:
            raised.append(type(exc))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(collect)
        await until(lambda: "attend 1 1" in it.parts.get(0, ()))
        end(encoding)
        if error is None:
            tasks.cancel_scope.cancel()
    assert raised == ([error] if error else [])
    await it.encoder._engines.run(lambda: None, "nothing")  # what was under way there has ended
    gc.collect()
    return known() is None  # the encoding itself is still there


async def test_a_frame_that_is_paused_lost_or_cancelled_leaves_nothing(mini_streaming_bundle: Bundle) -> None:
    async with row_by_row(mini_streaming_bundle) as it:
        it.local.let_rows(0, 1)
        assert await break_off(it, lambda encoding: it.encoder.pause(True), SendingPaused)
        it.encoder.pause(False)
        it.parts.clear()
        assert await break_off(it, lambda encoding: None, None)
        it.parts.clear()

        def lose(encoding: Encoding) -> None:
            it.local.lose = 12
            it.local.let[12].set()

        assert await break_off(it, lose, FrameLost)


async def test_a_frame_that_nobody_finishes_leaves_nothing(mini_streaming_bundle: Bundle) -> None:
    async with row_by_row(mini_streaming_bundle) as it:
        it.local.let_rows(0, 1, 2)
        encoding = it.encoder.start(it.canvas, 0)
        await encoding.collect()
        known = weakref.ref(known_of(encoding))
        del encoding
        await it.encoder._engines.run(lambda: None, "nothing")
        gc.collect()
        assert known() is None
