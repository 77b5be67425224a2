"""Which operator gets which window: pure functions, no input or output, the same answer every time.

An operator that holds neighbouring windows can put them together and read more of the picture than it
could from single windows. So, within its cap, no operator should hold windows that touch. And windows at the
right and lower edge hold less of the picture than others: among placements that are as good, one is chosen in
which no operator has much more of the picture than another. The search for such a placement runs once, before
the first tile; the ledger (`runtime.sites.ledger`) then enforces the caps.

Sets of windows are bit masks inside this module: bit i is window i, row-major, as in `Geometry`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from runtime.sites.areas import Areas
from stages.errors import InputError
from stages.geometry import Geometry

# The picture is spread evenly when no operator has more of it than an even share and this.
EVEN = 0.03
# What an uneven picture counts for, in neighbouring pairs: with four operators and 3:2 frames no windows need
# touch, but then one operator has 0.33 of the picture; with two pairs it has 0.26.
UNEVEN_PAIRS = 2

# What a placement is judged by, smaller is better: largest group, where two windows count as no group;
# neighbouring pairs, with UNEVEN_PAIRS; the share of the picture that an operator has beyond an even one and
# EVEN; seconds a frame.
Key: TypeAlias = tuple[int, int, float, float]

# Chosen by trial on 2 to 10 operators: of 40 random speeds, 3 operators x 25 windows reached groups of 2 and
# 4 operators x 25 windows no pairs every time.
_ROUNDS = 5
_STEPS = 2500  # a round
# Temperatures in neighbouring pairs: one pair more is nearly free at the start, practically never accepted at
# the end.
_T_START, _T_END = 1.5, 0.15
_UNEVEN = 40.0  # pairs that count for all of the picture, so that a move to less is seen as one
_CROWDED_SHARE = 0.7  # of the steps, those that move a window which touches another one of its operator

_NOTHING_HELD: Mapping[str, Collection[int]] = MappingProxyType({})


def default_cap(windows: int, operators: int) -> int:
    """Windows each of `operators` may see when `windows` are sent: an even share, rounded up."""
    if operators < 1:
        raise InputError(f"windows are shared among {operators} operators; expected at least 1")
    return -(-windows // operators)


def least_cap(windows: Collection[int], seen: Sequence[Collection[int]]) -> int:
    """The smallest cap of every operator under which all windows can be seen; `seen` is by operator, of which
    there is at least one."""
    new = len(set(windows).difference(*seen))
    return next(cap for cap in count(1) if sum(max(0, cap - len(each)) for each in seen) >= new)


def neighbours(grid: int, window: int) -> tuple[int, ...]:
    """The up to 8 windows that touch `window`, corners included, in the grid, ascending."""
    return tuple(_bits(_lattice(grid).touched(_mask(grid, (window,)))))


def largest_group(grid: int, windows: Collection[int]) -> int:
    """Size of the largest group of touching windows (corners count) among `windows`; 0 of none."""
    return max(_lattice(grid).groups(_mask(grid, windows)), default=0)


def assign(
    geometry: Geometry,
    windows: Sequence[int],
    caps: Mapping[str, int],
    speeds: Mapping[str, float],
    held: Mapping[str, Collection[int]] = _NOTHING_HELD,
    areas: Areas | None = None,
) -> dict[int, str]:
    """Choose an operator for each of `windows`: window -> operator, ascending.

    `caps` are windows an operator may see in a session and name the operators; `speeds` are tiles per
    second, above 0; `held` is what each has seen already (`ExposureLedger.exposed`). A window that an
    operator of `caps` holds stays with a holder. The others are placed so that, in this order: no
    operator sees more than its cap; the largest group of touching windows of one operator, then the
    number of touching pairs of one operator, is small, counting what it holds, and UNEVEN_PAIRS if, by
    `areas`, an operator has more of the picture than an even share and EVEN; it has little more; and the
    slowest operator is done early. Without `areas` windows hold no picture. As many windows as the caps allow
    are placed; the rest are missing from the result.

    The placement is found by simulated annealing with a fixed seed: the same arguments give the same
    answer, whatever their order. Raises InputError for a window outside the grid or an unusable speed.
    """
    names = sorted(caps)
    _check_speeds(names, speeds)
    wanted = _bits(_mask(geometry.grid, windows))
    seen = [_mask(geometry.grid, held.get(name, ())) for name in names]
    kept = _keep(wanted, seen, [speeds[name] for name in names])
    problem = _Problem(
        lattice=_lattice(geometry.grid),
        free=tuple(window for window in wanted if window not in kept),
        seen=tuple(seen),
        rooms=tuple(max(0, caps[name] - mask.bit_count()) for name, mask in zip(names, seen, strict=True)),
        kept=tuple(list(kept.values()).count(i) for i in range(len(names))),
        speeds=tuple(speeds[name] for name in names),
        areas=areas or Areas.of(geometry, ()),
    )
    placed = {window: i for i, mask in enumerate(_place(problem)) for window in _bits(mask)}
    return {window: names[i] for window, i in sorted({**kept, **placed}.items())}


def takeover(
    geometry: Geometry,
    windows: Collection[int],
    candidates: Sequence[str],
    rooms: Mapping[str, int],
    held: Mapping[str, Collection[int]],
    speeds: Mapping[str, float],
    areas: Areas | None = None,
) -> dict[int, str]:
    """Choose new operators among `candidates` for windows whose own failed: window -> operator, ascending.

    `rooms` are windows a candidate may still see (`ExposureLedger.room`), `held` those it has seen,
    `speeds` tiles per second. A window goes to a candidate that has seen it, which costs no room; else to
    one with room: the one that holds fewest of its neighbours, then one that, by `areas`, has at most EVEN of
    the picture more than another would, then the one that is soonest done with what it takes over here, then
    the one named first. Windows that fit nowhere are missing from the result.
    """
    _check_speeds(candidates, speeds)
    lattice = _lattice(geometry.grid)
    seen = {name: _mask(geometry.grid, held.get(name, ())) for name in candidates}
    room = {name: rooms.get(name, 0) for name in candidates}
    taken = dict.fromkeys(candidates, 0)
    chosen: dict[int, str] = {}
    areas = areas or Areas.of(geometry, ())

    def pick(bit: int) -> str | None:
        holders = [name for name in candidates if seen[name] & bit]
        if holders:
            return min(holders, key=load_s)
        able = [name for name in candidates if room[name] > 0]
        shares = {name: areas.share(_bits(seen[name] | bit)) for name in able}
        even = min(shares.values(), default=0.0) + EVEN

        def price(name: str) -> tuple[int, float, float]:
            touching = (lattice.touched(bit) & seen[name]).bit_count()
            return touching, max(0.0, shares[name] - even), load_s(name)

        return min(able, key=price, default=None)

    def load_s(name: str) -> float:
        return (taken[name] + 1) / speeds[name]

    for window in _bits(_mask(geometry.grid, windows)):
        name = pick(1 << window)
        if name is not None:
            chosen[window] = name
            taken[name] += 1
            room[name] -= 1 - (seen[name] >> window & 1)
            seen[name] |= 1 << window
    return chosen


def _check_speeds(names: Iterable[str], speeds: Mapping[str, float]) -> None:
    for name in names:
        speed = speeds.get(name)
        if speed is None or not 0 < speed < math.inf:
            raise InputError(f"the speed of operator {name} is {speed} tiles/s; expected a number above 0")


def _mask(grid: int, windows: Iterable[int]) -> int:
    """The windows as a bit mask; InputError when one is outside the grid."""
    mask = 0
    for window in windows:
        if not 0 <= window < grid**2:
            raise InputError(
                f"window {window} is outside the grid of {grid} x {grid} windows (0..{grid**2 - 1}); if it "
                "comes from the exposure ledger of another model, start over with --new-session"
            )
        mask |= 1 << window
    return mask


def _bits(mask: int) -> list[int]:
    """The windows in a bit mask, ascending."""
    return [i for i in range(mask.bit_length()) if mask >> i & 1]


class _Lattice:
    """Which windows of a grid touch, on bit masks."""

    def __init__(self, grid: int) -> None:
        first_column = sum(1 << row * grid for row in range(grid))
        self._grid = grid
        self._all = (1 << grid**2) - 1
        self._not_first = self._all & ~first_column
        self._not_last = self._all & ~(first_column << (grid - 1))

    def touched(self, mask: int) -> int:
        """Every window that touches one of `mask`."""
        beside = (mask & self._not_last) << 1 | (mask & self._not_first) >> 1
        wide = mask | beside
        return (beside | wide << self._grid | wide >> self._grid) & self._all

    def group(self, start: int, within: int) -> int:
        """The windows of `within` that can be reached from `start` by touching."""
        group, grown = 0, start
        while grown != group:
            group, grown = grown, (grown | self.touched(grown)) & within
        return group

    def groups(self, mask: int) -> Iterator[int]:
        """Sizes of the groups of touching windows."""
        while mask:
            group = self.group(mask & -mask, mask)
            yield group.bit_count()
            mask &= ~group

    def pairs(self, mask: int) -> int:
        """How many pairs of windows touch: to the right, below left, below, below right."""
        right, left = mask & self._not_last, mask & self._not_first
        below = (left << (self._grid - 1), mask << self._grid, right << (self._grid + 1))
        return (mask & right << 1).bit_count() + sum((mask & shifted).bit_count() for shifted in below)


@lru_cache(maxsize=8)
def _lattice(grid: int) -> _Lattice:
    return _Lattice(grid)


def _keep(wanted: Iterable[int], seen: Sequence[int], speeds: Sequence[float]) -> dict[int, int]:
    """Windows that stay with an operator that has seen them: window -> operator index.

    Those with one holder first, so that those with several even out the load.
    """
    holders = {window: [i for i, mask in enumerate(seen) if mask >> window & 1] for window in wanted}
    kept: dict[int, int] = {}
    counts = [0] * len(seen)
    for window in sorted((w for w in holders if holders[w]), key=lambda w: len(holders[w])):
        kept[window] = min(holders[window], key=lambda i: (counts[i] + 1) / speeds[i])
        counts[kept[window]] += 1
    return kept


@dataclass(frozen=True)
class _Problem:
    """What stays the same while windows are placed; a sequence has one entry per operator.

    `free` are the windows to place, `seen` what an operator has seen, `rooms` how many new windows it may
    see, `kept` how many windows it has already been given, `speeds` tiles per second.
    """

    lattice: _Lattice
    free: tuple[int, ...]
    seen: tuple[int, ...]
    rooms: tuple[int, ...]
    kept: tuple[int, ...]
    speeds: tuple[float, ...]
    areas: Areas

    @property
    def capacities(self) -> tuple[int, ...]:
        """Windows each operator may be given; one more entry, if needed, is for those that fit nowhere."""
        left_out = len(self.free) - sum(self.rooms)
        return (*self.rooms, left_out) if left_out > 0 else self.rooms

    def bound(self) -> Key:
        """A key no placement can beat: what is held already, and the windows spread by speed alone."""
        counts = list(self.kept)
        for _ in range(min(len(self.free), sum(self.rooms))):
            able = (i for i, room in enumerate(self.rooms) if counts[i] - self.kept[i] < room)
            counts[min(able, key=lambda i: (counts[i] + 1) / self.speeds[i])] += 1
        slowest_s = max(count / speed for count, speed in zip(counts, self.speeds, strict=True))
        largest = max((size for mask in self.seen for size in self.lattice.groups(mask)), default=0)
        uneven = self.uneven(max(self.areas.share(_bits(mask)) for mask in self.seen))
        return _key(largest, sum(map(self.lattice.pairs, self.seen)), uneven, slowest_s)

    def uneven(self, share: float) -> float:
        """How much this share of the picture is beyond an even one and EVEN."""
        return max(0.0, share - 1 / len(self.seen) - EVEN)


def _key(largest: int, pairs: int, uneven: float, slowest_s: float) -> Key:
    return max(largest, 2), pairs + UNEVEN_PAIRS * (uneven > 0), uneven, slowest_s


class _Score(NamedTuple):
    """What one operator adds to a placement.

    `largest` group in windows, touching `pairs`, `energy` in pairs, `share` of the picture, `load_s` in
    seconds a frame, and as a mask the windows given to it that touch another one it sees.
    """

    largest: int
    pairs: int
    energy: float
    share: float
    load_s: float
    crowded: int


class _Scorer:
    """Scores placements: a list of masks, one per capacity, of the free windows that go there."""

    def __init__(self, problem: _Problem) -> None:
        self._problem = problem
        self._tables: list[dict[int, _Score]] = [{} for _ in problem.seen]
        self.bound = problem.bound()

    def scores(self, masks: Sequence[int]) -> list[_Score]:
        """One score per operator. The same few masks come back often, hence the tables: 2x faster."""
        operators = enumerate(zip(self._tables, masks, strict=False))
        return [table.get(mask) or self._score(i, mask) for i, (table, mask) in operators]

    def key(self, scores: Sequence[_Score]) -> Key:
        """What the placement is chosen by."""
        largest, pairs = max(score.largest for score in scores), sum(score.pairs for score in scores)
        return _key(largest, pairs, self._uneven(scores), max(score.load_s for score in scores))

    def energy(self, scores: Sequence[_Score]) -> float:
        """A smoother number that leads to a small key: less than one pair for speed, and the rest."""
        slowest_s, uneven = max(score.load_s for score in scores), self._uneven(scores)
        imbalance = 1 - self.bound[3] / slowest_s + UNEVEN_PAIRS * (uneven > 0) + _UNEVEN * uneven
        return imbalance + sum(score.energy for score in scores)

    def _uneven(self, scores: Sequence[_Score]) -> float:
        return self._problem.uneven(max(score.share for score in scores))

    def _score(self, operator: int, mask: int) -> _Score:
        problem, seen = self._problem, self._problem.seen[operator] | mask
        sizes = list(problem.lattice.groups(seen))
        pairs = problem.lattice.pairs(seen)
        energy = pairs + 1.5 * sum((size - 1) * (size - 2) for size in sizes)
        load_s = (problem.kept[operator] + mask.bit_count()) / problem.speeds[operator]
        crowded = mask & problem.lattice.touched(seen)
        share = problem.areas.share(_bits(seen))
        score = _Score(max(sizes, default=0), pairs, energy, share, load_s, crowded)
        self._tables[operator][mask] = score
        return score


def _place(problem: _Problem) -> list[int]:
    """Place the free windows: one mask per operator."""
    rng = random.Random(0)  # noqa: S311  (the same answer every time is wanted)
    operators = len(problem.rooms)
    if sum(capacity > 0 for capacity in problem.capacities) < 2 or not problem.free:
        return _start(problem, rng)[:operators]
    scorer = _Scorer(problem)
    best = _anneal(problem, scorer, _start(problem, rng), rng)
    for _ in range(1, _ROUNDS):
        if best[0] > scorer.bound:
            best = min(best, _anneal(problem, scorer, _start(problem, rng), rng))
    return best[1][:operators]


def _start(problem: _Problem, rng: random.Random) -> list[int]:
    """A first placement: in random order, each window to the operator with fewest of its neighbours."""
    masks = [0] * len(problem.capacities)
    seen = [*problem.seen, 0]
    for window in rng.sample(problem.free, len(problem.free)):
        around = problem.lattice.touched(1 << window)
        able = [i for i, capacity in enumerate(problem.capacities) if masks[i].bit_count() < capacity]
        target = min(able, key=lambda i: ((around & (masks[i] | seen[i])).bit_count(), masks[i].bit_count()))
        masks[target] |= 1 << window
    return masks


def _anneal(
    problem: _Problem, scorer: _Scorer, masks: list[int], rng: random.Random
) -> tuple[Key, list[int]]:
    """Improve a placement by simulated annealing; the best seen and its key."""
    capacities = problem.capacities
    scores = scorer.scores(masks)
    energy, best = scorer.energy(scores), (scorer.key(scores), masks)
    crowded = _crowded(scores)
    for step in range(_STEPS):
        if best[0] <= scorer.bound:
            break
        among = crowded if crowded and rng.random() < _CROWDED_SHARE else problem.free
        moved = _move(problem, capacities, masks, rng.choice(among), rng)
        if any(mask.bit_count() > room for mask, room in zip(moved, capacities, strict=True)):
            continue
        scores = scorer.scores(moved)
        moved_energy = scorer.energy(scores)
        temperature = _T_START * (_T_END / _T_START) ** (step / _STEPS)
        if moved_energy <= energy or rng.random() < math.exp((energy - moved_energy) / temperature):
            masks, energy, crowded = moved, moved_energy, _crowded(scores)
            best = min(best, (scorer.key(scores), masks))
    return best


def _crowded(scores: Iterable[_Score]) -> list[int]:
    return [window for score in scores for window in _bits(score.crowded)]


def _move(
    problem: _Problem, capacities: Sequence[int], masks: list[int], window: int, rng: random.Random
) -> list[int]:
    """A placement one step away: hand `window` over to another operator, or swap it with a window or a chain.

    A chain is all windows of two operators that are joined by touching: swapping it whole adds no pair
    between its windows, which gets a placement without pairs to another one that single steps do not reach.
    """
    flip = 1 << window
    source = next(i for i, mask in enumerate(masks) if mask & flip)
    target = rng.choice([i for i in range(len(masks)) if i != source])
    full = masks[target].bit_count() >= capacities[target]
    kind = rng.randrange(6)
    if kind == 0:
        flip = problem.lattice.group(flip, masks[source] | masks[target])
    elif masks[target] and (full or kind <= 3):
        flip |= 1 << rng.choice(_bits(masks[target]))
    moved = masks.copy()
    moved[source] ^= flip
    moved[target] ^= flip
    return moved
