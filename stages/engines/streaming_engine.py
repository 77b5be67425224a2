"""The global stage run by onnxruntime in parts, on rows of windows as they come.

The parts are graphs beside the global stage, which share its weights (export.streaming): `project` a row of
windows that is complete, `attend` one row's queries to another row's keys, once for each pair and in any
order, and `finish` when there is no pair left. What is known of a frame lies in its StreamedFrame, in memory
of the device that the parts run on. Nobody else holds it, so that a frame which is never finished takes its
memory with it.

Rows without picture are the same in every frame: their part among themselves is computed once and kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from stages.bundle import Bundle
from stages.engines.devices import Device
from stages.engines.engine import Engine, EngineState
from stages.engines.onnxruntime_engine import library, open_session, problem
from stages.errors import EngineError
from stages.streaming import ATTEND, FINISH, PARTS, PROJECT
from stages.tensors import Array, check_arrays


class _Group(NamedTuple):
    """What `project` makes of a row of windows, as onnxruntime.OrtValue."""

    hidden: Any
    query: Any
    key: Any
    value: Any


class _Running(NamedTuple):
    """The running softmax of a row's queries, as onnxruntime.OrtValue. Never written again once made."""

    largest: Any
    total: Any
    attended: Any


@dataclass(eq=False)
class Known:
    """What is known of a frame. Rows are added on any thread; the rest is the engine's thread's own.

    `blank` are rows without picture, `pairs` the rows of queries and of keys that are to attend.
    """

    blank: tuple[int, ...] = ()
    arrived: deque[tuple[int, Array]] = field(default_factory=deque)
    pairs: deque[tuple[int, int]] = field(default_factory=deque)
    groups: dict[int, _Group] = field(default_factory=dict)
    running: dict[int, _Running] = field(default_factory=dict)

    @property
    def more(self) -> bool:
        return bool(self.blank or self.arrived or self.pairs)


class StreamedFrame:
    """One frame on its way through the parts: `add` its rows as they come; the engine does the rest.

    `known` is None once it was dropped.
    """

    def __init__(self, blank: Collection[int] = ()) -> None:
        self.known: Known | None = Known(tuple(sorted(blank)))

    @property
    def more(self) -> bool:
        """Whether there is something to do by now."""
        return self.known is not None and self.known.more

    def add(self, row: int, embeddings: Array) -> None:
        """The embeddings [grid, w, w, r] of a row of windows; they are not to change from here on.

        Those of a dropped frame are ignored.
        """
        if self.known is not None:
            self.known.arrived.append((row, embeddings))

    def drop(self) -> None:
        """Let go of all that is known: the frame will not be finished. Calling it again does nothing."""
        self.known = None


