"""A plan of a seed: the same seed gives the same plan, on every machine."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.chaos.faults import AT_START, DRAWN, EDGE, LEDGER, LIES, Fault
from benchmarks.chaos.film import SHAPES, windows_of

MOST_SITES = 5
TO_THE_END = 1 << 20  # answers
LIE_TIMES = 8  # that a film is shown in which a site lies: each site is to be checked several times
_BEFORE_THE_EDGE = ("other_digest", "other_weights", "late", "absent")
_PERSISTENT = 0.3  # of the faults of answers go on to the end of the run
_SOON = 25  # windows of the film to one site, or three times as many to all, within which a fault begins


@dataclass(frozen=True)
class SitePlan:
    """One table of sites.toml; `cap` is its operator's, None: the default."""

    name: str
    operator: str
    spare: bool
    cap: int | None


@dataclass(frozen=True)
class Plan:
    """One run. `film` is an index into SHAPES and is shown so many `times`; without `edge_windows` the edge
    has no window stage."""

    seed: int
    film: int
    wire: str
    sites: tuple[SitePlan, ...]
    edge_windows: bool
    faults: tuple[Fault, ...]
    times: int

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(fault.kind for fault in self.faults)

    @property
    def honest(self) -> bool:
        """Whether no site lies."""
        return not self.kinds & set(LIES)

    def caps(self) -> dict[str, int]:
        """How many window positions each operator may see: what its sites say, else an equal share."""
        regular = {site.operator for site in self.sites if not site.spare}
        share = math.ceil(len(windows_of(SHAPES[self.film])) / len(regular))
        return {site.operator: share if site.cap is None else site.cap for site in self.sites}

    def operators(self) -> dict[str, str]:
        """Site -> operator."""
        return {site.name: site.operator for site in self.sites}

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def draw(seed: int, kinds: Sequence[str] = DRAWN) -> Plan:
    """The plan of a seed, with one to three faults of these kinds."""
    rng = random.Random(seed)  # noqa: S311  (the same plan every time is wanted)
    chosen = rng.sample(list(kinds), min(len(kinds), rng.randint(1, 3)))
    film = rng.randrange(len(SHAPES))
    sites = _sites(rng, len(windows_of(SHAPES[film])))
    together = _together(chosen)
    lies = bool(set(together) & set(LIES))
    edge_windows = lies or rng.random() < 0.9
    if not edge_windows:  # caps that leave windows to the edge would lose every frame
        sites = tuple(SitePlan(site.name, site.operator, site.spare, None) for site in sites)
    faults = tuple(fault for kind in together for fault in _faults(rng, kind, sites))
    # Noise of 1 % is only a little more than the rounding of int8.
    wire = rng.choice(("fp16", "fp16", "fp16" if lies else "int8"))
    return Plan(seed, film, wire, sites, edge_windows, faults, LIE_TIMES if lies else 1)


def _sites(rng: random.Random, windows: int) -> tuple[SitePlan, ...]:
    """Two to four operators; some have two sites, one may be a spare."""
    count = rng.randint(2, 4)
    operators = [f"operator-{number}" for number in range(count)]
    spare = operators[-1] if count > 2 and rng.random() < 0.4 else None
    share = math.ceil(windows / (count - (spare is not None)))
    caps = {name: rng.choice((None, None, share, share + 2, max(1, share - 2))) for name in operators}
    owners = operators + [name for name in operators if rng.random() < 0.3][: MOST_SITES - count]
    return tuple(
        SitePlan("abcde"[number], owner, owner == spare, caps[owner]) for number, owner in enumerate(owners)
    )


def _together(kinds: Sequence[str]) -> list[str]:
    """Without what another would hide.

    One fault of the edge or its ledger; a damaged ledger comes alone, and lies come with lies alone: a site
    that is down is not found to lie.
    """
    if "ledger_damaged" in kinds:
        return ["ledger_damaged"]
    if lies := [kind for kind in kinds if kind in LIES]:
        return lies
    of_the_edge = [kind for kind in kinds if kind in (*LEDGER, *EDGE)]
    return [kind for kind in kinds if kind not in of_the_edge[1:]]


def _faults(rng: random.Random, kind: str, sites: Sequence[SitePlan]) -> list[Fault]:
    """The fault, and after one of the ledger a site that dies: then there is something to grant."""
    name = rng.choice([site.name for site in sites if not site.spare])
    soon = rng.randrange(_SOON)
    count = TO_THE_END if rng.random() < _PERSISTENT else rng.randint(1, 12)
    value = rng.random()
    if kind in LEDGER:
        first = AT_START if kind == "ledger_damaged" else soon
        dies = [] if kind == "ledger_damaged" else [Fault("kill", name, soon + 5, 1, value)]
        return [Fault(kind, "", first, 1, value), *dies]
    if kind in EDGE:
        return [Fault(kind, "", AT_START if kind == "disk_full" else 3 * soon, 1, value)]
    if kind in LIES:
        return [Fault(kind, name, soon, TO_THE_END, value)]
    if kind in _BEFORE_THE_EDGE:
        return [Fault(kind, name, AT_START, TO_THE_END, value)]
    return [Fault(kind, name, soon, count, value)]
