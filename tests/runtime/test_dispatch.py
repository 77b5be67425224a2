"""Windows through several sites: who gets which, and what happens when sites fail and come back."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import anyio
import numpy as np
import pytest
from aiohttp import web

from runtime.client import SiteClient
from runtime.dispatch import Dispatcher, FrameLost, LocalWindows, SendingPaused, SiteState
from runtime.ledger import ExposureLedger
from runtime.sites import SiteConfig
from server.serve import ServeOptions, running_site
from stages.bundle import Bundle
from stages.errors import InputError
from stages.tensors import Array
from tests.edge import (
    PATIENT,
    QUICK,
    SOON,
    Behaviour,
    Impostor,
    answers_with,
    body,
    canvas_of,
    config,
    edge_engines,
    ledger_for,
    stall,
    status,
    window_stamp,
)
from tests.failing_sites import LOOK

pytestmark = pytest.mark.anyio


class NotedWindows(LocalWindows):
    """The edge's window engine, without an engine: stamps windows as an Impostor does, and notes them."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.windows: list[int] = []

    async def embed(self, canvas: object, window: int) -> Array:
        self.windows.append(window)
        return window_stamp(self.bundle, window)


@dataclass
class Notes:
    """What a dispatcher says, and a way to wait for it."""

    lines: list[str] = field(default_factory=list)
    news: anyio.Event = field(default_factory=anyio.Event)

    def say(self, text: str) -> None:
        self.lines.append(text)
        self.news.set()
        self.news = anyio.Event()

    async def wait_for(self, words: str) -> None:
        with anyio.fail_after(20):
            while not any(words in line for line in self.lines):
                await self.news.wait()


@dataclass
class Scene:
    """Impostors by name behind one dispatcher, over the 15 windows of a 16:9 frame."""

    bundle: Bundle
    sites: dict[str, Impostor]
    dispatcher: Dispatcher
    ledger: ExposureLedger
    notes: Notes

    async def frame(self) -> None:
        """Embed a frame and hold every window against what it must be."""
        canvas = canvas_of("16:9", self.bundle.geometry)
        embeddings = await self.dispatcher.embed(canvas)
        for window, embedding in enumerate(embeddings):
            if window in canvas.windows:
                assert np.array_equal(embedding, window_stamp(self.bundle, window)), window
            else:
                assert np.array_equal(embedding, self.bundle.padding_embeddings()[window])

    def sent(self, *names: str) -> set[int]:
        return {window for name in names for window in self.sites[name].tiles}

    def own(self, name: str) -> set[int]:
        """Windows whose home is the operator of this name."""
        return {w for w, operator in self.dispatcher.home.items() if operator == f"operator-{name}"}

    def state(self, name: str) -> SiteState:
        return {client.name: state for client, state in self.dispatcher.sites}[name]


@asynccontextmanager
async def scene(
    bundle: Bundle,
    sites: dict[str, Impostor],
    cap: int = 5,
    local: LocalWindows | None = None,
    reconnect_s: Sequence[float] = SOON,
    spares: str = "",
    same_operator: str = "",
    hasty: str = "",
    ledger: Path | None = None,
    hedge_factor: float | None = None,
    **caps: int,
) -> AsyncIterator[Scene]:
    """Sites named in `spares` are spares, in `same_operator` share an operator, in `hasty` are soon late."""
    async with AsyncExitStack() as stack:
        configs: list[SiteConfig] = []
        for name, impostor in sites.items():
            url = await stack.enter_async_context(impostor.running())
            operator = "operator-both" if name in same_operator else ""
            configs.append(config(name, url, operator, spare=name in spares))
        notes = Notes()
        book = ledger_for(configs, cap, ledger, **{f"operator-{name}": value for name, value in caps.items()})
        clients = [SiteClient(c, bundle, "fp16", QUICK if c.name in hasty else PATIENT) for c in configs]
        dispatcher = Dispatcher(
            bundle, clients, book, local, notes.say, reconnect_s, hedge_factor=hedge_factor
        )
        async with dispatcher.connected(canvas_of("16:9", bundle.geometry).windows):
            yield Scene(bundle, sites, dispatcher, book, notes)


def honest(bundle: Bundle, names: str) -> dict[str, Impostor]:
    return {name: Impostor(bundle) for name in names}


async def test_every_window_goes_to_its_home_and_stays_there_over_frames(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, honest(mini_bundle, "abc")) as it:
        for _ in range(3):
            await it.frame()
        for name in "abc":
            assert len(it.own(name)) == 5
            assert it.sent(name) == it.own(name) == it.ledger.exposure(f"operator-{name}")
            assert sorted(it.sites[name].tiles) == sorted(3 * list(it.own(name)))
        counts = it.dispatcher.statistics
        assert (counts.canvases, counts.windows_sent, counts.windows_skipped) == (3, 45, 30)
        assert (counts.redispatched, counts.local_windows, it.notes.lines) == (0, 0, [])
        assert [client.tiles for client, _ in it.dispatcher.sites] == [15, 15, 15]


