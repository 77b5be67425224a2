"""Kept windows: whatever sites and frames do, no site is sent one, and the edge computes each."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import anyio
import numpy as np
import pytest
from aiohttp import web

from runtime.encoder import FrameLost, SendingPaused
from runtime.frames.canvas import Canvas
from runtime.frames.kept import KeptBoxes
from runtime.keeper import KeepOptions
from runtime.sites.ledger import ExposureLedger
from runtime.sites.reuse import Reuse
from stages.bundle import Bundle
from stages.tensors import Array
from tests.support.edge import Behaviour, Impostor, canvas_of, hang_up, sendable, stall, status, window_stamp
from tests.support.scenes import LocalStamps, Scene, embeddings_of, honest, scene

pytestmark = pytest.mark.anyio

BOXES = KeptBoxes(((150.0, 120.0, 280.0, 200.0),))
KEEP = KeepOptions(boxes=BOXES)


def kept_of(bundle: Bundle) -> frozenset[int]:
    """Those of the scene's frames."""
    kept = BOXES.of(canvas_of("16:9", bundle.geometry))
    assert len(kept) == 4
    return kept


async def test_kept_windows_are_computed_here_on_every_frame_and_the_others_at_sites(
    mini_bundle: Bundle,
) -> None:
    local, kept = LocalStamps(mini_bundle), kept_of(mini_bundle)
    async with scene(mini_bundle, honest(mini_bundle, "abc"), local=local, keep=KEEP) as it:
        for _ in range(3):
            await it.frame()
        assert sorted(local.windows) == sorted(3 * list(kept))
        assert it.sent("a", "b", "c") == set(range(15)) - kept
        assert set(it.windows.placement.home) == set(range(15)) - kept
        counts = it.encoder.statistics
        assert (counts.kept_windows, counts.local_windows) == (3 * len(kept), 0)
        assert counts.windows_sent == 3 * (15 - len(kept))


async def test_all_windows_may_be_kept(mini_bundle: Bundle) -> None:
    local = LocalStamps(mini_bundle)
    everything = KeepOptions(boxes=KeptBoxes(((0.0, 0.0, 1e5, 1e5),)))
    async with scene(mini_bundle, honest(mini_bundle, "ab"), cap=0, local=local, keep=everything) as it:
        await it.frame()
        assert sorted(local.windows) == list(range(15))
        assert it.sent("a", "b") == set()


async def test_the_edge_computes_a_kept_window_that_has_not_changed_once(mini_bundle: Bundle) -> None:
    local = LocalStamps(mini_bundle)
    async with scene(mini_bundle, honest(mini_bundle, "abc"), local=local, keep=KEEP, reuse=Reuse()) as it:
        await it.frame()
        await it.frame()
        assert sorted(local.windows) == sorted(kept_of(mini_bundle))
        assert it.encoder.statistics.windows_reused == 15


async def test_windows_kept_in_one_frame_alone(mini_bundle: Bundle) -> None:
    """They go to sites in the frames before and after it."""
    local, canvas = LocalStamps(mini_bundle), canvas_of("16:9", mini_bundle.geometry)
    sites = honest(mini_bundle, "abc")
    async with scene(mini_bundle, sites, local=local) as it:
        for kept in (frozenset[int](), frozenset({3, 7}), frozenset[int]()):
            for site in sites.values():
                site.tiles.clear()
            await embeddings_of(it.encoder, canvas, kept)
            assert sorted(it.sent("a", "b", "c")) == sorted(set(range(15)) - kept)
        assert sorted(local.windows) == [3, 7]
        assert it.ledger.kept == set()


def test_a_kept_window_is_granted_to_nobody() -> None:
    """Not even to an operator that has seen it before."""
    ledger = ExposureLedger.open(None, {"a": "alpha", "b": "beta"}, {"alpha": 9, "beta": 9})
    assert ledger.grant("a", 3)
    ledger.keep([3, 4])
    assert ledger.kept == {3, 4}
    assert ledger.grant_all([("a", 3), ("b", 3), ("a", 4), ("b", 4)]) == [None] * 4
    assert ledger.grant_again("a", 3) is None
    assert ledger.exposed() == {"alpha": {3}, "beta": frozenset()}
    assert ledger.grant("b", 5)


async def test_who_tries_to_send_a_kept_window_gets_no_way_to_a_site(mini_bundle: Bundle) -> None:
    """Though a site that is ready, and its operator, have had it before: by the usual way, as a hedge and as
    a trial."""
    sites = honest(mini_bundle, "ab")
    async with scene(mini_bundle, sites, 15, LocalStamps(mini_bundle), same_operator="ab") as it:
        await it.frame()
        window = next(iter(it.sent("a", "b")))
        assert it.windows.router.second(window, ()) is not None
        it.ledger.keep([window])
        for site in sites.values():
            site.tiles.clear()
        canvas = canvas_of("16:9", mini_bundle.geometry)
        assert await it.windows.embed(*sendable(canvas.window_inputs([window], mini_bundle))) is None
        assert it.windows.router.second(window, ()) is None
        await it.windows.router.grant_together([window])
        assert it.sent("a", "b") == set()


