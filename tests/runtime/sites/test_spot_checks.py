"""Spot checks as they run: what is chosen, what it waits for, and what comes of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import numpy as np
import pytest
from aiohttp import web

from runtime.sites.health import Health
from runtime.sites.spot_checks import (
    LATER_FRAMES,
    Samples,
    SpotCheckOptions,
    SpotChecks,
    checking,
    synthetic_tiles,
)
from stages.bundle import Bundle
from stages.errors import EngineError, SiteUnavailable
from stages.geometry import GEOMETRIES
from stages.tensors import Array
from stages.tile_code import TileCode
from tests.support.edge import Behaviour, Impostor, answers_with, canvas_of, status, window_stamp
from tests.support.fakes import tiny_bundle, until
from tests.support.scenes import LocalStamps, Scene, honest, scene

pytestmark = pytest.mark.anyio

PROBES = 8
OFTEN = SpotCheckOptions(rate=1000.0, share=1.0)


class Engine(LocalStamps):
    """Notes the order of each call. It fails from the moment it is `broken`, and answers `wrong` instead of
    what is right."""

    mean_s = 0.001

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.orders: list[int] = []
        self.broken = False
        self.wrong: Array | None = None
        self._probe = bundle.probe()

    async def embed(self, window: int, inputs: Mapping[str, Array], order: int = 0) -> Array:
        self.orders.append(order)
        if self.broken:
            raise EngineError("out of memory")
        if self.wrong is not None:
            return self.wrong
        if np.array_equal(inputs["tile"], self._probe.inputs["tile"]):
            probe: Array = self._probe.embedding[0]
            return probe
        return await super().embed(window, inputs, order)


@asynccontextmanager
async def checked(
    bundle: Bundle, sites: dict[str, Impostor], fallback: bool = False, wrong: Array | None = None
) -> AsyncIterator[tuple[Scene, SpotChecks, Engine]]:
    local = Engine(bundle)
    local.wrong = wrong
    async with (
        scene(bundle, sites, cap=15, local=local if fallback else None) as it,
        checking(it.windows, local, it.encoder.doubts, bundle, "fp16", OFTEN, it.notes.add) as checks,
    ):
        yield it, checks, local


def wrong(bundle: Bundle) -> Behaviour:
    return answers_with(lambda b: window_stamp(b, 77)[None])


async def test_every_site_is_checked_in_turn_and_honest_ones_stay(mini_bundle: Bundle) -> None:
    async with checked(mini_bundle, honest(mini_bundle, "abc")) as (it, checks, _):
        await it.frame()
        await until(lambda: set(checks.checks) == set("abc"))
        before = checks.checks.copy()
        await it.frame()
        await until(lambda: all(checks.checks[site] > before[site] for site in "abc"))
        assert it.notes.lines == []
        assert it.encoder.doubts.frames == 0


async def test_a_site_that_lies_is_taken_out_by_one_check(mini_bundle: Bundle) -> None:
    sites = honest(mini_bundle, "abc")
    async with checked(mini_bundle, sites) as (it, checks, _):
        await it.frame()
        await until(lambda: set(checks.checks) == set("abc"))
        sites["b"].script.extend([wrong(mini_bundle)] * 100)
        with anyio.fail_after(60):
            while it.site("b").health is Health.READY:
                try:
                    await it.frame()
                except AssertionError:  # the lie
                    await anyio.sleep(0.01)
        assert it.site("b").health is Health.EXCLUDED
        assert it.notes.lines[0].startswith(
            "site b: answered a window with an embedding that differs from the edge's own by"
        )
        assert it.notes.lines[0].endswith(
            "or start it with another --backend; it is not asked again in this run"
        )
        await it.frame()
        assert {site.name for site in it.windows.sites.ready()} == {"a", "c"}


async def test_probes_are_answered_before_the_first_check_and_count_as_no_exposure(
    mini_bundle: Bundle,
) -> None:
    sites = honest(mini_bundle, "a")
    async with checked(mini_bundle, sites) as (it, checks, _):
        await until(lambda: len(sites["a"].tiles) == PROBES)
        assert it.ledger.exposure("operator-a") == frozenset()
        assert not checks.checks
        assert it.clients[0].sent == set()


async def test_a_site_whose_engine_is_off_is_not_used(mini_bundle: Bundle) -> None:
    sites = honest(mini_bundle, "abc")
    sites["c"].script.extend([wrong(mini_bundle)] * PROBES)
    async with checked(mini_bundle, sites) as (it, _, _):
        await it.notes.wait_for("site c: answers a synthetic tile with an embedding that differs")
        assert it.site("c").health is Health.EXCLUDED


async def test_a_site_that_answers_no_synthetic_tile_is_checked_all_the_same(mini_bundle: Bundle) -> None:
    sites = honest(mini_bundle, "a")
    sites["a"].script.append(status(500))
    async with checked(mini_bundle, sites) as (it, checks, _):
        await until(lambda: bool(sites["a"].tiles))
        await it.frame()
        await until(lambda: checks.checks["a"] >= 1)
        assert it.site("a").health is Health.READY


async def test_a_site_that_is_out_of_use_when_its_probes_end_is_checked_all_the_same(
    mini_bundle: Bundle,
) -> None:
    """One that failed a tile by then evaded its checks."""
    sites, started = honest(mini_bundle, "a"), anyio.Event()

    async def fail(site: Impostor, request: web.Request) -> web.StreamResponse:
        await started.wait()
        site.always = status(500)
        it.windows.sites.failed(it.site("a"), SiteUnavailable("a", "is down"))
        return web.Response(status=500)

    sites["a"].script.append(fail)
    async with checked(mini_bundle, sites, fallback=True) as (it, checks, _):
        started.set()
        await checks.measured.wait()
        inputs = canvas_of("16:9", mini_bundle.geometry).window_inputs([7], mini_bundle)
        checks.answered(it.site("a"), 7, inputs, window_stamp(mini_bundle, 77))
        await it.notes.wait_for("site a: answered a window with an embedding that differs")
        assert it.site("a").health is Health.EXCLUDED


class Waiting(Impostor):
    """Answers synthetic tiles when `release` is set, and wrongly."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.release, self.asked = anyio.Event(), 0
        canvas = canvas_of("16:9", bundle.geometry)
        tiles = canvas.window_inputs(canvas.windows, bundle)["tile"]
        self._others = {tile.tobytes() for tile in (*bundle.probe().inputs["tile"], *tiles)}

    async def right_answer(self, inputs: dict[str, Array]) -> Array:
        if inputs["tile"].tobytes() in self._others:
            return await super().right_answer(inputs)
        self.asked += 1
        await self.release.wait()
        wrong: Array = window_stamp(self.bundle, 77)[None]
        return wrong