async def test_probes_are_no_exposure(mini_bundle: Bundle) -> None:
    async with scene(mini_bundle, honest(mini_bundle, "abc")) as it:
        assert set(it.ledger.exposed().values()) == {frozenset()}
        assert all(client.bytes_up > 0 for client, _ in it.dispatcher.sites)


async def test_padding_never_leaves(mini_bundle: Bundle) -> None:
    """Counted at real sites: the tiles their engines ran are the 15 with picture and each site's probes."""
    canvas = canvas_of("16:9", mini_bundle.geometry)
    async with AsyncExitStack() as stack:
        site = ServeOptions(port=0, threads=1)
        running = [await stack.enter_async_context(running_site(mini_bundle, site)) for _ in range(3)]
        configs = [config(name, each.url) for name, each in zip("abc", running, strict=True)]
        clients = [SiteClient(each, mini_bundle, "fp16") for each in configs]
        dispatcher = Dispatcher(mini_bundle, clients, ledger_for(configs, 5), None, print)
        async with dispatcher.connected(canvas.windows):
            probes = sum(each.batcher.statistics.tiles for each in running)
            through_sites = await dispatcher.embed(canvas)
            assert sum(each.batcher.statistics.tiles for each in running) - probes == 15
            assert sorted(chain(*(client.sent for client in clients))) == list(canvas.windows)
    async with edge_engines(mini_bundle, ["window"]) as engines:
        local = LocalWindows(mini_bundle, engines, "fp16")
        async with Dispatcher(mini_bundle, [], ledger_for([], 0), local, print).connected(()) as alone:
            assert np.array_equal(through_sites, await alone.embed(canvas))


@pytest.mark.parametrize(
    "behaviour",
    [
        stall,
        status(500),
        status(503, Retry_After="10"),
        status(302, Location="/"),
        body(b"nothing"),
        answers_with(lambda b: window_stamp(b, 3)[None] * np.float16("nan")),
    ],
    ids=["stall", "500", "busy", "redirect", "malformed", "NaN"],
)
async def test_a_failed_sites_windows_run_at_the_edge_when_nobody_has_room(
    mini_bundle: Bundle, behaviour: Behaviour
) -> None:
    sites = honest(mini_bundle, "abc")
    local = NotedWindows(mini_bundle)
    async with scene(mini_bundle, sites, local=local, reconnect_s=[60], hasty="b") as it:
        sites["b"].script.extend([behaviour] * 100)
        await it.frame()
        await it.frame()
        assert set(local.windows) == it.own("b")
        assert it.sent("a") == it.own("a")
        assert it.sent("c") == it.own("c")
        assert len(sites["b"].tiles) <= 5  # no tile of the second frame was sent there
        assert it.state("b") in (SiteState.DOWN, SiteState.EXCLUDED)
        assert len(it.notes.lines) == 1  # the other tiles under way are echoes
        assert it.dispatcher.statistics.local_windows == 10


async def test_while_paused_nothing_is_sent(mini_bundle: Bundle) -> None:
    sites = honest(mini_bundle, "abc")
    async with scene(mini_bundle, sites) as it:
        it.dispatcher.pause(True)
        with pytest.raises(SendingPaused):
            await it.frame()
        assert it.sent("a", "b", "c") == set()
        assert it.dispatcher.statistics.windows_sent == 0
        it.dispatcher.pause(False)
        await it.frame()
        assert it.sent("a", "b", "c") == set(range(15))


async def test_a_spare_takes_over_before_operators_with_room(mini_bundle: Bundle) -> None:
    sites = honest(mini_bundle, "abcs")
    local = NotedWindows(mini_bundle)
    async with scene(mini_bundle, sites, cap=15, local=local, spares="s", reconnect_s=[60]) as it:
        await it.frame()
        assert sites["s"].tiles == []
        sites["b"].always = status(500)
        await it.frame()
        await it.frame()
        assert it.sent("s") == it.own("b")
        assert it.sent("a") == it.own("a")
        assert local.windows == []
        assert it.dispatcher.statistics.redispatched == len(it.own("b"))


