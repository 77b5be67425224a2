"""Sessions with sites: the same masks, what operators see, caps, sizes, and sites that hang."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from anyio import to_thread

import pedsam
from stages.bundle import Bundle, shipped_bundle
from tests.runtime.test_session import Film, edge_only, options, real_sites, run
from tests.support.edge import Impostor, sites_file, stall
from tests.support.pictures import photo

pytestmark = pytest.mark.anyio

BOX = (150.0, 60.0, 450.0, 300.0)
FRAME = photo("16:9")
SIZE = FRAME.shape[:2]
KEPT = frozenset({1, 2, 6, 7})  # that this box touches
KEPT_BOX = (150.0, 120.0, 280.0, 200.0)


@pytest.fixture
def bundle() -> Bundle:
    return Bundle.load(shipped_bundle())


@asynccontextmanager
async def impostors(
    bundle: Bundle, path: Path, always: Any = None
) -> AsyncIterator[tuple[Path, list[Impostor]]]:
    """Two sites that note what they are sent, and their sites.toml."""
    sites = [Impostor(bundle, always=always) for _ in range(2)]
    async with sites[0].running() as first, sites[1].running() as second:
        yield sites_file(path / "sites.toml", ("a", first), ("b", second)), sites


@asynccontextmanager
async def noted(
    bundle: Bundle, path: Path, edge: Bundle | None = None, **more: Any
) -> AsyncIterator[tuple[pedsam.AsyncSession, list[Impostor]]]:
    """A session with two of them, to which nothing but tiles of frames is sent; `edge` is its bundle."""
    chosen = {"threads": 1, "wire": "fp16", "spot_checks": 0, **more}
    async with (
        impostors(bundle, path) as (file, sites),
        pedsam.open_async(edge.path if edge else None, file, **chosen) as session,
    ):
        yield session, sites


async def test_masks_and_exposure_are_those_of_a_run(bundle: Bundle, tmp_path: Path) -> None:
    """Nothing is computed at the edge but what it must: its bundle has no window stage."""
    edge = edge_only(bundle, tmp_path / "edge")
    async with real_sites(bundle, tmp_path) as sites:
        async with pedsam.open_async(threads=1, wire="int8") as alone:
            expected = await alone.segment(FRAME, boxes=BOX)
        async with pedsam.open_async(edge.path, sites, threads=1) as session:
            with pytest.raises(pedsam.InputError, match="depends on the size of frames: segment one first"):
                session.exposure()
            found = await session.segment(FRAME, boxes=BOX)
            assert found.rle() == expected.rle()
            assert (found.sites, found.kept) == (frozenset("abc"), frozenset())
            exposure = session.exposure()
    ledger = json.loads((tmp_path / "sites.ledger.json").read_text())
    assert exposure.since == ledger["session"]
    assert {name: sorted(each.seen) for name, each in exposure.operators.items()} == ledger["exposure"]
    assert (
        exposure.windows
        == frozenset(range(15))
        == frozenset().union(*(each.seen for each in exposure.operators.values()))
    )
    for name, each in exposure.operators.items():
        assert (each.sites, each.cap, len(each.seen)) == ((name.removeprefix("operator-"),), 5, 5)
        assert 0.25 < each.seen_share == each.may_see_share <= each.at_most_share < 0.4


async def test_the_ledger_is_that_of_runs(bundle: Bundle, tmp_path: Path) -> None:
    async with real_sites(bundle, tmp_path) as sites:
        async with pedsam.open_async(sites=sites, threads=1) as session:
            await session.segment(FRAME, boxes=BOX)
            seen = {name: each.seen for name, each in session.exposure().operators.items()}
            with pytest.raises(pedsam.InputError, match=r"another run|in use"):
                await run(bundle, Film(1), options(tmp_path / "out", sites=sites))
        summary = await run(bundle, Film(1), options(tmp_path / "out", sites=sites))
    assert {each["operator"]: set(each["windows_seen"]) for each in summary["sites"].values()} == seen


async def test_a_session_without_a_loop(bundle: Bundle, tmp_path: Path) -> None:
    def work(sites: Path) -> tuple[Any, pedsam.Exposure]:
        with pedsam.open(sites=sites, sizes=[SIZE], threads=1) as session:
            session.exposure()  # known by the sizes
            frames = [frame.pixels for frame in Film(4)]
            tracked = list(session.track(frames, [{"box": BOX}], in_flight=2))
            return [frame.objects[0].rle() for frame in tracked], session.exposure()

    def alone() -> Any:
        with pedsam.open(threads=1, wire="int8") as session:
            return [f.objects[0].rle() for f in session.track((f.pixels for f in Film(4)), [{"box": BOX}])]

    async with real_sites(bundle, tmp_path) as sites:
        masks, exposure = await to_thread.run_sync(work, sites)
    assert masks == await to_thread.run_sync(alone)
    assert all(len(each.seen) == 5 for each in exposure.operators.values())


async def test_frames_of_a_size_that_caps_do_not_fit_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    twice = np.repeat(np.repeat(FRAME, 2, 0), 2, 1)  # as wide for its height
    async with noted(bundle, tmp_path) as (session, sites):
        await session.segment(FRAME, boxes=BOX)
        assert {window for site in sites for window in site.tiles} == set(range(15))
        await session.segment(twice, boxes=BOX)
        sent = [site.tiles.copy() for site in sites]
        assert sum(map(len, sent)) == 30
        for shape in ("square", "portrait"):
            with pytest.raises(pedsam.ArgumentError, match=r"settled for 640 x 360: open .* all sizes="):
                await session.segment(photo(shape), boxes=(10, 10, 90, 90))
        assert [site.tiles for site in sites] == sent


async def test_several_sizes_that_are_given_share_their_caps(bundle: Bundle, tmp_path: Path) -> None:
    async with noted(bundle, tmp_path, sizes=[SIZE, photo("square").shape[:2]]) as (session, sites):
        for frame in (photo("square"), FRAME):
            await session.segment(frame, boxes=(10, 10, 90, 90))
        exposure = session.exposure()
    assert {each.cap for each in exposure.operators.values()} == {13}  # of 25
    for site, each in zip(sites, exposure.operators.values(), strict=True):
        assert each.seen == set(site.tiles)
        assert len(each.seen) <= 13


async def test_what_is_kept_never_leaves(bundle: Bundle, tmp_path: Path) -> None:
    async with noted(bundle, tmp_path, keep_boxes=[KEPT_BOX]) as (session, sites):
        assert (await session.segment(FRAME, boxes=BOX)).kept == KEPT
        assert session.exposure().kept == KEPT
        async for frame in session.track((frame.pixels for frame in Film(2)), [{"box": BOX}]):
            assert frame.kept == KEPT
        await session.predictor().set_image(FRAME)
    assert {window for site in sites for window in site.tiles} == set(range(15)) - KEPT


async def test_of_single_pictures_keep_objects_keeps_everything(bundle: Bundle, tmp_path: Path) -> None:
    """What is on them is known only when they are computed; and a film before them says nothing of them."""
    async with noted(bundle, tmp_path, keep_objects=True) as (session, sites):
        tracker = session.track((frame.pixels for frame in Film(4)), [{"box": BOX}])
        first, second = await anext(tracker), await anext(tracker)
        assert first.kept == frozenset(range(15))
        assert second.kept < first.kept
        before = [len(site.tiles) for site in sites]
        assert sum(before) > 0
        assert (await session.segment(FRAME, boxes=BOX)).kept == frozenset(range(15))
        assert [len(site.tiles) for site in sites] == before
        with pytest.raises(pedsam.SessionClosed, match="what is kept is found frame by frame"):
            await anext(tracker)


async def test_nothing_leaves_of_a_frame_without_objects(bundle: Bundle, tmp_path: Path) -> None:
    async with noted(bundle, tmp_path) as (session, sites):
        tracker = session.track(frame.pixels for frame in Film(3))
        assert (await anext(tracker)).objects == ()
        assert [site.tiles for site in sites] == [[], []]
        await tracker.prompt(box=BOX)
        assert sum(len(site.tiles) for site in sites) == 15


async def test_sites_that_say_nothing_are_a_sentence_in_bounded_time(bundle: Bundle, tmp_path: Path) -> None:
    edge, started_s = edge_only(bundle, tmp_path / "edge"), time.monotonic()
    async with (
        impostors(bundle, tmp_path, always=stall) as (path, _),
        pedsam.open_async(edge.path, path, threads=1) as session,
    ):
        with pytest.raises(pedsam.InputError, match="no site can be used"):
            await session.segment(FRAME, boxes=BOX)
        assert time.monotonic() - started_s < 60


async def test_a_frame_whose_sites_hang_is_lost_and_the_session_goes_on(
    bundle: Bundle, tmp_path: Path
) -> None:
    edge = edge_only(bundle, tmp_path / "edge")
    async with noted(bundle, tmp_path, edge, sizes=[SIZE]) as (session, sites):
        for site in sites:
            site.script.extend([stall] * 40)
        started_s = time.monotonic()
        with pytest.raises(pedsam.FrameLost, match=r"the frame is lost: window .* does not answer"):
            await session.segment(FRAME, boxes=BOX)
        assert time.monotonic() - started_s < 45
        lost = await anext(session.track([FRAME], [{"box": BOX}]))
        assert lost.lost is not None
        assert "window" in lost.lost


async def test_closing_ends_what_is_under_way(bundle: Bundle, tmp_path: Path) -> None:
    edge = edge_only(bundle, tmp_path / "edge")
    ended: list[str] = []

    async def segment(session: pedsam.AsyncSession) -> None:
        with pytest.raises(pedsam.SessionClosed, match="the session is closed"):
            await session.segment(FRAME, boxes=BOX)
        ended.append("segment")

    async with (
        noted(bundle, tmp_path, edge, sizes=[SIZE]) as (session, sites),
        anyio.create_task_group() as tasks,
    ):
        for site in sites:
            site.script.extend([stall] * 40)
        tasks.start_soon(segment, session)
        await sites[0].seen.wait()
        with anyio.fail_after(10):
            await session.close()
    assert ended == ["segment"]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "one operator": ({"sites": "one.toml"}, "operator operator-a alone would see the whole picture"),
    "no file": ({"sites": "gone.toml"}, "gone.toml"),
    "plain http": ({"sites": "far.toml"}, "is reached over plain http"),
    "outside": ({"sizes": [SIZE], "keep_boxes": [(700, 9, 800, 99)]}, "lies outside the frame of 640 x 360"),
    "films": ({"keep_objects": True, "films": False}, "keep_objects needs objects that are followed"),
    "detector": ({"keep": "no_module:no"}, "--keep no_module:no cannot be imported"),
}


@pytest.mark.parametrize(("given", "words"), WRONG.values(), ids=WRONG)
async def test_what_is_wrong_is_told_before_a_site_is_asked(
    bundle: Bundle, tmp_path: Path, given: dict[str, Any], words: str
) -> None:
    sites_file(tmp_path / "one.toml", ("a", "http://127.0.0.1:1"))
    sites_file(tmp_path / "far.toml", ("a", "http://192.0.2.1:1"), ("b", "http://192.0.2.2:1"))
    async with impostors(bundle, tmp_path, always=stall) as (path, sites):
        chosen = {"sites": path, **given}
        if isinstance(chosen["sites"], str):
            chosen["sites"] = tmp_path / chosen["sites"]
        with pytest.raises(pedsam.InputError, match=words):
            async with pedsam.open_async(**chosen):
                pass
        assert not any(site.seen.is_set() for site in sites)


@pytest.mark.parametrize("opening", [pedsam.open, pedsam.open_async])
def test_weights_that_do_not_segment_are_refused(
    exported_fp32: Bundle, opening: Callable[..., object]
) -> None:
    with pytest.raises(pedsam.InputError, match="has untrained weights, whose masks are not meaningful"):
        opening(exported_fp32.path)
