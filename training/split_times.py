"""Where the time of a training step goes, part by part, without waiting for the device in between."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import torch


class SplitTimes:
    """Milliseconds of each part of the steps between `start` and `stop`; marks outside are ignored."""

    def __init__(self) -> None:
        self._marks: list[tuple[str, Any]] = []  # a time of the host's clock, or an event of the device
        self._cuda: bool | None = None

    def start(self, device: torch.device) -> None:
        """Begin to take times."""
        self._cuda = device.type == "cuda"
        self._marks = []
        self.mark("")

    def mark(self, part: str) -> None:
        """What ran since the last mark was `part`."""
        if self._cuda is None:
            return
        if self._cuda:
            event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._marks.append((part, event))
        else:
            self._marks.append((part, time.perf_counter()))

    def stop(self, steps: int) -> dict[str, float]:
        """Milliseconds a step by part; waits for the device once."""
        if self._cuda:
            torch.cuda.synchronize()
        total: dict[str, float] = defaultdict(float)
        for (_, before), (part, after) in zip(self._marks, self._marks[1:], strict=False):
            passed = before.elapsed_time(after) if self._cuda else 1000 * (after - before)
            total[f"ms {part}"] += passed / steps
        self._cuda, self._marks = None, []
        return dict(total)
