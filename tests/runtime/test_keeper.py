"""What is found in a frame stays at the edge, with a margin, and for a while after."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import anyio
import numpy as np
import pytest
from aiohttp import web
from anyio import to_thread

from runtime.encoder import FrameLost, ImageEncoder
from runtime.frames.canvas import Canvas
from runtime.keeper import LEAST_MARGIN, MARGIN, REMEMBERED, Keeper, KeepOptions, keeping
from runtime.sites.ledger import ExposureLedger
from runtime.sites.reuse import Reuse
from stages.bundle import Bundle
from stages.errors import EngineError, InputError
from stages.geometry import GEOMETRIES, Geometry
from stages.tensors import Array
from tests.support import marks
from tests.support.edge import Behaviour, Impostor, canvas_of, hang_up, stall, status, window_stamp
from tests.support.scenes import LocalStamps, embeddings_of, honest, scene

pytestmark = pytest.mark.anyio

MINI = GEOMETRIES["mini"]
SIDE = MINI.tile_px
FOUND = KeepOptions(kinds=(marks.FIND,))


def blank(shape: str = "16:9", geometry: Geometry = MINI) -> Canvas:
    canvas = canvas_of(shape, geometry)
    return replace(canvas, pixels=np.where(np.arange(3) < 3, canvas.pixels // 2, 0).astype(np.uint8))


def painted(
    box: tuple[int, int, int, int], colour: tuple[int, ...] = marks.MARK, shape: str = "16:9"
) -> Canvas:
    """A canvas with a rectangle of this colour: left, top, right, bottom."""
    canvas = blank(shape)
    canvas.pixels[box[1] : box[3], box[0] : box[2]] = colour
    return canvas


@asynccontextmanager
async def keeper_of(options: KeepOptions = FOUND) -> AsyncIterator[tuple[Keeper, ExposureLedger]]:
    ledger = ExposureLedger.open(None, {}, {})
    async with keeping(options, ledger) as keeper:
        yield keeper, ledger


async def test_windows_stay_that_something_found_touches() -> None:
    async with keeper_of() as (keeper, _):
        inside = await keeper(painted((SIDE + 30, 30, SIDE + 40, 40)), 0)
        assert inside.windows == {1}
        assert inside.seconds > 0
    async with keeper_of() as (keeper, _):
        assert (await keeper(painted((SIDE - 5, SIDE - 5, SIDE + 5, SIDE + 5)), 0)).windows == {0, 1, 5, 6}
        assert keeper.found == {marks.FIND: 1}


@pytest.mark.parametrize("size", [8, 40])
async def test_there_is_a_margin(size: int) -> None:
    """A share of what was found, and of the window's side at least."""
    margin = int(max(MARGIN * size, LEAST_MARGIN * SIDE))
    near, far = (2 * SIDE - margin + 1, 2 * SIDE - margin - 1)
    for right, windows in ((near, {1, 2}), (far, {1})):
        async with keeper_of() as (keeper, _):
            canvas = painted((right - size, 5, right, 5 + size))
            assert {w for w in (await keeper(canvas, 0)).windows if w < 5} == windows, right


async def test_what_is_missed_for_a_while_stays_where_it_was() -> None:
    async with keeper_of() as (keeper, _):
        assert (await keeper(painted((30, 30, 40, 40)), 0)).windows == {0}
        for number in range(1, REMEMBERED + 1):
            assert (await keeper(blank(), number)).windows == {0}, number
        assert (await keeper(blank(), REMEMBERED + 1)).windows == set()


async def test_where_it_was_and_where_it_is_both_stay() -> None:
    async with keeper_of() as (keeper, _):
        await keeper(painted((30, 30, 40, 40)), 0)
        assert (await keeper(painted((SIDE + 30, 30, SIDE + 40, 40)), 1)).windows == {0, 1}


async def test_in_a_frame_of_another_shape_the_place_is_the_same_part_of_the_picture() -> None:
    async with keeper_of() as (keeper, _):
        wide = blank("16:9")
        bottom = wide.rows - 12
        assert (await keeper(painted((30, bottom, 40, bottom + 10)), 0)).windows == {10}
        assert (await keeper(blank("square"), 1)).windows == {20}


async def test_pictures_that_have_nothing_to_do_with_each_other_are_not_remembered() -> None:
    async with keeper_of(replace(FOUND, films=False)) as (keeper, _):
        await keeper(painted((30, 30, 40, 40)), 0)
        assert (await keeper(blank(), 1)).windows == set()


