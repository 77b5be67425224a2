"""Growth: sites that repeat what they know, a small run from end to end, and what it says of its numbers."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import growth
from benchmarks.growth import Pan, RepeatingEngine, draw, markdown, measure, prompts, sentence
from stages.bundle import Bundle, shipped_bundle
from stages.engines.backends import make_engine
from stages.tile_inputs import window_inputs
from tests.support.documents import table_rows


@pytest.fixture(scope="module")
def mini() -> Bundle:
    return Bundle.load(shipped_bundle())


def test_a_site_answers_what_the_window_stage_answers_in_the_time_given(mini: Bundle) -> None:
    g = mini.geometry
    noise = np.random.default_rng(0).integers(0, 256, (216, 384, 3), np.uint8)
    feeds = window_inputs(mini, noise, g.extents(216, 384), [3, 7, 9])
    engine, stage = RepeatingEngine(mini, window_s=0.1), make_engine(mini, "window", "onnxruntime-cpu", 1)
    engine.open()
    stage.open()
    first = engine.infer(feeds)
    started = time.perf_counter()
    again = engine.infer({name: rows[::-1].copy() for name, rows in feeds.items()}, ["embedding"])
    assert 0.3 <= time.perf_counter() - started < 0.6
    np.testing.assert_array_equal(again["embedding"], first["embedding"][::-1])
    for name, rows in stage.infer(feeds).items():
        np.testing.assert_allclose(first[name].astype(float), rows.astype(float), atol=1.01)
    engine.close()
    stage.close()


def test_the_film_goes_back_and_forth() -> None:
    frames = list(Pan(growth.WARM_UP + 1, (320, 180)))
    assert Pan(1, (320, 180)).sizes() == {(180, 320)}
    assert len({frame.pixels.tobytes() for frame in frames if frame.pixels is not None}) == growth.STEPS
    pairs = pairwise(frames)
    assert not any(np.array_equal(one.pixels, other.pixels) for one, other in pairs)  # none is reused


def test_as_many_objects_as_asked_lie_on_the_frame() -> None:
    boxes = [prompt.box_xyxy for prompt in prompts(32, (320, 180)).entries]
    assert len(set(boxes)) == 32
    assert all(box and 0 <= box[0] < box[2] < 320 and 0 <= box[1] < box[3] < 180 for box in boxes)


def test_a_small_run(mini: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FRAMES": 4, "WARM_UP": 2, "WINDOW_S": 0.001}.items():
        monkeypatch.setattr(growth, name, value)
    result = measure(mini, {"sites": (1,), "objects": (2,)})
    (one,), (objects,) = result["rows"].values()
    for row in (one, objects):
        assert (row["frames"], row["windows"]) == (4, 15)
        assert (row["frames_lost"], row["windows_run_at_edge"]) == (0, 0)
        assert row["fps"] > 0
        assert row["edge_processor_ms"] > 0
        assert 20_000 < row["bytes_up"] < 100_000
    assert (one["objects_found"], objects["objects_found"]) == (1, 2)
    assert len(table_rows(markdown(result))) == 2
    draw(result, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def row(value: str, fps: float, kilobytes: float, limit: str) -> dict[str, Any]:
    latency = {"p50": 1e3 / fps, "p95": 2e3 / fps}
    sizes = {"bytes_up": 500 * kilobytes, "bytes_down": 500 * kilobytes}
    cost = {"edge_processor_ms": 41.6, "limited_by": f"{limit}: 5 ms of every frame"}
    return {"value": value, "fps": fps, "latency_ms": latency, **sizes, **cost}


def test_a_sentence_says_what_the_numbers_say() -> None:
    rows = [
        row("1", 4, 50, "the sites"),
        row("3", 50, 1, "x"),
        row("6", 10, 60, "the engines (decoder 9 ms)"),
    ]
    assert sentence("sites", rows) == (
        "Sites: from 1 to 6, frames a second go from 4.0 to 10.0, the median latency from 250 to 100 ms, the "
        "edge's processor from 42 to 42 ms a frame, and a frame from 50 to 60 KB up and down together; "
        "limited first by the sites, at the end by the engines."
    )
    full = row(
        "1", 4, 50, "the processor, 2.0 of 2 cores busy; the longest step is the engines (decoder 9 ms)"
    )
    assert "limited by the processor, then the engines." in sentence("sites", [full, full])
    same = sentence("size", [row("a", 4, 50, "the sites"), row("b", 4, 50.5, "the sites")])
    assert "a frame stays at 50 KB up and down together; all that is limited by the sites." in same
