"""Which operator gets which window: pure functions, no input or output, the same answer every time.

An operator that holds neighbouring windows can put them together and read more of the picture than it
could from single windows. So, within its cap, no operator should hold windows that touch. The search for
such a placement runs once, before the first tile; the ledger (`runtime.ledger`) then enforces the caps.

Sets of windows are bit masks inside this module: bit i is window i, row-major, as in `Geometry`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from stages.errors import InputError
from stages.geometry import Geometry

# What a placement is judged by, smaller is better: largest group, neighbouring pairs, seconds a frame.
Key: TypeAlias = tuple[int, int, float]

# 3 operators x 25 windows reach their optimum within the first round; the others are for odd shapes.
_ROUNDS = 3
_STEPS = 6000
_HOT, _COLD = 1.5, 0.15  # in neighbouring pairs: at the start a pair more is nearly free, at the end a wall


def default_cap(windows: int, operators: int) -> int:
    """Windows each of `operators` may see when `windows` are sent: an even share, rounded up."""
    if operators < 1:
        raise InputError(f"windows are shared among {operators} operators; expected at least 1")
    return -(-windows // operators)


def neighbours(grid: int, window: int) -> tuple[int, ...]:
    """The up to 8 windows that touch `window`, corners included, on a grid x grid board, ascending."""
    mask = _mask(grid, (window,))
    return tuple(_bits(_lattice(grid).around(mask) & ~mask))


def largest_group(grid: int, windows: Collection[int]) -> int:
    """Size of the largest group of touching windows (corners count) among `windows`; 0 of none."""
    return max(_lattice(grid).groups(_mask(grid, windows)), default=0)


def assign(
    geometry: Geometry,
    windows: Sequence[int],
    caps: Mapping[str, int],
    speeds: Mapping[str, float],
    held: Mapping[str, Collection[int]] | None = None,
) -> dict[int, str]:
    """Choose an operator for each of `windows`: window -> operator, ascending.

    `caps` are windows an operator may see in a session and name the operators; `speeds` are tiles per
    second, above 0; `held` is what each has seen already (`ExposureLedger.exposed`). A window that an
    operator of `caps` holds stays with a holder. The others are placed so that, in this order: no
    operator sees more than its cap; the largest group of touching windows of one operator, then the
    number of touching pairs of one operator, is small, counting what it holds; and the slowest operator
    is done early. As many windows as the caps allow are placed; the rest are missing from the result.

    The placement is found by simulated annealing with a fixed seed: the same arguments give the same
    answer, whatever their order. Raises InputError for a window outside the grid or an unusable speed.
    """
    names = sorted(caps)
    _check_speeds(names, speeds)
    wanted = _bits(_mask(geometry.grid, windows))
    seen = [_mask(geometry.grid, (held or {}).get(name, ())) for name in names]
    kept = _keep(wanted, seen, [speeds[name] for name in names])
    board = _Board(
        lattice=_lattice(geometry.grid),
        free=tuple(window for window in wanted if window not in kept),
        seen=tuple(seen),
        rooms=tuple(max(0, caps[name] - mask.bit_count()) for name, mask in zip(names, seen, strict=True)),
        kept=tuple(list(kept.values()).count(i) for i in range(len(names))),
        speeds=tuple(speeds[name] for name in names),
    )
    placed = {window: i for i, mask in enumerate(_place(board)) for window in _bits(mask)}
    return {window: names[i] for window, i in sorted({**kept, **placed}.items())}


def takeover(
    geometry: Geometry,
    windows: Collection[int],
    candidates: Sequence[str],
    rooms: Mapping[str, int],
    held: Mapping[str, Collection[int]],
    speeds: Mapping[str, float],
) -> dict[int, str]:
    """Choose new operators among `candidates` for windows whose own failed: window -> operator, ascending.

    `rooms` are windows a candidate may still see (`ExposureLedger.room`), `held` those it has seen,
    `speeds` tiles per second. A window goes to a candidate that has seen it, which costs no room; else to
    one with room: the one that holds fewest of its neighbours, then the one that is soonest done with what
    it takes over here, then the one named first. Windows that fit nowhere are missing from the result.
    """
    _check_speeds(candidates, speeds)
    lattice = _lattice(geometry.grid)
    seen = {name: _mask(geometry.grid, held.get(name, ())) for name in candidates}
    room = {name: rooms.get(name, 0) for name in candidates}
    taken = dict.fromkeys(candidates, 0)
    chosen: dict[int, str] = {}
    for window in _bits(_mask(geometry.grid, windows)):
        bit = 1 << window
        holders = [name for name in candidates if seen[name] & bit]
        able = holders or [name for name in candidates if room[name] > 0]
        if not able:
            continue
        touching = {name: (lattice.around(bit) & ~bit & seen[name]).bit_count() for name in able}
        name = min(able, key=lambda name: (touching[name], (taken[name] + 1) / speeds[name]))
        chosen[window] = name
        taken[name] += 1
        if not holders:
            room[name] -= 1
            seen[name] |= bit
    return chosen