async def test_for_the_session_a_position_stays_for_good() -> None:
    async with keeper_of(replace(FOUND, for_session=True)) as (keeper, ledger):
        await keeper(painted((30, 30, 40, 40)), 0)
        for number in range(1, REMEMBERED + 3):
            await keeper(blank(), number)
        assert ledger.kept == {0}
    async with keeper_of() as (keeper, ledger):
        await keeper(painted((30, 30, 40, 40)), 0)
        assert ledger.kept == set()


async def test_objects_that_nobody_told_it_of_keep_everything() -> None:
    async with keeper_of(KeepOptions(objects=True)) as (keeper, _):
        assert (await keeper(blank(), 0)).windows == set(range(15))
        keeper.of_objects = lambda canvas, number: lambda: frozenset({number})
        assert (await keeper(blank(), 3)).windows == {3}


async def test_it_looks_on_a_thread_of_its_own_and_the_loop_goes_on() -> None:
    marks.threads.clear()
    async with keeper_of(KeepOptions(kinds=(marks.SLOW,))) as (keeper, _), anyio.create_task_group() as tasks:
        tasks.start_soon(keeper, blank(), 0)
        tasks.start_soon(keeper, blank(), 1)
        started_s = time.perf_counter()
        await anyio.sleep(0.01)
        assert time.perf_counter() - started_s < marks.SLOW_S
    assert len(marks.threads) == 1
    assert all(name.startswith("keeper") for name in marks.threads)


async def test_an_unknown_kind_is_known_before_the_first_frame() -> None:
    with pytest.raises(InputError, match="--keep no_module:find cannot be imported"):
        async with keeper_of(KeepOptions(kinds=("no_module:find",))):
            pytest.fail("it began")


