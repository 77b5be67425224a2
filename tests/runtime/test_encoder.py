"""From a canvas to its image embedding: what is collected, lost or broken off, and in which order."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import numpy as np
import pytest

from benchmarks.fixed_latency import FixedEngine
from runtime.encoder import FrameLost, ImageEncoder, SendingPaused, local_encoder
from runtime.frames.canvas import make_canvas
from runtime.objects.decode import decode
from runtime.objects.prompts import Prompt
from runtime.sites.client import SiteClient
from runtime.sites.health import Health
from runtime.sites.ledger import ExposureLedger, Grant
from runtime.sites.reuse import Reuse
from runtime.sites.windows import open_sites
from server.serve import ServeOptions, running_site
from stages.bundle import Bundle
from stages.engines.thread import EngineThread
from stages.tensors import Array
from tests.support.disks import put_away
from tests.support.edge import (
    canvas_of,
    config,
    edge_engines,
    ledger_for,
    stall,
    status,
)
from tests.support.fakes import Gate, until
from tests.support.scenes import NO_ENGINES, LocalStamps, Scene, embeddings_of, honest, scene

pytestmark = pytest.mark.anyio


async def test_padding_never_leaves(mini_bundle: Bundle) -> None:
    """Counted at real sites: the tiles their engines ran are the 15 with picture and each site's probes."""
    canvas = canvas_of("16:9", mini_bundle.geometry)
    async with AsyncExitStack() as stack:
        site = ServeOptions(port=0, threads=1)
        running = [await stack.enter_async_context(running_site(mini_bundle, site)) for _ in range(3)]
        configs = [config(name, each.url) for name, each in zip("abc", running, strict=True)]
        clients = [SiteClient(each, mini_bundle, "fp16") for each in configs]
        ledger = ledger_for(configs, 5)
        async with open_sites(
            mini_bundle, clients, ledger, canvas.windows, print, window_engine=False
        ) as windows:
            encoder = ImageEncoder(mini_bundle, NO_ENGINES, windows, None)
            probes = sum(each.batcher.statistics.tiles for each in running)
            through_sites = await embeddings_of(encoder, canvas)
            assert sum(each.batcher.statistics.tiles for each in running) - probes == 15
            assert sorted(chain(*(client.sent for client in clients))) == list(canvas.windows)
    async with (
        edge_engines(mini_bundle, ["window"]) as engines,
        local_encoder(mini_bundle, engines, "fp16") as alone,
    ):
        assert np.array_equal(through_sites, await embeddings_of(alone, canvas))


async def test_while_paused_nothing_is_sent(mini_bundle: Bundle) -> None:
    sites = honest(mini_bundle, "abc")
    async with scene(mini_bundle, sites) as it:
        it.encoder.pause(True)
        with pytest.raises(SendingPaused):
            await it.frame()
        assert it.sent("a", "b", "c") == set()
        assert it.encoder.statistics.windows_sent == 0
        it.encoder.pause(False)
        await it.frame()
        assert it.sent("a", "b", "c") == set(range(15))


async def test_a_frame_without_any_way_out_is_lost_and_the_next_ones_go_on(mini_bundle: Bundle) -> None:
    sites = honest(mini_bundle, "abc")
    async with scene(mini_bundle, sites) as it:
        await it.frame()
        sites["b"].always = status(500)
        with pytest.raises(FrameLost, match=r"window \d+: operator operator-b does not answer.*spare"):
            await it.frame()
        assert all(client.in_flight == 0 for client in it.clients)
        sites["b"].always = None
        await until(lambda: it.site("b").on_trial or it.site("b").ready)
        await it.frame()
        assert it.notes.lines[-1] == "site b: is back and has its windows again"
        assert it.sent("b") == it.own("b")
        assert it.site("b").health is Health.READY