async def test_a_lie_that_is_found_twice_is_told_once(mini_bundle: Bundle) -> None:
    """The site fails and comes back while its first probe is on its way, and gets them again."""
    site = Waiting(mini_bundle)
    async with checked(mini_bundle, {"a": site}, fallback=True) as (it, checks, _):
        await until(lambda: site.asked == 1)
        await it.frame()
        it.windows.sites.failed(it.site("a"), SiteUnavailable("a", "is down"))
        with anyio.fail_after(20):
            while site.asked < 2:
                await it.frame()
                await anyio.sleep(0.01)
        site.release.set()
        await checks.measured.wait()
        assert [doubt.site for doubt in it.encoder.doubts.take_untold()] == ["a"]


class Noting(Impostor):
    """Counts how often it answered each tile."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.answered: Counter[bytes] = Counter()

    async def right_answer(self, inputs: dict[str, Array]) -> Array:
        self.answered[inputs["tile"].tobytes()] += 1
        return await super().right_answer(inputs)


async def test_a_site_that_comes_back_is_measured_again(mini_bundle: Bundle) -> None:
    site = Noting(mini_bundle)
    async with checked(mini_bundle, {"a": site}, fallback=True) as (it, _, _):
        probes = [each for each in site.answered if each != mini_bundle.probe().inputs["tile"].tobytes()]
        assert len(probes) == PROBES
        site.script.append(status(500))
        with anyio.fail_after(60):
            while not any(line.startswith("site a: is back") for line in it.notes.lines):
                await it.frame()
                await anyio.sleep(0.01)
        await until(lambda: all(site.answered[probe] == 2 for probe in probes))


async def test_checks_wait_for_the_frames_under_way_and_not_for_ever(mini_bundle: Bundle) -> None:
    async with checked(mini_bundle, honest(mini_bundle, "a")) as (it, checks, local):
        it.encoder.doubts.used(40, "a")
        local.orders.clear()
        await it.frame()
        await until(lambda: checks.checks["a"] >= 1)
        assert set(local.orders) <= {40 + LATER_FRAMES}


async def test_a_good_check_says_nothing_of_frames_that_may_still_be_under_way(mini_bundle: Bundle) -> None:
    async with checked(mini_bundle, honest(mini_bundle, "a")) as (it, checks, _):
        for number in (20, 40):
            it.encoder.doubts.used(number, "a")
        await it.frame()
        await until(lambda: checks.checks["a"] >= 1)
        assert it.encoder.doubts.lied("a", "it lies").frames == [(40, 40)]


async def test_an_engine_that_fails_ends_the_checks_and_not_the_run(mini_bundle: Bundle) -> None:
    async with checked(mini_bundle, honest(mini_bundle, "abc")) as (it, _, local):
        await until(lambda: len(local.orders) == 1 + 3 * PROBES)
        local.broken = True
        await it.frame()
        await it.notes.wait_for("no more spot checks, so that a site that lies is not found: out of memory")
        await it.frame()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3.0, r"answers the probe with a difference of .*, allowed"),
        (float("nan"), "values that are not finite"),
    ],
)
async def test_an_engine_of_the_edge_that_is_wrong_excludes_no_site(
    mini_bundle: Bundle, value: float, words: str
) -> None:
    wrong = np.full_like(window_stamp(mini_bundle, 0), value)
    async with checked(mini_bundle, honest(mini_bundle, "abc"), wrong=wrong) as (it, checks, _):
        await it.frame()
        (line,) = it.notes.lines
        assert re.match(
            f"no more spot checks, so that a site that lies is not found: the window .*{words}", line
        )
        assert not checks.checks
        assert len(it.windows.sites.ready()) == 3


async def test_an_engine_of_the_edge_that_becomes_wrong_says_no_site_was_honest(mini_bundle: Bundle) -> None:
    async with checked(mini_bundle, honest(mini_bundle, "abc")) as (it, checks, local):
        local.wrong = np.full_like(window_stamp(mini_bundle, 0), float("nan"))
        await it.frame()
        await it.notes.wait_for("no more spot checks")
        assert not checks.checks


def test_rate_and_share_bound_the_checks() -> None:
    assert SpotCheckOptions().interval_s(window_s=0.01) == 1
    assert SpotCheckOptions().interval_s(window_s=1.5) == pytest.approx(30)
    assert SpotCheckOptions(rate=0.1).interval_s(window_s=0.01) == pytest.approx(10)


def test_each_answer_since_the_last_check_is_chosen_as_often() -> None:
    samples: Samples[int] = Samples()
    chosen: Counter[int] = Counter()
    for _ in range(6000):
        for answer in range(6):
            samples.add("a", answer)
        taken = samples.take("a")
        assert taken is not None
        chosen[taken[1]] += 1
    assert all(850 < chosen[answer] < 1150 for answer in range(6))  # 1000 +- 5 standard deviations


def test_the_site_that_waits_longest_is_next_and_none_without_an_answer() -> None:
    samples: Samples[str] = Samples()
    assert samples.take("ab") is None
    for site in "aabbc":
        samples.add(site, site)
    assert [samples.take(among) for among in ("bc", "abc", "abc", "abc")] == [
        ("b", "b"),
        ("a", "a"),
        ("c", "c"),
        None,
    ]


@pytest.mark.parametrize("code", ["rgb", "dct:10/3"])
@pytest.mark.parametrize("model", GEOMETRIES)
def test_synthetic_tiles_are_inputs_of_the_window_stage_at_several_positions(model: str, code: str) -> None:
    geometry, tile_code = GEOMETRIES[model], TileCode.parse(code)
    bundle = replace(tiny_bundle(), geometry=geometry, tiles=tile_code, format=2)
    tiles, again = synthetic_tiles(bundle, 7), synthetic_tiles(bundle, 7)
    assert len(tiles) == PROBES
    assert len({int(each["index"][0, 0]) for each in tiles}) == PROBES
    for each, same in zip(tiles, again, strict=True):
        assert each["tile"].shape == (1, tile_code.tile_bytes(geometry))
        assert each["extent"].shape == (1, 4)
        assert [str(each[name].dtype) for name in ("tile", "index", "extent")] == ["uint8", "int32", "int32"]
        assert np.array_equal(each["tile"], same["tile"])
    assert not np.array_equal(tiles[-1]["tile"], synthetic_tiles(bundle, 8)[-1]["tile"])
