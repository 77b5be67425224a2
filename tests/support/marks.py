"""A user's own detector for tests: it finds what is of the colour MARK, and fails on FAULT and END."""

from __future__ import annotations

import threading
import time

import numpy as np

from runtime.frames.boxes import BoxXyxy
from stages.tensors import Pixels

MARK = (255, 0, 200)
FAULT = (0, 255, 77)
END = (33, 255, 0)
FIND = f"{__name__}:find"
SLOW = f"{__name__}:find_slowly"
SLOW_S = 0.3
HANG = f"{__name__}:find_never"

threads: set[str] = set()  # names of those that looked
released = threading.Event()  # a look that hangs hangs no more
hanging = threading.Event()  # a look has begun to hang
hung: list[Pixels] = []  # what those looks were of


def find(picture: Pixels) -> list[BoxXyxy]:
    threads.add(threading.current_thread().name)
    if (picture == FAULT).all(axis=2).any():
        raise ZeroDivisionError("a fault")
    if (picture == END).all(axis=2).any():
        raise SystemExit(0)
    rows, cols = np.nonzero((picture == MARK).all(axis=2))
    return [(cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)] if len(rows) else []


def find_slowly(picture: Pixels) -> list[BoxXyxy]:
    time.sleep(SLOW_S)
    return find(picture)


def find_never(picture: Pixels) -> list[BoxXyxy]:
    hung.append(picture)
    hanging.set()
    released.wait(300)
    return find(picture)
