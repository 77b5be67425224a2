"""The times of a video's frames as they are handed on: from 0, each later than the one before."""

from __future__ import annotations

_LEAST_STEP_S = 1e-3  # between the times of two frames
_BACK_S = 1.0  # less is a jitter
_JUMP_S = 60.0  # longer forwards is another recording, in a format whose recordings can be joined
_GAP_S, _GAP_STEPS = 600.0, 1000  # without frames: so long is told where frames are usually close


class RisingTimes:
    """A time that is missing follows at the usual `step_s`, and so does the first one of a recording that was
    joined to another: its clock begins anew. With `joinable`, as MPEG-TS is, a jump forwards means that too.

    One frame that goes back is late, as behind damaged ones; where the next one is behind too, times have
    begun anew. `beginnings` counts how often they have, `gaps` are (start, end) in seconds without frames.
    """

    def __init__(self, step_s: float, joinable: bool = False) -> None:
        self.beginnings = 0
        self.gaps: list[tuple[float, float]] = []
        self._step_s = step_s
        self._joinable = joinable
        self._zero_s: float | None = None
        self._first_s = self._newest_s = 0.0  # own times since the clock began
        self._last_s = -step_s

    def time_s(self, own_s: float | None, next_s: float | None) -> float:
        """The time of a frame by its own time in the file, and by that of the one behind it."""
        before_s, self._last_s = self._last_s, self._later(own_s, next_s)
        if self._last_s - before_s > max(_GAP_S, _GAP_STEPS * self._step_s):
            self.gaps.append((before_s, self._last_s))
        return self._last_s

    def _later(self, own_s: float | None, next_s: float | None) -> float:
        follows_s = self._last_s + self._step_s
        if own_s is None:
            return follows_s
        if self._zero_s is None or self._begins_anew(own_s, next_s):
            self.beginnings += self._zero_s is not None
            self._zero_s = own_s - follows_s
            self._first_s = self._newest_s = own_s
        self._newest_s = max(self._newest_s, own_s)
        return max(own_s - self._zero_s, self._last_s + _LEAST_STEP_S if self._last_s >= 0 else 0.0)

    def _begins_anew(self, own_s: float, next_s: float | None) -> bool:
        if self._joinable and own_s - self._newest_s > max(_JUMP_S, _GAP_STEPS * self._step_s):
            return True
        goes_back = own_s < self._newest_s - _BACK_S or own_s <= self._first_s
        return goes_back and next_s is not None and next_s < self._newest_s