async def test_windows_that_cannot_be_entered_in_the_ledger_run_at_the_edge(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    folder, local = tmp_path / "state", LocalStamps(mini_bundle)
    folder.mkdir()
    sites = honest(mini_bundle, "abc")
    async with scene(mini_bundle, sites, 15, local, [60], ledger=folder / "ledger") as it:
        put_back = put_away(folder)
        await it.frame()
        assert it.sent("a", "b", "c") == set()
        assert sorted(local.windows) == list(range(15))
        put_back()
        with anyio.fail_after(60):
            while it.sent("a", "b", "c") < set(range(15)):
                await it.frame()
        put_away(folder)
        local.windows.clear()
        sites["b"].always = status(500)
        await it.frame()
        await it.frame()
        assert sorted(local.windows) == sorted([*it.own("b")] * 2)
        assert it.sent("a") == it.own("a") == it.ledger.exposure("operator-a")


async def test_a_frame_that_the_ledger_stops_is_lost_for_that_reason_and_shown_to_nobody(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    sites = honest(mini_bundle, "abc")
    reason = (
        r"window \d+: the exposure ledger .*state/ledger cannot be written \(File exists\), "
        "and this bundle has no window stage to run here; make it writable or copy the window stage to"
    )
    async with scene(mini_bundle, sites, 15, reconnect_s=[60], ledger=folder / "ledger") as it:
        await it.frame()
        put_back = put_away(folder)
        await it.frame()  # nothing new is shown
        sites["b"].always = status(500)
        with pytest.raises(FrameLost, match=reason):
            await it.frame()
        before = [len(site.tiles) for site in sites.values()]
        with pytest.raises(FrameLost, match=reason):
            await it.frame()
        assert [len(site.tiles) for site in sites.values()] == before
        put_back()
        with anyio.fail_after(60):
            while it.sent("a", "c") < set(range(15)):
                with suppress(FrameLost):
                    await it.frame()
        await it.frame()


async def test_cancelling_a_frame_leaves_nothing_behind(mini_bundle: Bundle) -> None:
    sites = honest(mini_bundle, "abc")
    async with scene(mini_bundle, sites) as it:
        sites["b"].script.extend([stall] * 5)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(it.frame)
            await sites["b"].seen.wait()
            tasks.cancel_scope.cancel()
        assert all(client.in_flight == 0 for client in it.clients)
        assert all(it.site(name).health is Health.READY for name in "abc")
        sites["b"].script.clear()
        await it.frame()


async def test_frames_that_come_at_once_share_what_is_the_same(mini_bundle: Bundle) -> None:
    """Also while the first of them still waits for its grants."""
    sites = honest(mini_bundle, "abc")
    async with scene(mini_bundle, sites, reuse=Reuse()) as it:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(it.frame)
        assert sorted(window for site in sites.values() for window in site.tiles) == list(range(15))
        assert it.encoder.statistics.windows_reused == 30


async def test_an_encoding_is_finished_after_it_was_collected(mini_bundle: Bundle) -> None:
    async with local_encoder(mini_bundle, NO_ENGINES, "fp16") as encoder:
        with pytest.raises(RuntimeError, match="before its windows were collected"):
            await encoder.start(canvas_of("16:9", mini_bundle.geometry)).finish()


class NotedLedger(ExposureLedger):
    """Notes for which windows it is to write, never on the event loop, and holds the writer up at `gate`."""

    gate: Gate | None = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.writes: list[list[int]] = []
        self.loop_thread: int | None = None

    def grant_all(self, pairs: Iterable[tuple[str, int]]) -> list[Grant | None]:
        asked = list(pairs)
        self.writes.append(sorted(window for _, window in asked))
        assert threading.get_ident() != self.loop_thread
        if self.gate is not None:
            self.gate.pass_through()
        return super().grant_all(asked)


@asynccontextmanager
async def noted_scene(
    bundle: Bundle, names: str, path: Path, **more: Any
) -> AsyncIterator[tuple[Scene, NotedLedger]]:
    sites = honest(bundle, names)
    async with scene(bundle, sites, ledger=path, ledger_kind=NotedLedger, **more) as it:
        assert isinstance(it.ledger, NotedLedger)
        it.ledger.loop_thread = threading.get_ident()
        yield it, it.ledger


async def test_the_exposures_of_a_frame_are_written_together_and_nothing_leaves_before(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    async with noted_scene(mini_bundle, "abc", tmp_path / "ledger") as (it, ledger):
        ledger.gate = Gate()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(it.frame)
            await ledger.gate.entered.wait()
            sent = it.encoder.traffic.up
            await anyio.wait_all_tasks_blocked()
            assert it.encoder.traffic.up == sent  # those of the probes
            assert it.sent("a", "b", "c") == set()
            ledger.gate.open()
        assert it.sent("a", "b", "c") == set(range(15))
        await it.frame()
        assert ledger.writes == [list(range(15))]


async def test_windows_that_go_elsewhere_are_granted_off_the_event_loop_too(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    async with noted_scene(mini_bundle, "abcs", tmp_path / "ledger", cap=5, spares="s", reconnect_s=[60]) as (
        it,
        ledger,
    ):
        await it.frame()
        it.impostors["b"].always = status(500)
        await it.frame()
        assert it.sent("s") == it.own("b")
        first, *others = ledger.writes
        assert first == list(range(15))
        assert sorted(others) == [[window] for window in sorted(it.own("b"))]
        await it.frame()
        assert len(ledger.writes) == 6


async def test_a_frame_that_is_known_to_be_lost_shows_nothing_to_anyone(mini_bundle: Bundle) -> None:
    sites = honest(mini_bundle, "abc")
    sites["b"].always = status(500)
    async with scene(mini_bundle, sites, reconnect_s=[60]) as it:
        with pytest.raises(FrameLost, match="operator-b does not answer"):
            await it.frame()
        assert it.sent("a", "b", "c") == set()
        assert not any(it.ledger.exposed().values())


class NotedEngine(FixedEngine):
    """Takes no time; notes its stage and, of a window, the value of its pixels. `hold` is called before."""

    def __init__(self, bundle: Bundle, stage: str, ran: list[str], hold: Callable[[], None]) -> None:
        super().__init__(bundle, stage, 0.0)
        self._ran = ran
        self._hold = hold

    def _infer(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        frame = f" {feeds['tile'].flat[0]}" if "tile" in feeds else ""
        self._ran.append(self.stage.name + frame)
        self._hold()
        return super()._infer(feeds, outputs)


async def test_on_the_engines_an_older_frame_goes_before_a_newer_one(mini_bundle: Bundle) -> None:
    """The windows of frame 7 came first. Held are its first one, and what is next after those of frame 6."""
    gates = {1: Gate(), 17: Gate()}
    ran: list[str] = []

    def hold() -> None:
        if gate := gates.get(len(ran)):
            gate.pass_through()

    names = ("window", "global", "decoder")
    engines_of = {name: partial(NotedEngine, mini_bundle, name, ran, hold) for name in names}
    old, new = (
        make_canvas(np.full((360, 640, 3), number, np.uint8), mini_bundle.geometry) for number in (6, 7)
    )
    image_embedding = np.zeros((1, 256, 24, 24), np.float32)
    async with (
        EngineThread(engines_of) as engines,
        local_encoder(mini_bundle, engines, "fp16") as encoder,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(encoder.encode, new, 7)
        await gates[1].entered.wait()
        await until(lambda: engines.waiting == 14)
        tasks.start_soon(encoder.encode, old, 6)
        await until(lambda: engines.waiting == 29)
        gates[1].open()
        await gates[17].entered.wait()
        await until(lambda: engines.waiting == 14)
        tasks.start_soon(decode, engines, image_embedding, old, [Prompt("a", (1, 1, 9, 9))], {}, 6)
        await until(lambda: engines.waiting == 15)
        gates[17].open()
    assert ran[:16] == ["window 7", *["window 6"] * 15]
    idle = ran[16] == "window 7"  # it began before the global stage of frame 6 was asked for
    assert ran[16 + idle :] == ["global", "decoder", *["window 7"] * (14 - idle), "global"]


@pytest.mark.parametrize("turns", range(4))
async def test_a_pause_while_a_lost_window_is_begun_again_holds_up_no_later_frame(
    mini_bundle: Bundle, turns: int
) -> None:
    """Whatever turn of the event loop it falls into."""
    reuse = Reuse(0.0)
    async with scene(mini_bundle, honest(mini_bundle, "abc"), reuse=reuse) as it:
        canvas = canvas_of("16:9", mini_bundle.geometry)
        window = canvas.windows[3]
        earlier = reuse.start(window, canvas.tile(window), canvas.extents[window])

        async def frame() -> None:
            with suppress(SendingPaused):
                await it.frame()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(frame)
            await anyio.wait_all_tasks_blocked()
            earlier.done.set()  # and has no answer: it was lost
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            it.encoder.pause(True)
        it.encoder.pause(False)
        with anyio.fail_after(20):
            await it.frame()