async def test_operators_with_room_take_over_without_losing_room_for_their_own(mini_bundle: Bundle) -> None:
    """b is closed at the start, so that a and c have seen nothing yet when its windows are given away."""
    local = NotedWindows(mini_bundle)
    sites = honest(mini_bundle, "abc")
    sites["b"].always = status(500)
    async with scene(mini_bundle, sites, cap=7, local=local, reconnect_s=[60]) as it:
        await it.frame()
        assert it.own("a") <= it.sent("a")
        assert it.own("c") <= it.sent("c")
        assert len(it.sent("a")) == len(it.sent("c")) == 7
        assert set(local.windows) < it.own("b")
        assert len(local.windows) == 1


async def test_another_site_of_the_same_operator_takes_over_within_the_cap(mini_bundle: Bundle) -> None:
    sites = honest(mini_bundle, "abxy")
    async with scene(mini_bundle, sites, cap=5, same_operator="xy", reconnect_s=[60]) as it:
        await it.frame()
        assert it.sent("x") | it.sent("y") == it.ledger.exposure("operator-both")
        assert len(it.ledger.exposure("operator-both")) == 5
        sites["x"].always = status(500)
        await it.frame()
        assert sites["y"].tiles.count(next(iter(it.ledger.exposure("operator-both")))) >= 1
        assert len(it.ledger.exposure("operator-both")) == 5
        assert it.dispatcher.statistics.local_windows == 0


async def test_a_frame_without_any_way_out_is_lost_and_the_next_ones_go_on(mini_bundle: Bundle) -> None:
    sites = honest(mini_bundle, "abc")
    async with scene(mini_bundle, sites) as it:
        await it.frame()
        sites["b"].always = status(500)
        with pytest.raises(FrameLost, match=r"window \d+: operator operator-b does not answer.*spare"):
            await it.frame()
        assert all(client.in_flight == 0 for client, _ in it.dispatcher.sites)
        sites["b"].always = None
        await it.notes.wait_for("site b: is back")
        await it.frame()
        assert it.sent("b") == it.own("b")
        assert it.state("b") is SiteState.READY


async def test_a_site_that_comes_back_has_its_windows_again(mini_bundle: Bundle) -> None:
    sites = honest(mini_bundle, "abc")
    local = NotedWindows(mini_bundle)
    async with scene(mini_bundle, sites, local=local) as it:
        sites["b"].always = status(500, "broken")
        await it.frame()
        assert set(local.windows) == it.own("b")
        sites["b"].always = None
        await it.notes.wait_for("is back")
        sites["b"].tiles.clear()
        await it.frame()
        assert it.sent("b") == it.own("b")
        assert set(local.windows) == it.own("b")
        sites["b"].always = status(500, "broken")
        await it.frame()
        assert it.notes.lines == [
            f"site b: answered 500: broken; {LOOK}",
            "site b: is back and has its windows again",
            f"site b: answered 500: broken; {LOOK}",
        ]


