"""The timeline of a run: a Chrome trace, which Perfetto (ui.perfetto.dev) opens, and a picture of its end.

One track a step of the pipeline and one a site; a site's track holds one span a window. On a Jetson there are
counters of the board beside them, and where there are sites counters of bytes, in the trace alone.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from media.pictures import write_picture
from runtime.results.sinks import PALETTE
from stages.files import check_folder, check_replaceable, replace_file, writing

_SPANS = 200_000  # the last ones are kept: some 30 MB
_VALUES = 100_000  # of counters: nine a second, five of the board and four of traffic, for three hours
_SHOWN_S = 2.0  # the picture shows the last seconds
_WIDTH, _ROW, _LEFT = 1600, 36, 150  # pixels


@dataclass(frozen=True)
class Span:
    """Something that took from `start_s` to `end_s` on the clock of time.perf_counter."""

    track: str
    name: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class CounterValue:
    """The value of a counter at `at_s`, on the clock of time.perf_counter."""

    name: str
    at_s: float
    value: float


class Trace:
    """Collects spans and values of counters; `write` makes the files."""

    def __init__(self, spans: int = _SPANS, values: int = _VALUES) -> None:
        self._spans: deque[Span] = deque(maxlen=spans)
        self._values: deque[CounterValue] = deque(maxlen=values)

    def add(self, track: str, name: str, start_s: float, end_s: float) -> None:
        self._spans.append(Span(track, name, start_s, end_s))

    def add_window(self, site: str, window: int, start_s: float, end_s: float) -> None:
        self.add(f"site {site}", f"window {window}", start_s, end_s)

    def add_part(self, part: str, frame: int, start_s: float, end_s: float) -> None:
        """What was done of a frame's global stage ahead of its last window."""
        self.add("global, ahead", f"frame {frame}: {part}", start_s, end_s)

    def add_counter(self, name: str, at_s: float, value: float) -> None:
        self._values.append(CounterValue(name, at_s, value))

    def write(self, path: Path) -> None:
        """The trace as JSON at `path`, and beside it the picture as PNG. Blocks."""
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, json.dumps(self.events()))
            write_picture(picture_beside(path), self.picture())

    def events(self) -> dict[str, Any]:
        """The trace event format: complete events ("X") in microseconds, the names of their tracks, and
        values of counters ("C").

        Spans of one track that overlap, as windows under way at once do, lie in lanes of their own.
        """
        starts_s = [*(span.start_s for span in self._spans), *(value.at_s for value in self._values)]
        begin_s = min(starts_s, default=0.0)
        events: list[dict[str, Any]] = []
        for number, (lane, spans) in enumerate(self._lanes().items(), 1):
            name, sort = {"name": lane}, {"sort_index": number}
            events.append({"ph": "M", "pid": 1, "tid": number, "name": "thread_name", "args": name})
            events.append({"ph": "M", "pid": 1, "tid": number, "name": "thread_sort_index", "args": sort})
            events += [_event(span, number, begin_s) for span in spans]
        events += [_counter_event(value, begin_s) for value in self._values]
        return {"traceEvents": events, "displayTimeUnit": "ms"}

    def picture(self) -> npt.NDArray[np.uint8]:
        """The last two seconds, one row a track, RGB uint8 [H, W, 3]."""
        tracks = list(dict.fromkeys(span.track for span in self._spans))
        end_s = max((span.end_s for span in self._spans), default=0.0)
        begin_s = max(end_s - _SHOWN_S, min((span.start_s for span in self._spans), default=0.0))
        image = np.full((_ROW * (len(tracks) + 1), _WIDTH, 3), 255, np.uint8)
        scale = (_WIDTH - _LEFT - 10) / max(end_s - begin_s, 1e-6)
        for span in self._spans:
            if span.end_s > begin_s:
                _draw(image, span, tracks.index(span.track), begin_s, scale)
        for row, track in enumerate(tracks):
            _text(image, track, 6, row)
        _text(image, f"last {end_s - begin_s:.2f} s, left to right", _LEFT, len(tracks))
        return image

    def _lanes(self) -> dict[str, list[Span]]:
        """Spans by lane: each track, and as many more lanes as it has spans at once."""
        lanes: dict[str, list[Span]] = {}
        for track in dict.fromkeys(span.track for span in self._spans):
            open_lanes: list[list[Span]] = []
            for span in sorted((s for s in self._spans if s.track == track), key=lambda s: s.start_s):
                free = next((lane for lane in open_lanes if lane[-1].end_s <= span.start_s), None)
                if free is None:
                    open_lanes.append(free := [])
                free.append(span)
            names = [track, *(f"{track} ({number})" for number in range(2, len(open_lanes) + 1))]
            lanes |= dict(zip(names, open_lanes, strict=True))
        return lanes


def picture_beside(path: Path) -> Path:
    """Where the picture of a trace at `path` is written."""
    return path.with_suffix(".png")


def check_trace(path: Path) -> None:
    """Raise the InputError of `Trace.write`, as far as it can be known; leaves nothing behind."""
    with writing(path):
        check_folder(path.parent)
        if path.parent.exists():
            check_replaceable(path)


class _NoTrace(Trace):
    """Keeps nothing."""

    def add(self, track: str, name: str, start_s: float, end_s: float) -> None:
        pass

    def add_counter(self, name: str, at_s: float, value: float) -> None:
        pass


NO_TRACE = _NoTrace(0, 0)


def _event(span: Span, lane: int, begin_s: float) -> dict[str, Any]:
    return {
        "ph": "X",
        "pid": 1,
        "tid": lane,
        "name": span.name,
        "ts": round((span.start_s - begin_s) * 1e6, 1),
        "dur": round((span.end_s - span.start_s) * 1e6, 1),
    }


def _counter_event(value: CounterValue, begin_s: float) -> dict[str, Any]:
    return {
        "ph": "C",
        "pid": 1,
        "name": value.name,
        "ts": round((value.at_s - begin_s) * 1e6, 1),
        "args": {"value": value.value},
    }


def _draw(image: npt.NDArray[np.uint8], span: Span, row: int, begin_s: float, scale: float) -> None:
    """One bar; bars of one row may lie over each other, so they are see-through."""
    left = _LEFT + round((max(span.start_s, begin_s) - begin_s) * scale)
    right = max(left + 1, _LEFT + round((span.end_s - begin_s) * scale))
    bar = image[row * _ROW + 4 : (row + 1) * _ROW - 4, left:right]
    bar[:] = (0.45 * bar + 0.55 * np.array(PALETTE[row % len(PALETTE)], np.float32)).astype(np.uint8)
    bar[:, :1] = 60


def _text(image: npt.NDArray[np.uint8], text: str, left: int, row: int) -> None:
    place = (left, row * _ROW + 23)
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
