"""When a difference is a lie: what one check finds, what several find, and no alarm for honest sites."""

from __future__ import annotations

import math
import random

import pytest

from runtime.sites.spot_checks import Samples
from runtime.sites.trust import ALARM, Tolerance, Trust, Verdict, tolerance

FLOATS, INT8, BF16 = tolerance("fp16", "fp16"), tolerance("fp32", "int8"), tolerance("bf16", "fp16")
SPREAD = {
    FLOATS: 0.43,
    INT8: 0.22,
    BF16: 0.43,
}  # of ln(difference) over photographs: benchmarks/spot_checks.py


def checks_until_found(trust: Trust, found: float) -> int:
    return next(number for number in range(1, 1000) if trust.judge(found) is Verdict.LIED)


@pytest.mark.parametrize("kind", [FLOATS, INT8, BF16])
def test_zeros_and_another_tile_are_found_by_one_check_whatever_the_probes_showed(kind: Tolerance) -> None:
    for worst in (0.0, kind.most):
        trust = Trust(kind)
        trust.connected(worst)
        assert trust.judge(0.8) is Verdict.LIED


def test_one_percent_of_noise_is_found_by_two_checks() -> None:
    assert checks_until_found(Trust(FLOATS), 0.01) == 2


def test_noise_below_the_limit_is_never_a_lie() -> None:
    trust = Trust(FLOATS)
    assert all(trust.judge(0.99 * trust.limit) is Verdict.GOOD for _ in range(1000))


def test_evidence_adds_up_and_good_checks_take_it_away() -> None:
    trust = Trust(FLOATS)
    assert trust.judge(2 * trust.limit) is Verdict.OPEN
    assert trust.judge(0.9 * trust.limit) is Verdict.OPEN
    assert trust.judge(0.1 * trust.limit) is Verdict.GOOD
    assert trust.judge(2 * trust.limit) is Verdict.OPEN
    assert trust.judge(2.1 * trust.limit) is Verdict.LIED


def test_a_new_connection_forgives_nothing() -> None:
    trust = Trust(FLOATS)
    trust.judge(2 * trust.limit)
    before = trust.evidence
    trust.connected(FLOATS.most)
    assert trust.evidence == before > 0
    assert trust.limit == FLOATS.slack * FLOATS.most


def test_probes_beyond_what_an_engine_may_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at most"):
        Trust(FLOATS).connected(1.01 * FLOATS.most)


@pytest.mark.parametrize("kind", [FLOATS, INT8, BF16])
def test_false_alarms_stay_below_one_in_a_million_by_lundbergs_bound(kind: Tolerance) -> None:
    """Even where the average tile differs as much as the worst probe does."""
    below = math.log(kind.slack)
    assert math.exp(-2 * below * ALARM / SPREAD[kind] ** 2) < 1e-6


@pytest.mark.parametrize("kind", [FLOATS, INT8])
def test_the_bound_holds_in_a_simulation(kind: Tolerance) -> None:
    """With a spread so wide that there are alarms to be counted, and with the one that was measured."""
    below, rng, checks = math.log(kind.slack), random.Random(3), 100_000

    def alarms(spread: float) -> int:
        trust, found = Trust(kind), 0
        for _ in range(checks):
            if trust.judge(kind.usual * math.exp(rng.gauss(0, spread))) is Verdict.LIED:
                trust, found = Trust(kind), found + 1
        return found

    wide = math.sqrt(2 * below * ALARM / math.log(100))  # of which the bound is 1 in 100
    assert 0 < alarms(wide) <= checks / 100
    assert alarms(SPREAD[kind]) == 0


@pytest.mark.parametrize(("lies", "frames"), [(0.1, 150), (0.02, 450), (0.5, 30)])
def test_the_chance_of_finding_a_lying_site_is_that_of_the_docs(lies: float, frames: int) -> None:
    """docs/spot-checks.md: 1 - (1 - p)^m with m = r n / (f S), to 0.06."""
    rate, fps, sites, windows, runs = 1.0, 5.0, "abc", 2, 400
    rng = random.Random(5)

    def caught() -> bool:
        samples: Samples[float] = Samples(rng.randrange)
        trust = {site: Trust(FLOATS) for site in sites}
        for frame in range(frames):
            for site in sites:
                for _ in range(windows):
                    samples.add(site, 1.0 if site == "b" and rng.random() < lies else 1e-5)
            if frame % round(fps / rate) == 0:
                taken = samples.take(sites)
                assert taken is not None
                if trust[taken[0]].judge(taken[1]) is Verdict.LIED:
                    assert taken[0] == "b"
                    return True
        return False

    checks = rate * frames / (fps * len(sites))
    assert sum(caught() for _ in range(runs)) / runs == pytest.approx(1 - (1 - lies) ** checks, abs=0.06)