async def test_a_site_whose_port_is_closed_at_the_start_joins_when_it_opens(mini_bundle: Bundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    late, early = Impostor(mini_bundle), Impostor(mini_bundle)
    notes, local = Notes(), NotedWindows(mini_bundle)
    canvas = canvas_of("16:9", mini_bundle.geometry)
    async with early.running() as url:
        configs = [config("early", url), config("late", f"http://127.0.0.1:{port}")]
        clients = [SiteClient(each, mini_bundle, "fp16", PATIENT) for each in configs]
        dispatcher = Dispatcher(mini_bundle, clients, ledger_for(configs, 8), local, notes.say, SOON)
        async with dispatcher.connected(canvas.windows):
            await dispatcher.embed(canvas)
            assert len(set(local.windows)) == 7
            async with late.running(port):
                await notes.wait_for("site late: is back")
                await dispatcher.embed(canvas)
            assert len(set(late.tiles)) == 7
            assert len(set(early.tiles)) == 8


async def test_an_untrusted_site_is_never_asked_again(mini_bundle: Bundle) -> None:
    requests = 0

    async def lie(site: Impostor, request: web.Request) -> web.StreamResponse:
        nonlocal requests
        requests += 1
        return web.json_response({"parameters": {"site_digest": {"string_value": "sha256:0"}}})

    sites = {**honest(mini_bundle, "ac"), "b": Impostor(mini_bundle, always=lie)}
    local = NotedWindows(mini_bundle)
    async with scene(mini_bundle, sites, local=local) as it:
        for _ in range(3):
            await it.frame()
        assert it.state("b") is SiteState.EXCLUDED
        assert mini_bundle.site_digest in it.notes.lines[0]
        assert "sha256:0," in it.notes.lines[0]
    assert (requests, sites["b"].tiles, len(it.notes.lines)) == (1, [], 1)


async def test_a_wrong_answer_excludes_a_site_that_is_already_down(mini_bundle: Bundle) -> None:
    """Of the tiles under way one fails harmlessly first; the wrong one still counts, however late."""
    nonsense = anyio.Event()

    async def late_nonsense(site: Impostor, request: web.Request) -> web.StreamResponse:
        await nonsense.wait()
        return web.Response(body=b"nonsense")

    sites = honest(mini_bundle, "abc")
    sites["b"].script.extend([status(500), late_nonsense])
    local = NotedWindows(mini_bundle)
    async with scene(mini_bundle, sites, local=local, reconnect_s=[60]) as it:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(it.frame)
            await it.notes.wait_for("answered 500")
            assert it.state("b") is SiteState.DOWN
            nonsense.set()
        assert it.state("b") is SiteState.EXCLUDED
        assert [line[:18] for line in it.notes.lines] == ["site b: answered 5", "site b: sent a mal"]


async def test_what_a_site_words_cannot_reach_the_terminal_as_control_codes(mini_bundle: Bundle) -> None:
    sites = honest(mini_bundle, "abc")
    sites["a"].digest = "\x1b[31mred\x07"
    sites["b"].always = status(500, "\x1b[31mred\x07")
    local = NotedWindows(mini_bundle)
    async with scene(mini_bundle, sites, local=local, reconnect_s=[60]) as it:
        assert len(it.notes.lines) == 2
        assert all("[31mred" in line and line.isprintable() for line in it.notes.lines)
        assert list(it.dispatcher.statistics.messages) == it.notes.lines


async def test_no_site_and_no_window_engine_is_refused_at_the_start(mini_bundle: Bundle) -> None:
    sites = {"a": Impostor(mini_bundle, always=status(500, "out of order"))}
    with pytest.raises(InputError, match=r"no site can be used.*out of order"):
        async with scene(mini_bundle, sites):
            pass


async def test_no_site_at_all_can_work_on_with_the_edges_engine(mini_bundle: Bundle) -> None:
    local = NotedWindows(mini_bundle)
    sites = {name: Impostor(mini_bundle, always=status(500)) for name in "ab"}
    async with scene(mini_bundle, sites, local=local) as it:
        await it.frame()
        assert sorted(local.windows) == list(range(15))


async def test_windows_beyond_all_caps_run_at_the_edge(mini_bundle: Bundle) -> None:
    local = NotedWindows(mini_bundle)
    async with scene(mini_bundle, honest(mini_bundle, "abc"), cap=4, local=local) as it:
        await it.frame()
        assert [len(it.sent(name)) for name in "abc"] == [4, 4, 4]
        assert len(local.windows) == 3


async def test_windows_beyond_all_caps_are_refused_at_the_start_where_nothing_can_run_them(
    mini_bundle: Bundle,
) -> None:
    with pytest.raises(InputError, match="together see 12 of 15 windows"):
        async with scene(mini_bundle, honest(mini_bundle, "abc"), cap=4):
            pass


async def test_the_ledger_has_the_last_word(mini_bundle: Bundle) -> None:
    """Whatever was planned: an operator that has seen enough by other ways gets none of its windows."""
    local = NotedWindows(mini_bundle)
    async with scene(mini_bundle, honest(mini_bundle, "abc"), local=local) as it:
        for window in sorted(set(range(25)) - it.own("a"))[:5]:
            assert it.ledger.grant("a", window)
        await it.frame()
        assert it.sent("a") == set()
        assert set(local.windows) == it.own("a")


async def test_a_session_that_goes_on_keeps_its_assignment(mini_bundle: Bundle, tmp_path: Path) -> None:
    async def slow(site: Impostor, request: web.Request) -> web.StreamResponse:
        await anyio.sleep(0.1)
        if request.method == "GET":
            return web.json_response({"parameters": {"site_digest": {"string_value": site.digest}}})
        return await site.answer(request)

    seen = {}
    for run, ledger in (("first", "kept"), ("second", "kept"), ("slow and new", "new")):
        sites = honest(mini_bundle, "abc")
        sites["a"].always = None if run == "first" else slow
        async with scene(mini_bundle, sites, cap=9, ledger=tmp_path / ledger) as it:
            await it.frame()
            seen[run] = [it.sent(name) for name in "abc"]
    assert seen["first"] == seen["second"]
    assert seen["first"] != seen["slow and new"]  # its speed would have mattered


async def test_cancelling_a_frame_leaves_nothing_behind(mini_bundle: Bundle) -> None:
    sites = honest(mini_bundle, "abc")
    async with scene(mini_bundle, sites) as it:
        sites["b"].script.extend([stall] * 5)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(it.frame)
            await sites["b"].seen.wait()
            tasks.cancel_scope.cancel()
        assert all(client.in_flight == 0 for client, _ in it.dispatcher.sites)
        assert all(it.state(name) is SiteState.READY for name in "abc")
        sites["b"].script.clear()
        await it.frame()
