"""How far a site's embeddings may differ from the edge's own, and when they are a lie.

A difference is relative (see `stages.probe.relative_rms`): of the site's from the edge's own, both after the
same rounding by the wire. Zeros differ by 1, the embedding of another tile by about 1.

Honest engines differ too: they add up in another order, or round to fp16 or bf16 between operators. How much
depends on the tile, so two things bound it:

    limit = slack x max(usual, the largest difference of the site's probes)

`usual` is what any honest engine of the stage's precision may show, so that a site that changes its engine or
has two of them raises no alarm. Probes raise the limit for a site whose engine is worse, up to `most`: a site
that answers even its probes worse is not used. `slack` is how much more a tile may differ than the probes.

Checks add up, as in Page's CUSUM test: each adds ln(difference / limit), and what is below 0 is forgotten. An
alarm is at ALARM. So a tile that differs by e^ALARM times the limit is found by one check, less by several,
and what stays below the limit never. If the logarithm of honest differences is normal with a mean that lies m
below ln(limit) and a standard deviation of s, the chance of a false alarm is at most exp(-2 m ALARM / s^2) a
check (Lundberg's bound). benchmarks/spot_checks.py measures s: 0.43 for wires of floats, half of that for
int8, whose rounding turns a difference into its square root; that is why its slack is one too.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

ALARM = math.log(4)
_SMALLEST = 1e-12  # instead of a difference of 0, which has no logarithm


@dataclass(frozen=True)
class Tolerance:
    """Relative differences of honest sites; see above."""

    usual: float
    most: float
    slack: float


_FLOATS, _INT8 = Tolerance(1.5e-3, 5e-3, 3.0), Tolerance(6e-3, 1e-2, math.sqrt(3))
_BF16 = Tolerance(2e-2, 5e-2, 3.0)


def tolerance(precision: str, wire_format: str) -> Tolerance:
    """For the precision in which the window stage computes, and what its site answers with."""
    if precision.startswith("bf16"):
        return _BF16
    return _INT8 if wire_format == "int8" else _FLOATS


class Verdict(enum.Enum):
    """What is known of a site after a check: GOOD, nothing speaks against it; OPEN, something does; LIED."""

    GOOD = enum.auto()
    OPEN = enum.auto()
    LIED = enum.auto()


class Trust:
    """What is known of a site. A new connection changes its `limit` and forgives nothing."""

    def __init__(self, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        self.limit = 0.0
        self.evidence = 0.0
        self.connected()

    def connected(self, worst_probe: float = 0.0) -> None:
        """Take the largest difference of its probes for the measure of what it computes with now.

        Raises ValueError for one above `tolerance.most`: such a site is not to be used.
        """
        if worst_probe > self._tolerance.most:
            raise ValueError(f"a probe differs by {worst_probe}, expected at most {self._tolerance.most}")
        self.limit = self._tolerance.slack * max(self._tolerance.usual, worst_probe)

    def judge(self, difference: float) -> Verdict:
        """Take one more check into account."""
        self.evidence = max(0.0, self.evidence + math.log(max(difference, _SMALLEST) / self.limit))
        if self.evidence >= ALARM:
            return Verdict.LIED
        return Verdict.OPEN if self.evidence else Verdict.GOOD
