"""The timeline of a run: a Chrome trace, which Perfetto (ui.perfetto.dev) opens, and a picture of its end.

One track a step of the pipeline and one a site; a site's track holds one span a window.
"""

from __future__ import annotations

import json
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from runtime.sinks import PALETTE, writing

_SPANS = 200_000  # the last ones are kept: some 30 MB
_SHOWN_S = 2.0  # the picture shows the last seconds
_WIDTH, _ROW, _LEFT = 1600, 36, 150  # pixels


@dataclass(frozen=True)
class Span:
    """Something that took from `start_s` to `end_s` on the clock of time.perf_counter."""

    track: str
    name: str
    start_s: float
    end_s: float


class Trace:
    """Collects spans; `write` makes the files."""

    def __init__(self, spans: int = _SPANS) -> None:
        self._spans: deque[Span] = deque(maxlen=spans)

    def add(self, track: str, name: str, start_s: float, end_s: float) -> None:
        self._spans.append(Span(track, name, start_s, end_s))

    def add_window(self, site: str, window: int, start_s: float, end_s: float) -> None:
        self.add(f"site {site}", f"window {window}", start_s, end_s)

    def write(self, path: Path) -> None:
        """The trace as JSON at `path`, and beside it the picture as PNG. Blocks."""
        temporary = path.with_name(path.name + ".tmp")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self.events()), encoding="utf-8")
            os.replace(temporary, path)
            ok, png = cv2.imencode(".png", self.picture()[..., ::-1])
            path.with_suffix(".png").write_bytes(png.tobytes() if ok else b"")

    def events(self) -> dict[str, Any]:
        """The trace event format: complete events ("X") in microseconds, and the names of their tracks.

        Spans of one track that overlap, as windows under way at once do, lie in lanes of their own.
        """
        begin_s = min((span.start_s for span in self._spans), default=0.0)
        events: list[dict[str, Any]] = []
        for number, (lane, spans) in enumerate(self._lanes().items(), 1):
            name, sort = {"name": lane}, {"sort_index": number}
            events.append({"ph": "M", "pid": 1, "tid": number, "name": "thread_name", "args": name})
            events.append({"ph": "M", "pid": 1, "tid": number, "name": "thread_sort_index", "args": sort})
            events += [_event(span, number, begin_s) for span in spans]
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


class _NoTrace(Trace):
    """Keeps nothing."""

    def add(self, track: str, name: str, start_s: float, end_s: float) -> None:
        pass


NO_TRACE = _NoTrace(0)


def _event(span: Span, lane: int, begin_s: float) -> dict[str, Any]:
    return {
        "ph": "X",
        "pid": 1,
        "tid": lane,
        "name": span.name,
        "ts": round((span.start_s - begin_s) * 1e6, 1),
        "dur": round((span.end_s - span.start_s) * 1e6, 1),
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
