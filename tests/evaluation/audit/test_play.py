"""Sites played in this process: what is recorded is what leaves, never more than the caps allow."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.audit.play import PlayedBundle, Session, made_up_sites, open_session
from evaluation.audit.views import pooled, views, whole_view
from runtime.frames.canvas import Canvas, make_canvas
from runtime.frames.kept import KeptBoxes
from runtime.keeper import KeepOptions
from runtime.sites.config import SiteConfig
from stages.geometry import GEOMETRIES
from stages.tile_code import RGB, TileCode
from tests.support.pictures import photo

MINI = GEOMETRIES["mini"]
CODED = TileCode.parse("dct:6/3")
SHAPE = (360, 640)
pytestmark = pytest.mark.anyio


def canvas(turn: int = 0) -> Canvas:
    return make_canvas(np.ascontiguousarray(np.roll(photo("16:9"), turn, axis=1)), MINI)


async def test_every_tile_leaves_once_as_it_is_coded() -> None:
    sent = canvas()
    async with open_session(PlayedBundle.of(MINI, CODED), made_up_sites(3), SHAPE) as session:
        received = await session.show(sent)
    held = [window for tiles in received.values() for window in tiles]
    assert sorted(held) == list(sent.windows)
    assert [len(tiles) for tiles in received.values()] == [5, 5, 5]
    windows = list(sent.windows)
    coded = CODED.encode(sent.pixels, sent.extents[windows], windows, MINI)
    together = pooled(received, received)
    np.testing.assert_array_equal(np.stack([together[window] for window in windows]), coded)


async def test_an_operator_gets_the_same_positions_of_every_frame() -> None:
    async with open_session(PlayedBundle.of(MINI), made_up_sites(3), SHAPE) as session:
        first, second = [await session.show(canvas(turn)) for turn in (0, 7)]
    assert {name: set(tiles) for name, tiles in first.items()} == {
        name: set(tiles) for name, tiles in second.items()
    }
    assert any(
        (first[name][window] != second[name][window]).any() for name in first for window in first[name]
    )


async def test_what_has_not_changed_is_not_sent_again_and_still_held() -> None:
    changed = photo("16:9").copy()
    changed[:40, :40] = 0  # window 0 alone
    async with open_session(PlayedBundle.of(MINI, CODED), made_up_sites(3), SHAPE) as session:
        first = await session.show(canvas())
        assert session.statistics.windows_sent == 15
        again = await session.show(make_canvas(changed, MINI))
        assert session.statistics.windows_sent == 16
    for name, tiles in first.items():
        assert set(tiles) == set(again[name])
        for window, tile in tiles.items():
            assert (tile != again[name][window]).any() == (window == 0)


async def frames_with_failures(session: Session, frames: int) -> list[set[int]]:
    """The windows that anybody got of each frame, while requests fail."""
    shown = [await session.show(canvas(turn)) for turn in range(frames)]
    return [set(pooled(received, received)) for received in shown]


async def test_failures_are_recorded_and_no_cap_is_passed() -> None:
    """Spares take over; what a site failed to answer counts as seen by it and by the one after it."""
    sites = (
        *(SiteConfig(name, name, f"played://{name}", cap=6) for name in "abc"),
        SiteConfig("d", "d", "played://d", cap=4, spare=True),
    )
    async with open_session(PlayedBundle.of(MINI), sites, SHAPE, failures=0.2, seed=4) as session:
        got = await frames_with_failures(session, 10)
        assert session.fates.failed > 2
        assert session.fates.late > 2
        assert session.statistics.redispatched > 0
        assert session.record.positions["d"]
        for name, cap in {"a": 6, "b": 6, "c": 6, "d": 4}.items():
            assert len(session.record.positions[name]) <= cap
        tiles = sum(map(len, session.record.positions.values()))
    assert tiles > 15  # some windows have been seen by two
    assert all(windows <= set(canvas().windows) for windows in got)


async def test_a_late_answer_has_a_second_operator_asked() -> None:
    """Both sites of one operator: a hedge goes to the other one, and is in the record."""
    sites = tuple(SiteConfig(name, "both", f"played://{name}") for name in "ab")
    async with open_session(PlayedBundle.of(MINI), sites, SHAPE, failures=0.03, seed=2) as session:
        await frames_with_failures(session, 8)
        assert session.statistics.hedged > 0
        assert session.record.requests > session.statistics.windows_sent


async def test_the_seed_decides() -> None:
    async def failed(seed: int) -> tuple[int, int]:
        async with open_session(
            PlayedBundle.of(MINI), made_up_sites(3), SHAPE, failures=0.1, seed=seed
        ) as session:
            await session.show(canvas())
            return session.fates.failed, session.fates.late

    assert await failed(3) == await failed(3)
    assert len({await failed(seed) for seed in range(3)}) > 1


async def test_kept_windows_do_not_leave() -> None:
    boxes = KeptBoxes(((0, 0, 100, 100),))
    kept = boxes.windows(MINI, *SHAPE)
    keep = KeepOptions(boxes=boxes)
    async with open_session(PlayedBundle.of(MINI), made_up_sites(3), SHAPE, keep=keep) as session:
        received = await session.show(canvas())
        assert session.statistics.kept_windows == len(kept) > 0
    assert set(pooled(received, received)) == set(canvas().windows) - kept


async def test_views_hold_what_was_sent_and_nothing_else() -> None:
    shown = canvas()
    async with open_session(PlayedBundle.of(MINI), made_up_sites(3), SHAPE) as session:
        received = await session.show(shown)
    picture = shown.pixels[: shown.rows, : shown.cols]
    alone = [view for _, view in views(MINI, RGB, shown, received, 1)]
    pairs = [view for _, view in views(MINI, RGB, shown, received, 2)]
    for view in (*alone, *pairs):
        np.testing.assert_array_equal(view.pixels[view.known], picture[view.known])
        assert not view.pixels[~view.known].any()
    assert sum(view.share for view in alone) == pytest.approx(1)
    assert sum(view.share for view in pairs) == pytest.approx(2)
    np.testing.assert_array_equal(whole_view(RGB, shown).pixels, picture)
    assert whole_view(CODED, shown).known.all()
