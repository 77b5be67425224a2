"""The objects of a live run on disk, so that a service that is started again goes on segmenting them.

The file is a prompts file: each object by the box where it was seen last. By the time of the next start it
may have moved from there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
from anyio import to_thread

from runtime.live import Newest, Shown
from runtime.objects import Objects
from runtime.prompts import Prompts, write_prompts

EVERY_S = 5.0  # objects that move are written down so often


@contextlib.asynccontextmanager
async def remembered(
    path: Path | None, objects: Objects, frames: Newest[Shown], every_s: float = EVERY_S
) -> AsyncIterator[None]:
    """Keeps the file up to date while the block runs: at once when there are other objects, else now and
    then."""
    if path is None:
        yield
        return
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_keep, path, objects, frames, every_s)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()
    await to_thread.run_sync(write_prompts, path, objects.last_seen())


async def _keep(path: Path, objects: Objects, frames: Newest[Shown], every_s: float) -> None:
    version, changes, written_s = 0, objects.changes, time.monotonic()
    written: Prompts | None = None
    while True:
        version, _ = await frames.after(version)
        if objects.changes == changes and time.monotonic() - written_s < every_s:
            continue
        changes, written_s = objects.changes, time.monotonic()
        if (now := objects.last_seen()) != written:
            await to_thread.run_sync(write_prompts, path, now)
            written = now
