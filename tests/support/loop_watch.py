"""Notices code that blocks the event loop."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

LIMIT_S = 0.5  # generous: two busy cores may hold up an innocent callback


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("Executing "):  # asyncio's words in debug mode
            self.lines.append(record.getMessage())


@contextmanager
def blocking(loop: asyncio.AbstractEventLoop, limit_s: float = LIMIT_S) -> Iterator[list[str]]:
    """Collects a line for every callback on the loop that takes longer than `limit_s` inside the block.

    What other tests left in memory is kept out of garbage collection meanwhile: after an export, one pass
    over it holds up whatever callback it falls into for half a second.
    """
    logger, collector = logging.getLogger("asyncio"), _Collector()
    before = loop.get_debug(), loop.slow_callback_duration
    loop.set_debug(True)
    loop.slow_callback_duration = limit_s
    logger.addHandler(collector)
    gc.freeze()
    try:
        yield collector.lines
    finally:
        gc.unfreeze()
        logger.removeHandler(collector)
        loop.set_debug(before[0])
        loop.slow_callback_duration = before[1]
