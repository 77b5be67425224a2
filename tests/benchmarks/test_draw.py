"""Plans of faults: the same for a seed everywhere, and of every kind."""

from __future__ import annotations

import math
from collections import Counter

from benchmarks.chaos.draw import TO_THE_END, draw
from benchmarks.chaos.faults import AT_START, DRAWN, EDGE, LEDGER, LIES
from benchmarks.chaos.film import SHAPES, windows_of

PLANS = [draw(seed) for seed in range(500)]


def test_a_seed_has_one_plan() -> None:
    assert [draw(seed) for seed in range(500)] == PLANS
    assert len({(plan.sites, plan.faults) for plan in PLANS}) == 500


def test_500_plans_hold_every_kind_often() -> None:
    drawn = Counter(kind for plan in PLANS for kind in plan.kinds)
    assert set(drawn) == set(DRAWN)
    assert min(drawn.values()) >= 10


def test_a_film_with_a_lie_in_it_is_long_and_can_be_checked() -> None:
    for plan in (draw(seed, (*LIES, "kill")) for seed in range(50)):
        assert plan.honest == (plan.kinds == {"kill"})
        assert plan.honest or plan.kinds <= set(LIES)
        assert plan.honest or (plan.times, plan.edge_windows, plan.wire) == (8, True, "fp16")
        assert all(fault.count == TO_THE_END for fault in plan.faults if fault.kind in LIES)


def test_plans_can_be_carried_out() -> None:
    for plan in PLANS:
        names = plan.operators()
        assert len(names) == len(plan.sites) <= 5
        assert 2 <= len(set(names.values())) <= 4
        assert len(plan.faults) >= 1
        assert all(fault.site in names or (not fault.site and not fault.distorts) for fault in plan.faults)
        assert len({site.operator for site in plan.sites if not site.spare}) >= 2
        assert len(plan.kinds & {*LEDGER, *EDGE}) <= 1
        for operator in names.values():
            assert len({site.cap for site in plan.sites if site.operator == operator}) == 1


def test_a_damaged_ledger_is_met_at_the_start_and_alone() -> None:
    damaged = [plan for plan in PLANS if "ledger_damaged" in plan.kinds]
    assert damaged
    assert all([fault.after for fault in plan.faults] == [AT_START] for plan in damaged)


def test_a_ledger_in_trouble_is_asked_for_more() -> None:
    """A site dies after it, so that its windows are to be granted to another one."""
    for plan in PLANS:
        for number, fault in enumerate(plan.faults):
            if fault.kind in LEDGER and fault.kind != "ledger_damaged":
                assert plan.faults[number + 1].kind == "kill"
                assert plan.faults[number + 1].after > fault.after


def test_caps_are_what_sites_say_or_an_equal_share_of_the_regular_operators() -> None:
    for plan in PLANS:
        regular = {site.operator for site in plan.sites if not site.spare}
        share = math.ceil(len(windows_of(SHAPES[plan.film])) / len(regular))
        for site in plan.sites:
            assert plan.caps()[site.operator] == (site.cap or share)


def test_windows_of_a_film_are_those_that_hold_picture() -> None:
    assert windows_of((384, 216)) == set(range(15))
    assert windows_of((384, 384)) == set(range(25))
    assert windows_of((216, 384)) == {5 * row + column for row in range(5) for column in range(3)}