async def test_nothing_leaves_before_the_frame_was_looked_at(mini_bundle: Bundle) -> None:
    sites = honest(mini_bundle, "abc")
    slow = KeepOptions(kinds=(marks.SLOW,))
    async with (
        scene(mini_bundle, sites, local=LocalStamps(mini_bundle), keep=slow) as it,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(embeddings_of, it.encoder, blank())
        await anyio.sleep(marks.SLOW_S / 2)
        assert it.sent("a", "b", "c") == set()
    assert it.sent("a", "b", "c") == set(range(15))


async def test_a_frame_whose_detector_fails_is_lost_and_nothing_of_it_is_sent(mini_bundle: Bundle) -> None:
    async with scene(
        mini_bundle, honest(mini_bundle, "abc"), local=LocalStamps(mini_bundle), keep=FOUND
    ) as it:
        with pytest.raises(FrameLost, match=r"failed \(ZeroDivisionError: a fault\).*nothing of it was sent"):
            await embeddings_of(it.encoder, painted((3, 3, 9, 9), marks.FAULT))
        with pytest.raises(FrameLost, match=r"failed \(SystemExit: 0\)"):
            await embeddings_of(it.encoder, painted((3, 3, 9, 9), marks.END))
        assert it.sent("a", "b", "c") == set()
        await it.frame()
        assert it.sent("a", "b", "c") == set(range(15))


@pytest.fixture
def hanging() -> Iterator[None]:
    """Looks of marks.HANG hang until the test releases them, or ends."""
    for event in (marks.released, marks.hanging):
        event.clear()
    marks.hung.clear()
    yield
    marks.released.set()


HANGS = KeepOptions(kinds=(marks.HANG,), look_s=0.3, hangs_s=30)


@pytest.mark.usefixtures("hanging")
async def test_frames_whose_detector_hangs_are_lost_until_it_is_back(mini_bundle: Bundle) -> None:
    local = LocalStamps(mini_bundle)
    async with scene(mini_bundle, honest(mini_bundle, "abc"), local=local, keep=HANGS) as it:
        for _ in range(2):
            with anyio.fail_after(20), pytest.raises(FrameLost) as lost:
                await embeddings_of(it.encoder, blank())
            since = f"--keep {marks.HANG} has looked at one frame for more than 0.3 s"
            assert str(lost.value) == f"{since}, so that nothing of this one was sent"
        assert it.sent("a", "b", "c") == set()
        marks.released.set()
        await embeddings_of(it.encoder, blank())
        assert it.sent("a", "b", "c") == set(range(15))
    assert len(marks.hung) == 2  # a frame that was lost before its turn is not looked at


async def lose_frames(encoder: ImageEncoder) -> None:
    """Until something else happens."""
    while True:
        with suppress(FrameLost):
            await embeddings_of(encoder, blank())


@pytest.mark.usefixtures("hanging")
async def test_a_detector_that_hangs_for_good_ends_the_run(mini_bundle: Bundle) -> None:
    options = replace(HANGS, hangs_s=1.0)
    async with scene(
        mini_bundle, honest(mini_bundle, "abc"), local=LocalStamps(mini_bundle), keep=options
    ) as it:
        with (
            anyio.fail_after(20),
            pytest.raises(EngineError, match=r"hangs: .* more than 1 s; .*the run ends"),
        ):
            await lose_frames(it.encoder)
        assert it.sent("a", "b", "c") == set()


@pytest.mark.usefixtures("hanging")
async def test_whoever_stops_does_not_wait_for_a_detector_that_hangs() -> None:
    async with keeper_of(replace(HANGS, look_s=100)) as (keeper, _), anyio.create_task_group() as tasks:
        tasks.start_soon(keeper, blank(), 0)
        assert await to_thread.run_sync(marks.hanging.wait, 20)
        stopped_s = time.monotonic()
        tasks.cancel_scope.cancel()
    assert time.monotonic() - stopped_s < 10
    assert not marks.released.is_set()


async def test_frames_that_wait_for_a_slow_detector_have_their_time_each() -> None:
    """Of three at once the last one waits three times as long as a look takes."""
    looked: list[int] = []
    slow = KeepOptions(kinds=(marks.SLOW,), look_s=2 * marks.SLOW_S)
    async with keeper_of(slow) as (keeper, _):

        async def look(number: int) -> None:
            await keeper(blank(), number)
            looked.append(number)

        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(look, number)
    assert looked == [0, 1, 2]


class Marked(Impostor):
    """Notes whether it was ever sent a tile with a pixel of the colour."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.marked = 0

    async def read(self, request: web.Request) -> tuple[dict[str, Array], list[str]]:
        inputs, outputs = await super().read(request)
        self.marked += int((inputs["tile"].reshape(-1, 3) == marks.MARK).all(axis=1).any())
        return inputs, outputs


async def late(site: Impostor, request: web.Request) -> web.StreamResponse:
    await anyio.sleep(0.1)
    return await site.answer(request)


def random_canvas(rng: random.Random) -> Canvas:
    """Noise, mostly with something marked somewhere in it, in frames of several shapes."""
    canvas = blank(rng.choice(["16:9", "16:9", "4:3", "square"]))
    for window in rng.sample(range(25), 6):  # others may be used again
        row, col = divmod(window, 5)
        canvas.pixels[row * SIDE : min((row + 1) * SIDE, canvas.rows),
                      col * SIDE : min((col + 1) * SIDE, canvas.cols)] = rng.randrange(200)  # fmt: skip
    if rng.random() < 0.8:
        left, top = rng.randrange(canvas.cols - 2), rng.randrange(canvas.rows - 2)
        right, bottom = left + rng.randint(1, 90), top + rng.randint(1, 60)
        canvas.pixels[top : min(bottom, canvas.rows), left : min(right, canvas.cols)] = marks.MARK
    return canvas


@pytest.mark.parametrize("seed", range(3))
async def test_no_site_is_ever_sent_what_was_found(mini_bundle: Bundle, seed: int) -> None:
    """Wherever it is in each frame, and however sites fail, come late and come back: by no retry, hedge or
    trial, though their operators have seen the position in other frames."""
    rng, local = random.Random(seed), LocalStamps(mini_bundle)
    sites = {name: Marked(mini_bundle) for name in "abxy"}
    behaviours: list[Behaviour] = [status(500), stall, hang_up, late, late]
    async with scene(
        mini_bundle, dict(sites), cap=25, local=local, same_operator="xy", hasty="abxy", hedge_factor=0.01,
        reuse=Reuse(), keep=FOUND,
    ) as it:  # fmt: skip

        async def frame(canvas: Canvas) -> None:
            embeddings = await embeddings_of(it.encoder, canvas)
            for window in canvas.windows:
                assert np.array_equal(embeddings[window], window_stamp(mini_bundle, window))

        with anyio.fail_after(100):
            for _ in range(10):
                for site in sites.values():
                    site.script.extend(rng.choices(behaviours, k=rng.randrange(4)))
                async with anyio.create_task_group() as tasks:
                    for _ in range(3):
                        tasks.start_soon(frame, random_canvas(rng))
        counts = it.encoder.statistics
        assert counts.kept_windows > 20
        assert counts.windows_sent > 50
        assert counts.hedged + counts.redispatched > 0
    assert [site.marked for site in sites.values()] == [0] * 4