class StreamingEngine(Engine):
    """The global stage in parts, on the CPU or on `device`; `infer` runs all of them on all windows.

    `start` may be called on any thread, `advance` and `finish` on the one that opened the engine.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None, device: Device | None = None) -> None:
        super().__init__(bundle.stage("global"))
        self._bundle = bundle
        self._threads = threads
        self._device = device
        self._sessions: dict[str, Any] = {}
        self._kept: dict[tuple[int, ...], Known] = {}
        self._nothing = _Running(None, None, None)  # the running softmax before any key, while open

    @property
    def backend(self) -> str:
        return f"onnxruntime {library().__version__} on {self._device or 'CPU'}, row by row"

    @property
    def preferred_batch(self) -> int:
        return 1

    @property
    def grid(self) -> int:
        """Rows of windows of a frame, and windows of a row."""
        return self._bundle.geometry.grid

    def start(self, blank: Collection[int] = ()) -> StreamedFrame:
        """A frame of which nothing has come; `blank` are the rows that hold no picture at all."""
        return StreamedFrame(blank)

    def advance(self, frame: StreamedFrame) -> str:
        """Do one thing that can be done by now, and say which: "project 2", "attend 2 0", "" for none."""
        self._require_open()
        known = frame.known  # whoever drops the frame meanwhile does not touch this
        return self._advance(known) if known is not None and known.more else ""

    def finish(self, frame: StreamedFrame) -> Array:
        """The image embedding, fp32 [1, 256, E, E], of a frame all of whose rows have come. It is dropped."""
        self._require_open()
        known, grid = frame.known or Known(), self.grid
        while known.more:
            self._advance(known)
        if len(known.groups) < grid:
            raise EngineError(f"a frame of {len(known.groups)} of {grid} rows of windows cannot be finished")
        feeds = {f"hidden_{row}": known.groups[row].hidden for row in range(grid)}
        feeds |= {f"attended_{row}": known.running[row].attended for row in range(grid)}
        (embedding,) = self._run(FINISH, feeds)
        frame.drop()
        result: Array = embedding.numpy()
        return result

    def _activate(self) -> None:
        files = {name: digest for part in PARTS for name, digest in self._bundle.stage(part).files.items()}
        self._bundle.verify(files)
        try:
            for part in PARTS:
                path = self._bundle.path / self._bundle.stage(part).file
                self._sessions[part] = open_session(path, self._threads, self._device)
            self._nothing = self._before_any()
        except BaseException:
            self._deactivate()
            raise

    def _deactivate(self) -> None:
        self._kept.clear()
        self._nothing = _Running(None, None, None)
        self._sessions.clear()

    def _infer(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        frame, grid = self.start(), self.grid
        for row in range(grid):
            frame.add(row, feeds["embedding"][row * grid : (row + 1) * grid])
        embedding = self.finish(frame)
        return dict.fromkeys(outputs, embedding)

    def _require_open(self) -> None:
        if self._state is not EngineState.OPEN:
            raise EngineError(f"engine {self.stage.name} is {self._state.value}; open it first")

    def _advance(self, known: Known) -> str:
        if known.blank:
            self._start_blank(known)
            return "padding"
        if known.arrived:
            row, embeddings = known.arrived.popleft()
            self._project(known, row, embeddings)
            return f"project {row}"
        query, key = known.pairs.popleft()
        self._attend(known, query, key)
        return f"attend {query} {key}"

    def _start_blank(self, known: Known) -> None:
        """What is kept of the frame's blank rows, computed where it is not kept yet."""
        blank, known.blank = known.blank, ()
        if blank not in self._kept:
            kept, grid, padding = Known(), self.grid, self._bundle.padding_embeddings()
            kept.arrived.extend((row, padding[row * grid : (row + 1) * grid]) for row in blank)
            while kept.more:
                self._advance(kept)
            self._kept[blank] = kept
        known.groups.update(self._kept[blank].groups)
        known.running.update(self._kept[blank].running)

    def _project(self, known: Known, row: int, embeddings: Array) -> None:
        if row in known.groups:
            raise EngineError(f"row {row} of windows came twice")
        first = np.array([row * self._bundle.geometry.window], np.int32)
        feeds = {"embedding": embeddings, "row": first}
        check_arrays(self._bundle.stage(PROJECT).inputs, feeds)
        others = list(known.groups)
        known.groups[row] = _Group(*self._run(PROJECT, feeds))
        known.pairs.extend([(row, row), *((row, other) for other in others)])
        known.pairs.extend((other, row) for other in others)

    def _attend(self, known: Known, query: int, key: int) -> None:
        queries, keys, window = known.groups[query], known.groups[key], self._bundle.geometry.window
        running = known.running.get(query, self._nothing)
        feeds = {"query": queries.query, "key": keys.key, "value": keys.value}
        feeds |= dict(zip(_Running._fields, running, strict=True))
        feeds |= {"rows": np.array([query * window, key * window], np.int32)}
        known.running[query] = _Running(*self._run(ATTEND, feeds))

    def _before_any(self) -> _Running:
        """The running softmax before any key."""
        inputs = self._bundle.stage(ATTEND).inputs
        shapes = {spec.name: [int(axis) for axis in spec.shape] for spec in inputs}
        values = {"largest": -np.inf, "total": 0.0, "attended": 0.0}
        arrays = {name: np.full(shapes[name], value, np.float32) for name, value in values.items()}
        make = library().OrtValue.ortvalue_from_numpy
        return _Running(**{name: make(array, self._where, 0) for name, array in arrays.items()})

    @property
    def _where(self) -> str:
        """The device that holds what lies between parts, as onnxruntime names it."""
        return "cuda" if self._device else "cpu"

    def _run(self, part: str, feeds: Mapping[str, Any]) -> list[Any]:
        """Outputs of a part as OrtValue in device memory, but the last part's, which the host reads."""
        binding = self._sessions[part].io_binding()
        for name, value in feeds.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, value)
            else:
                binding.bind_ortvalue_input(name, value)
        for spec in self._bundle.stage(part).outputs:
            binding.bind_output(spec.name, "cpu" if part == FINISH else self._where)
        try:
            self._sessions[part].run_with_iobinding(binding)
        except Exception as exc:
            raise EngineError(problem(f"onnxruntime failed on stage {part}", exc)) from exc
        results: list[Any] = binding.get_outputs()
        return results
