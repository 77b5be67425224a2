"""When a run begins though sites have not answered yet; they answer when a test says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import numpy as np
import pytest

from runtime.encoder import ImageEncoder
from runtime.sites.client import SiteClient
from runtime.sites.health import Health
from runtime.sites.ledger import ExposureLedger, Grant
from runtime.sites.sendable import SendableTile
from runtime.sites.start import BEGINS, FIRST, NO_STAGE, PATIENCE, WAITS, Patience
from runtime.sites.windows import SiteWindows, open_sites
from stages.bundle import Bundle, Probe
from stages.errors import InputError, SiteUnavailable
from stages.tensors import Array
from tests.support.edge import canvas_of, config, ledger_for, window_stamp
from tests.support.fakes import until
from tests.support.scenes import NO_ENGINES, LocalStamps, Notes, embeddings_of

pytestmark = pytest.mark.anyio

AT_ONCE = Patience(first_s=3600.0, grace_s=0.0)
FOR_EVER = Patience(first_s=3600.0, grace_s=3600.0)
WAITED = WAITS.format(reason=NO_STAGE.reason)
JOINED = "has joined and has its windows"


class Answering(SiteClient):
    """A site in memory. It answers nothing before `answers` is set, and then fails with `fails` if that is
    said."""

    def __init__(self, name: str, bundle: Bundle, *, spare: bool = False) -> None:
        super().__init__(config(name, spare=spare), bundle, "fp16")
        self.answers = anyio.Event()
        self.fails: str | None = None
        self.windows: set[int] = set()
        self._stamps = bundle

    async def connect(self, probe: Probe) -> None:
        await self.answers.wait()
        if self.fails is not None:
            raise SiteUnavailable(self.name, self.fails)

    async def infer(self, grants: Sequence[Grant], tiles: Sequence[SendableTile]) -> Array:
        self.windows.update(grant.window for grant in grants)
        return np.stack([window_stamp(self._stamps, grant.window) for grant in grants])


@dataclass
class Begun:
    """A run that has begun."""

    bundle: Bundle
    sites: SiteWindows
    ledger: ExposureLedger
    local: LocalStamps | None

    async def frame(self) -> None:
        canvas = canvas_of("16:9", self.bundle.geometry)
        encoder = ImageEncoder(self.bundle, NO_ENGINES, self.sites, self.local)
        embeddings = await embeddings_of(encoder, canvas)
        for window in canvas.windows:
            assert np.array_equal(embeddings[window], window_stamp(self.bundle, window))

    def home(self, name: str) -> set[int]:
        return {w for w, operator in self.sites.placement.home.items() if operator == f"operator-{name}"}


@dataclass
class Start:
    """Sites of which those in `early` answer at once; each operator may see `cap` windows of 15."""

    bundle: Bundle
    names: str = "abc"
    early: str = "ab"
    cap: int = 5
    spares: str = ""
    engine: bool = True
    patience: Patience = AT_ONCE

    def __post_init__(self) -> None:
        self.notes = Notes()
        self.clients = {name: Answering(name, self.bundle, spare=name in self.spares) for name in self.names}
        for name in self.early:
            self.clients[name].answers.set()

    @asynccontextmanager
    async def begun(self) -> AsyncIterator[Begun]:
        clients = list(self.clients.values())
        ledger = ledger_for([client.config for client in clients], self.cap)
        with anyio.fail_after(60):
            async with open_sites(
                self.bundle,
                clients,
                ledger,
                canvas_of("16:9", self.bundle.geometry).windows,
                self.notes.add,
                window_engine=self.engine,
                reconnect_s=[0.01],
                patience=self.patience,
            ) as sites:
                local = LocalStamps(self.bundle) if self.engine else None
                await until(lambda: {site.name for site in sites.sites.ready()} >= set(self.early))
                yield Begun(self.bundle, sites, ledger, local)

    @property
    def said(self) -> list[str]:
        """Of c; without any grace the first sentence comes before any site can have answered."""
        told = [line.removeprefix("site c: ") for line in self.notes.lines if line.startswith("site c: ")]
        assert self.patience is not AT_ONCE or told.pop(0) == FIRST
        return told


async def test_where_the_edge_has_an_engine_a_late_site_holds_up_nobody(
    mini_bundle: Bundle,
) -> None:
    start = Start(mini_bundle)
    async with start.begun() as it:
        assert start.said == [BEGINS]
        await it.frame()
        assert it.local is not None
        assert set(it.local.windows) == it.home("c")
        assert len(it.home("c")) == 5  # as if it had answered
        assert it.ledger.exposure("operator-c") == frozenset()
        start.clients["c"].answers.set()
        await start.notes.wait_for(JOINED)
        await it.frame()
        assert start.said == [BEGINS, JOINED]
        assert start.clients["c"].windows == it.home("c")
        assert [len(client.windows) for client in start.clients.values()] == [5, 5, 5]


async def test_without_an_engine_substitutes_have_its_windows_within_their_caps(mini_bundle: Bundle) -> None:
    start = Start(mini_bundle, cap=8, engine=False)
    async with start.begun() as it:
        assert start.said[-1] == BEGINS
        await it.frame()
        a, b, c = start.clients.values()
        assert a.windows | b.windows == set(range(15))
        assert max(len(a.windows), len(b.windows)) <= 8
        assert a.windows >= it.home("a")
        c.answers.set()
        await start.notes.wait_for(JOINED)
        await it.frame()
        assert c.windows == it.home("c")
        assert max(len(a.windows), len(b.windows)) <= 8


async def test_a_spare_has_the_windows_of_a_late_site(mini_bundle: Bundle) -> None:
    start = Start(mini_bundle, names="abcs", early="abs", spares="s", engine=False)
    async with start.begun() as it:
        await it.frame()
        assert start.clients["s"].windows == it.home("c")


@pytest.mark.parametrize("fails", [None, "is broken"])
async def test_where_its_windows_have_no_place_the_run_waits_and_says_so(
    mini_bundle: Bundle, fails: str | None
) -> None:
    """Until it answers or fails."""
    start = Start(mini_bundle, engine=False)
    begun = anyio.Event()

    async def run() -> None:
        async with start.begun() as it:
            begun.set()
            assert it.home("c")
            if fails is None:
                await it.frame()
                assert start.clients["c"].windows == it.home("c")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await start.notes.wait_for(WAITED)
        assert not begun.is_set()
        start.clients["c"].fails = fails
        start.clients["c"].answers.set()
    assert start.said == [WAITED, fails or JOINED]


async def test_of_several_late_sites_those_are_enough_that_make_room(mini_bundle: Bundle) -> None:
    start = Start(mini_bundle, names="abcd", early="ab", cap=5, engine=False)
    begun = anyio.Event()

    async def run() -> None:
        async with start.begun() as it:
            begun.set()
            await it.frame()
            assert not it.home("d") & start.clients["d"].windows

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await start.notes.wait_for(f"site c: {WAITED}")
        assert not begun.is_set()
        start.clients["c"].answers.set()
        await begun.wait()
    assert start.notes.lines[-1] == f"site d: {BEGINS}"


async def test_sites_that_answer_in_good_time_are_waited_for(mini_bundle: Bundle) -> None:
    """And when all have, nobody waits any longer."""
    start = Start(mini_bundle, patience=FOR_EVER)
    begun = anyio.Event()

    async def run() -> None:
        async with start.begun() as it:
            begun.set()
            assert len(it.sites.sites.ready()) == 3

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await until(lambda: start.clients["c"].answers.statistics().tasks_waiting == 1)
        assert not begun.is_set()
        start.clients["c"].answers.set()
    assert start.notes.lines == []


async def test_without_any_answer_an_edge_with_an_engine_begins_alone(mini_bundle: Bundle) -> None:
    start = Start(mini_bundle, early="", patience=Patience(first_s=0.0, grace_s=0.0))
    async with start.begun() as it:
        await it.frame()
        assert it.local is not None
        assert set(it.local.windows) == set(range(15))
        assert start.notes.lines == [
            *(f"site {name}: {FIRST}" for name in "abc"),
            *(f"site {name}: {BEGINS}" for name in "abc"),
        ]
        assert {site.health for site in it.sites.sites} == {Health.CONNECTING}


async def test_without_an_engine_it_waits_for_a_first_site_and_ends_with_the_last(
    mini_bundle: Bundle,
) -> None:
    start = Start(mini_bundle, early="", engine=False)
    for client in start.clients.values():
        client.fails = "is broken"

    async def run() -> None:
        with pytest.raises(InputError, match=r"no site can be used .*site a: is broken; site b.*broken"):
            async with start.begun():
                pass

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await start.notes.wait_for(f"site c: {FIRST}")
        for client in start.clients.values():
            client.answers.set()


async def test_caps_that_can_never_be_enough_are_refused_without_waiting(mini_bundle: Bundle) -> None:
    wanted = r"12 of 15 windows.*caps to 5 each, add sites of 1 more operator, or"
    with pytest.raises(InputError, match=wanted):
        async with Start(mini_bundle, cap=4, engine=False).begun():
            pass


async def test_a_late_site_that_fails_is_told_and_joins(mini_bundle: Bundle) -> None:
    start = Start(mini_bundle)
    c = start.clients["c"]
    async with start.begun():
        c.fails = "is broken"
        c.answers.set()
        await start.notes.wait_for("is broken")
        c.fails = None
        await start.notes.wait_for(f"site c: {JOINED}")
    assert start.said == [BEGINS, "is broken", JOINED]


def test_the_grace_is_short() -> None:
    assert PATIENCE.grace_s < PATIENCE.first_s <= 10
