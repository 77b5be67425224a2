"""The objects of a live run on disk, so that a service that is started again goes on segmenting them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable

import anyio
from anyio import to_thread

from runtime.live.newest import Newest
from runtime.objects.prompts import Prompts
from runtime.objects.registry import ObjectRegistry
from runtime.objects.state_file import StateFile, cannot_write
from runtime.results.result import FrameResult

SAVE_INTERVAL_S = 10.0  # for objects that move: each write waits for the disk


@contextlib.asynccontextmanager
async def saving_objects(
    state: StateFile | None,
    objects: ObjectRegistry,
    frames: Newest[FrameResult],
    say: Callable[[str], None],
    interval_s: float = SAVE_INTERVAL_S,
) -> AsyncIterator[None]:
    """Keeps the state file up to date while the block runs: at once when objects were added, changed or
    removed, else every `interval_s`.

    A file that cannot be written ends no run: `say` is told of it, and when it can be written again.
    """
    if state is None:
        yield
        return
    saved = _Saved(state, say)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_save, saved, objects, frames, interval_s)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()
    await to_thread.run_sync(saved.write, objects.last_seen())


class _Saved:
    """What is on the disk."""

    def __init__(self, state: StateFile, say: Callable[[str], None]) -> None:
        self._state = state
        self._say = say
        self._written: Prompts | None = None
        self._failing = False

    def write(self, now: Prompts) -> None:
        """Write the objects unless they are there. Blocks."""
        if now == self._written:
            return
        try:
            self._state.write(now)
        except OSError as exc:
            if not self._failing:
                self._say(cannot_write(self._state.path, exc))
            self._failing = True
            return
        if self._failing:
            self._say(f"the objects are kept again: state file {self._state.path} is written")
        self._written, self._failing = now, False


async def _save(
    saved: _Saved, objects: ObjectRegistry, frames: Newest[FrameResult], interval_s: float
) -> None:
    version, changes, written_s = 0, objects.changes, time.monotonic()
    while True:
        version, _ = await frames.after(version)
        if objects.changes == changes and time.monotonic() - written_s < interval_s:
            continue
        changes, written_s = objects.changes, time.monotonic()
        await to_thread.run_sync(saved.write, objects.last_seen())