async def test_a_frame_with_kept_windows_does_not_start_where_they_cannot_be_computed(
    mini_bundle: Bundle,
) -> None:
    async with scene(mini_bundle, honest(mini_bundle, "ab"), 15, keep=KEEP) as it:
        with pytest.raises(RuntimeError, match="no window engine"):
            await it.frame()
        assert it.sent("a", "b") == set()


async def test_losing_a_frame_instead_of_computing_what_no_site_may_have(mini_bundle: Bundle) -> None:
    """Kept windows run here all the same."""
    sites, local = honest(mini_bundle, "abc"), LocalStamps(mini_bundle)
    async with scene(mini_bundle, sites, local=local, keep=KEEP, lose=True, reconnect_s=[60], cap=4) as it:
        await it.frame()
        kept = kept_of(mini_bundle)
        assert sorted(local.windows) == sorted(kept)
        sites["b"].always = status(500)
        with pytest.raises(FrameLost, match=r"--when-sites-fail is lose; .* or give --when-sites-fail local"):
            await it.frame()
        assert set(local.windows) == kept
        assert it.encoder.statistics.local_windows == 0


MARK = 201  # the grey level of every pixel of a kept window; no other window is all of one so light


class Watching(Impostor):
    """Notes the tiles it is sent: their positions and bytes."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.received: set[tuple[int, bytes]] = set()

    async def read(self, request: web.Request) -> tuple[dict[str, Array], list[str]]:
        inputs, outputs = await super().read(request)
        self.received |= tiles_of(inputs)
        return inputs, outputs


def tiles_of(inputs: Mapping[str, Array]) -> set[tuple[int, bytes]]:
    """Position and bytes, coded or not, of each tile in inputs of the window stage."""
    rows = zip(inputs["index"][:, 0].tolist(), inputs["tile"], strict=True)
    return {(window, tile.tobytes()) for window, tile in rows}


async def late(site: Impostor, request: web.Request) -> web.StreamResponse:
    await anyio.sleep(0.1)
    return await site.answer(request)


def random_frame(bundle: Bundle, rng: random.Random) -> tuple[Canvas, frozenset[int]]:
    """In one of several shapes, and what it alone keeps; each one differs. All that is kept is MARK."""
    canvas = canvas_of(rng.choice([*["16:9"] * 4, "4:3", "square"]), bundle.geometry)
    alone = frozenset(rng.sample(canvas.windows, rng.choice([0, 0, 1, 3])))
    kept, side = BOXES.of(canvas) | alone, bundle.geometry.tile_px
    pixels = np.where(canvas.pixels == MARK, MARK + 1, canvas.pixels)
    for window in range(bundle.geometry.windows):
        row, col = divmod(window, bundle.geometry.grid)
        bottom, right = min((row + 1) * side, canvas.rows), min((col + 1) * side, canvas.cols)
        if window in kept or rng.random() < 0.5:
            pixels[row * side : bottom, col * side : right] = MARK if window in kept else rng.randrange(MARK)
    return replace(canvas, pixels=pixels), alone


async def play(it: Scene, rng: random.Random) -> set[tuple[int, bytes]]:
    """Frames, several at once, while sites fail and come back and a viewer pauses and goes on; the tiles that
    must not have left."""
    kept: set[tuple[int, bytes]] = set()
    behaviours: list[Behaviour] = [status(500), stall, hang_up, late, late]

    async def frame() -> None:
        canvas, alone = random_frame(it.bundle, rng)
        kept.update(tiles_of(canvas.window_inputs(sorted(BOXES.of(canvas) | alone), it.bundle)))
        try:
            embeddings = await embeddings_of(it.encoder, canvas, alone)
        except (FrameLost, SendingPaused):
            return
        for window in canvas.windows:
            assert np.array_equal(embeddings[window], window_stamp(it.bundle, window))

    for _ in range(12):
        for site in it.impostors.values():
            site.script.extend(rng.choices(behaviours, k=rng.randrange(4)))
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(frame)
            if rng.random() < 0.3:
                await anyio.sleep(0.02)
                it.encoder.pause(True)
        it.encoder.pause(False)
    return kept


@pytest.mark.parametrize("lose", [False, True])
@pytest.mark.parametrize("seed", range(3))
async def test_no_site_is_ever_sent_a_kept_window(mini_bundle: Bundle, seed: int, lose: bool) -> None:
    """Whatever shape frames have, and however sites fail, come late and come back."""
    sites = {name: Watching(mini_bundle) for name in "abxy"}
    local = LocalStamps(mini_bundle)
    async with scene(
        mini_bundle,
        dict(sites),
        cap=25,
        local=local,
        same_operator="xy",
        hasty="abxy",
        hedge_factor=0.01,
        reuse=Reuse(),
        keep=KEEP,
        lose=lose,
    ) as it:
        with anyio.fail_after(100):
            kept = await play(it, random.Random(seed))
        received = set[tuple[int, bytes]]().union(*(site.received for site in sites.values()))
        assert received.isdisjoint(kept)
        assert len(received) > 10  # with those of the probe
        counts = it.encoder.statistics
        assert counts.kept_windows + counts.local_windows == len(local.windows)
        assert counts.kept_windows > 0
        assert counts.hedged + counts.redispatched > 0
