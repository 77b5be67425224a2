"""The global stage row by row: equal to the whole one however rows come, and gone with its frame."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.bundle import Bundle
from stages.engines.backends import make_engine
from stages.engines.engine import Engine
from stages.engines.streaming_engine import StreamedFrame, StreamingEngine
from stages.errors import EngineError
from stages.tensors import Array

ROWS = range(5)
BLANK_16_9 = (3, 4)


@pytest.fixture(scope="module")
def engine(mini_streaming_bundle: Bundle) -> Iterator[StreamingEngine]:
    with closing(StreamingEngine(mini_streaming_bundle, threads=1)) as engine:
        engine.open()
        yield engine


@pytest.fixture(scope="module")
def whole(mini_streaming_bundle: Bundle) -> Iterator[Engine]:
    with closing(make_engine(mini_streaming_bundle, "global", "onnxruntime-cpu", 1)) as engine:
        engine.open()
        yield engine


def embeddings_of(bundle: Bundle, seed: int, blank: tuple[int, ...] = ()) -> Array:
    """Random embeddings [25, 5, 5, r] of the wire; those of padding in the blank rows."""
    rows, cols, components = bundle.embedding_shape
    values = np.random.default_rng(seed).standard_normal((25, rows, cols, components)).astype(np.float16)
    padding = bundle.padding_embeddings()
    for row in blank:
        values[row * 5 : (row + 1) * 5] = padding[row * 5 : (row + 1) * 5]
    return values


def add(frame: StreamedFrame, row: int, embeddings: Array) -> None:
    frame.add(row, embeddings[row * 5 : (row + 1) * 5])


def difference(actual: Array, expected: Array) -> float:
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@settings(max_examples=25)
@given(
    order=st.permutations(ROWS),
    steps=st.lists(st.integers(0, 9), min_size=5, max_size=5),
    blank=st.sampled_from(((), (4,), BLANK_16_9, (1, 2, 3, 4))),
    seed=st.integers(0, 2**32),
)
def test_any_order_of_arrival_equals_the_whole_stage(
    engine: StreamingEngine,
    whole: Engine,
    mini_streaming_bundle: Bundle,
    order: list[int],
    steps: list[int],
    blank: tuple[int, ...],
    seed: int,
) -> None:
    """Rows come in any order, with any number of steps between them."""
    embeddings = embeddings_of(mini_streaming_bundle, seed, blank)
    frame = engine.start(blank)
    for row, count in zip(order, steps, strict=True):
        if row not in blank:
            add(frame, row, embeddings)
        for _ in range(count):
            engine.advance(frame)
    expected = whole.infer({"embedding": embeddings})["image_embedding"]
    assert difference(engine.finish(frame), expected) < 1e-4


def test_all_at_once_it_is_the_global_stage(
    engine: StreamingEngine, whole: Engine, mini_streaming_bundle: Bundle
) -> None:
    feeds = {"embedding": embeddings_of(mini_streaming_bundle, 1)}
    assert difference(engine.infer(feeds)["image_embedding"], whole.infer(feeds)["image_embedding"]) < 1e-4
    with pytest.raises(EngineError, match="got tensors"):
        engine.infer({})


def names_of_steps(engine: StreamingEngine, frame: StreamedFrame) -> list[str]:
    return list(iter(lambda: engine.advance(frame), ""))


def test_what_concerns_padding_alone_is_computed_once(
    engine: StreamingEngine, mini_streaming_bundle: Bundle
) -> None:
    """16:9 frames: three rows to project, and no pair of the two rows without picture among the steps."""
    embeddings = embeddings_of(mini_streaming_bundle, 2, BLANK_16_9)
    images, held = [], []
    for _ in range(2):
        frame = engine.start(BLANK_16_9)
        assert engine.advance(frame) == "padding"
        assert frame.known is not None
        held.append((frame.known.groups[3], frame.known.running[3]))
        for row in (0, 1, 2):
            add(frame, row, embeddings)
        pairs = {
            (q, k) for q, k in itertools.product(ROWS, ROWS) if not (q in BLANK_16_9 and k in BLANK_16_9)
        }
        steps = names_of_steps(engine, frame)
        assert sorted(steps) == sorted(
            [*(f"project {row}" for row in (0, 1, 2)), *(f"attend {q} {k}" for q, k in pairs)]
        )
        images.append(engine.finish(frame))
    assert held[0] == held[1]  # the same values in memory
    assert np.array_equal(images[0], images[1])


def test_frames_in_flight_do_not_touch_each_other(
    engine: StreamingEngine, whole: Engine, mini_streaming_bundle: Bundle
) -> None:
    each = [embeddings_of(mini_streaming_bundle, seed, BLANK_16_9) for seed in (3, 4)]
    frames = [engine.start(BLANK_16_9) for _ in each]
    for row in (2, 0, 1):
        for frame, embeddings in zip(frames, each, strict=True):
            add(frame, row, embeddings)
            engine.advance(frame)
    for frame, embeddings in zip(frames, each, strict=True):
        expected = whole.infer({"embedding": embeddings})["image_embedding"]
        assert difference(engine.finish(frame), expected) < 1e-4


def forgotten(engine: StreamingEngine, embeddings: Array, end: Callable[[StreamedFrame], Any]) -> bool:
    """Whether nothing is left of a frame of which two rows came, after it ended so."""
    frame = engine.start()
    for row in (0, 1):
        add(frame, row, embeddings)
    names_of_steps(engine, frame)
    add(frame, 2, embeddings)
    known = frame.known
    assert known is not None
    held = [weakref.ref(value) for value in (known, known.groups[0].key, known.running[1].attended)]
    del known
    end(frame)
    del frame
    gc.collect()
    return all(each() is None for each in held)


def test_a_frame_that_is_dropped_or_never_finished_leaves_nothing(
    engine: StreamingEngine, mini_streaming_bundle: Bundle
) -> None:
    embeddings = embeddings_of(mini_streaming_bundle, 5)
    assert forgotten(engine, embeddings, lambda frame: None)
    assert forgotten(engine, embeddings, StreamedFrame.drop)


def test_a_dropped_frame_is_not_worked_on(engine: StreamingEngine, mini_streaming_bundle: Bundle) -> None:
    frame = engine.start()
    add(frame, 0, embeddings_of(mini_streaming_bundle, 6))
    frame.drop()
    assert not frame.more
    assert engine.advance(frame) == ""
    add(frame, 1, embeddings_of(mini_streaming_bundle, 6))  # its windows may still come
    assert not frame.more
    with pytest.raises(EngineError, match="0 of 5 rows"):
        engine.finish(frame)


def test_what_does_not_fit_is_refused(engine: StreamingEngine, mini_streaming_bundle: Bundle) -> None:
    embeddings = embeddings_of(mini_streaming_bundle, 7)
    frame = engine.start()
    add(frame, 0, embeddings)
    with pytest.raises(EngineError, match="a frame of 1 of 5 rows of windows cannot be finished"):
        engine.finish(frame)
    add(frame, 0, embeddings)
    with pytest.raises(EngineError, match="row 0 of windows came twice"):
        engine.advance(frame)
    frame.add(1, embeddings[:4])
    with pytest.raises(EngineError, match=r"embedding has shape \[4, 5, 5"):
        engine.advance(frame)


def test_closed_it_does_nothing(mini_streaming_bundle: Bundle) -> None:
    engine = StreamingEngine(mini_streaming_bundle, threads=1)
    with pytest.raises(EngineError, match="not opened yet"):
        engine.advance(engine.start())
    engine.open()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.finish(engine.start())
