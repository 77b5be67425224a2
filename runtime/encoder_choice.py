"""Which form the global stage runs in: whole, or row by row while windows are under way.

Row by row less is left to do when the last window comes, and what concerns padding alone is done once. It
costs more calls, and a softmax that goes over its sums again for every pair of rows. Which of the two is more
depends on model and backend, so both are measured where an edge starts, for some seconds with a large model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from stages.bundle import Bundle
from stages.engines.backends import make_engine, make_streaming_engine, runs_in_tensorrt
from stages.engines.engine import Engine
from stages.engines.streaming_engine import StreamingEngine
from stages.errors import InputError
from stages.streaming import can_stream
from stages.tensors import Array

STREAMING, WHOLE = FORMS = ("streaming", "whole")
LEFT = 0.95  # streaming leaves less than this share of the whole stage's time when the last window came,
WORK = 1.02  # and takes the engine no more than this share of it in all, since every frame has to pay that
RUNS = (2, 10)  # of each form, at least and at most; the best counts
MEASURE_S = 1.0  # after which no run beyond the minimum is started


@dataclass(frozen=True)
class Measured:
    """Seconds of the engine for one frame: of the whole stage; row by row, in all and after the last row."""

    whole_s: float
    work_s: float
    left_s: float

    @property
    def chosen(self) -> str:
        gains = self.left_s < LEFT * self.whole_s and self.work_s <= WORK * self.whole_s
        return STREAMING if gains else WHOLE

    @property
    def text(self) -> str:
        """What is chosen and why, for a person."""
        whole, work, left = (f"{1e3 * s:.1f} ms" for s in (self.whole_s, self.work_s, self.left_s))
        if self.chosen == STREAMING:
            return (
                f"the global stage runs row by row: {left} of it are left when the last window has come, "
                f"whole it takes {whole}; in all it takes {work} (--encoder whole runs it whole)"
            )
        why = (
            f"row by row {left} would be left when the last window has come"
            if self.left_s >= LEFT * self.whole_s
            else f"row by row it takes {work} in all"
        )
        return f"the global stage runs whole, in {whole}: {why} (--encoder streaming runs it row by row)"


def check_form(bundle: Bundle, form: str | None) -> None:
    """Raise InputError where a form is asked for that this bundle has no graphs for."""
    if form == STREAMING and not can_stream(bundle):
        raise InputError(
            f"--encoder streaming needs the parts of the global stage, which {bundle.path} does not hold; "
            f"export it with --streaming (pedsam export --recode {bundle.path} --streaming --out DIR), or "
            "leave --encoder out"
        )


def make_global(
    bundle: Bundle,
    form: str | None,
    backend: str,
    threads: int | None,
    windows: Collection[int],
    say: Callable[[str], None],
) -> Engine:
    """The engine of the global stage in a form, or in the one that measures better, which `say` is told.

    `windows` are those that hold picture. To be called on the thread that will open the engine; what it
    measures is closed again before it returns. Raises EngineError and BundleError.
    """
    if form is None and can_stream(bundle) and not runs_in_tensorrt(bundle, "global", backend):
        measured = measure(bundle, backend, threads, windows)
        say(measured.text)
        form = measured.chosen
    if form == STREAMING:
        return make_streaming_engine(bundle, backend, threads)
    return make_engine(bundle, "global", backend, threads)


def measure(bundle: Bundle, backend: str, threads: int | None, windows: Collection[int]) -> Measured:
    """Run both forms, one after the other, so that only one is in memory."""
    embeddings = bundle.padding_embeddings()
    whole_s = _whole_s(make_engine(bundle, "global", backend, threads), embeddings)
    rows = sorted({window // bundle.geometry.grid for window in windows})
    work_s, left_s = _streaming_s(make_streaming_engine(bundle, backend, threads), embeddings, rows)
    return Measured(whole_s, work_s, left_s)


def _whole_s(engine: Engine, embeddings: Array) -> float:
    engine.open()
    try:
        return min(_timed(lambda: engine.infer({"embedding": embeddings})))
    finally:
        engine.close()


def _streaming_s(engine: StreamingEngine, embeddings: Array, rows: list[int]) -> tuple[float, float]:
    grid = engine.grid
    left_s: list[float] = []

    def run() -> None:
        frame = engine.start(set(range(grid)).difference(rows))
        for row in rows:
            started_s = time.perf_counter()
            frame.add(row, embeddings[row * grid : (row + 1) * grid])
            while frame.more:
                engine.advance(frame)
        engine.finish(frame)
        left_s.append(time.perf_counter() - started_s)

    engine.open()
    try:
        return min(_timed(run)), min(left_s)
    finally:
        engine.close()


def _timed(run: Callable[[], object]) -> list[float]:
    """Seconds of each of RUNS."""
    seconds: list[float] = []
    while len(seconds) < RUNS[0] or (len(seconds) < RUNS[1] and sum(seconds) < MEASURE_S):
        started_s = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started_s)
    return seconds
