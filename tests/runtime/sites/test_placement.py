"""Whose windows they are, and who stands in for whom."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from runtime.encoder import FrameLost
from runtime.sites.areas import Areas
from runtime.sites.assignment import EVEN
from runtime.sites.health import Health
from runtime.sites.may_see import MaySee
from stages.bundle import Bundle
from tests.support.disks import limited_to
from tests.support.edge import (
    Impostor,
    status,
)
from tests.support.scenes import LocalStamps, honest, scene

pytestmark = pytest.mark.anyio


async def test_a_spare_takes_over_before_operators_with_room(mini_bundle: Bundle) -> None:
    sites = honest(mini_bundle, "abcs")
    local = LocalStamps(mini_bundle)
    async with scene(mini_bundle, sites, cap=15, local=local, spares="s", reconnect_s=[60]) as it:
        await it.frame()
        assert sites["s"].tiles == []
        sites["b"].always = status(500)
        await it.frame()
        await it.frame()
        assert it.sent("s") == it.own("b")
        assert it.sent("a") == it.own("a")
        assert local.windows == []
        assert it.encoder.statistics.redispatched == len(it.own("b"))


async def test_operators_with_room_take_over_without_losing_room_for_their_own(mini_bundle: Bundle) -> None:
    """b is closed at the start, so that a and c have seen nothing yet when its windows are given away."""
    local = LocalStamps(mini_bundle)
    sites = honest(mini_bundle, "abc")
    sites["b"].always = status(500)
    async with scene(mini_bundle, sites, cap=7, local=local, reconnect_s=[60]) as it:
        await it.frame()
        assert it.own("a") <= it.sent("a")
        assert it.own("c") <= it.sent("c")
        assert len(it.sent("a")) == len(it.sent("c")) == 7
        assert set(local.windows) < it.own("b")
        assert len(local.windows) == 1


async def test_windows_beyond_all_caps_run_at_the_edge(mini_bundle: Bundle) -> None:
    local = LocalStamps(mini_bundle)
    async with scene(mini_bundle, honest(mini_bundle, "abc"), cap=4, local=local) as it:
        await it.frame()
        assert [len(it.sent(name)) for name in "abc"] == [4, 4, 4]
        assert len(local.windows) == 3


async def test_a_session_that_goes_on_keeps_its_assignment(mini_bundle: Bundle, tmp_path: Path) -> None:
    async def slow(site: Impostor, request: web.Request) -> web.StreamResponse:
        await anyio.sleep(0.3)  # more than a busy machine adds to the others
        if request.method == "GET":
            return web.json_response({"parameters": {"site_digest": {"string_value": site.digest}}})
        return await site.answer(request)

    seen = {}
    for run, slow_sites, ledger in (("first", "bc", "kept"), ("second", "a", "kept"), ("new", "a", "new")):
        sites = honest(mini_bundle, "abc")
        for name in slow_sites:
            sites[name].always = slow
        async with scene(mini_bundle, sites, cap=9, ledger=tmp_path / ledger) as it:
            await it.frame()
            seen[run] = [it.sent(name) for name in "abc"]
    assert seen["first"] == seen["second"]
    assert len(seen["first"][0]) > len(seen["new"][0])  # the speeds would have mattered


async def test_what_operators_may_see_is_within_their_caps_and_counts_the_session(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    """The second run has more room, and a window of a that is outside its picture takes one place of it."""
    areas, ledger = Areas.of(mini_bundle.geometry, [(1080, 1920)]), tmp_path / "ledger"
    async with scene(mini_bundle, honest(mini_bundle, "abc"), cap=5, ledger=ledger, areas=areas) as it:
        await it.frame()
        first = it.windows.placement.may_see()
        assert list(first) == [f"operator-{name}" for name in "abc"]
        assert max(each.share for each in first.values()) <= 1 / 3 + EVEN
        for name in "abc":
            share = areas.share(it.sent(name))
            assert first[f"operator-{name}"] == MaySee(5, share, share)
    write_into(ledger, "operator-a", [*json.loads(ledger.read_text())["exposure"]["operator-a"], 20])
    async with scene(mini_bundle, honest(mini_bundle, "abc"), cap=6, ledger=ledger, areas=areas) as it:
        second = it.windows.placement.may_see()
        assert second["operator-a"] == first["operator-a"]
        b = second["operator-b"]
        assert (b.windows, b.share) == (5, first["operator-b"].share)
        assert b.most == pytest.approx(b.share + areas.share([0]))


def write_into(ledger: Path, operator: str, windows: Iterable[int]) -> None:
    """As another program may, under the run."""
    content = json.loads(ledger.read_text())
    content["exposure"][operator] = list(windows)
    ledger.write_text(json.dumps(content))


async def test_a_ledger_that_was_given_windows_outside_the_grid_ends_no_run(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    """They count for the cap all the same."""
    ledger, sites, local = tmp_path / "ledger", honest(mini_bundle, "abc"), LocalStamps(mini_bundle)
    async with scene(mini_bundle, sites, 15, local, ledger=ledger, reconnect_s=[60]) as it:
        write_into(ledger, "operator-a", range(990, 1000))
        await it.frame()
        sites["b"].always = status(500)
        await it.frame()
        await it.frame()
        assert it.site("b").health is Health.DOWN
        assert it.sent("a", "c") == set(range(15))
        assert len(it.sent("a")) <= 5


async def test_what_others_wrote_into_a_ledger_is_withheld_while_it_cannot_be_written(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    """The frame is lost before a tile of it leaves."""
    ledger, sites = tmp_path / "ledger", honest(mini_bundle, "abc")
    async with scene(mini_bundle, sites, 15, ledger=ledger) as it:
        for name in "abc":
            write_into(ledger, f"operator-{name}", range(15))
        with limited_to(10):
            for _ in range(2):
                with pytest.raises(FrameLost, match=r"cannot be written .* make it writable"):
                    await it.frame()
        assert it.sent(*"abc") == set()
