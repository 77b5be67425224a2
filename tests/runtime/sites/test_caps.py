"""No operator ever receives a window beyond its cap, in any sequence of failures and recoveries."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import anyio.lowlevel
import numpy as np
import pytest
from hypothesis import currently_in_test_context, event, given, settings
from hypothesis import strategies as st

from runtime.encoder import FrameLost, ImageEncoder, LocalWindows
from runtime.frames.canvas import Canvas, make_canvas
from runtime.sites.client import SiteClient
from runtime.sites.config import SiteConfig
from runtime.sites.ledger import ExposureLedger, Grant
from runtime.sites.sendable import SendableTile
from runtime.sites.start import Patience
from runtime.sites.windows import open_sites
from stages.bundle import Bundle, Probe
from stages.errors import InputError, SiteUnavailable, SiteUntrusted
from stages.geometry import GEOMETRIES
from stages.tensors import Array
from tests.support.edge import config, window_stamp
from tests.support.scenes import NO_ENGINES, embeddings_of

Outcome = Literal["good", "late", "down", "wrong"]
# Wide and tall frames: 5 windows each, 9 together, so that placing them takes no time.
SIZES = ((60, 400), (400, 60), (90, 90 * 5), (30, 100))


@dataclass(frozen=True)
class Plan:
    """A session: sites with what happens to each of their calls in turn, caps, frames, an engine or none.

    `elsewhere` are windows that sites are shown by other ways after the first frame, the ledger allowing.
    `delays` are turns of the event loop before a site answers for the first time; the run has no patience.
    `batches` are how many windows a site takes in one request.
    """

    sites: tuple[SiteConfig, ...]
    outcomes: tuple[tuple[Outcome, ...], ...]
    caps: Mapping[str, int]
    frames: tuple[int, ...]
    elsewhere: tuple[tuple[str, int], ...]
    local: bool
    delays: tuple[int, ...]
    batches: tuple[int, ...]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    operators = draw(st.lists(st.sampled_from("ABCD"), min_size=1, max_size=5))
    spares = [draw(st.booleans()) and number > 0 for number in range(len(operators))]
    sites = tuple(
        config(str(number), operator=operator, spare=spare)
        for number, (operator, spare) in enumerate(zip(operators, spares, strict=True))
    )
    outcome: st.SearchStrategy[Outcome] = st.sampled_from(["good", "good", "good", "late", "down", "wrong"])
    return Plan(
        sites,
        tuple(tuple(draw(st.lists(outcome, max_size=20))) for _ in sites),
        {operator: draw(st.integers(1, 9)) for operator in sorted(set(operators))},
        tuple(draw(st.lists(st.integers(0, len(SIZES) - 1), min_size=1, max_size=5))),
        tuple(draw(st.lists(st.tuples(st.sampled_from([s.name for s in sites]), st.integers(0, 24))))),
        draw(st.booleans()),
        tuple(draw(st.sampled_from([0, 100, 1000])) for _ in sites),
        tuple(draw(st.sampled_from([1, 2, 25])) for _ in sites),
    )


def seen(what: str) -> None:
    """Have hypothesis count what happened, where it is what runs this."""
    if currently_in_test_context():
        event(what)


class FakeClient(SiteClient):
    """A site in memory. It notes in `received` what its operator sees, and does what `outcomes` say."""

    def __init__(
        self,
        site: SiteConfig,
        bundle: Bundle,
        outcomes: tuple[Outcome, ...],
        delay: int,
        batch: int,
        received: dict[str, set[int]],
    ) -> None:
        super().__init__(site, bundle, "fp16", request_bytes=1 << 20)
        self.max_batch = batch
        self.requests: list[int] = []  # windows of each
        self._delay = delay
        self._outcomes = list(outcomes)
        self._received = received[site.operator]
        self._stamp = {window: window_stamp(bundle, window) for window in range(25)}

    async def connect(self, probe: Probe) -> None:
        while self._delay:
            self._delay -= 1
            await anyio.lowlevel.checkpoint()
        await self._suffer()

    async def infer(self, grants: Sequence[Grant], tiles: Sequence[SendableTile]) -> Array:
        windows = [tile.window for tile in tiles]
        assert {(grant.site, grant.operator) for grant in grants} == {(self.name, self.config.operator)}
        assert [grant.window for grant in grants] == windows
        assert 1 <= len(windows) <= self.max_batch
        seen("windows shared a request" if len(windows) > 1 else "a window went alone")
        self.requests.append(len(windows))
        self._received.update(windows)
        self.in_flight += len(windows)
        try:
            await self._suffer()
        finally:
            self.in_flight -= len(windows)
        return np.stack([self._stamp[window] for window in windows])

    async def _suffer(self) -> None:
        outcome = self._outcomes.pop(0) if self._outcomes else "good"
        for _ in range(5 if outcome == "late" else 1):
            await anyio.lowlevel.checkpoint()
        if outcome == "down":
            raise SiteUnavailable(self.name, "is down")
        if outcome == "wrong":
            raise SiteUntrusted(self.name, "is wrong")


class FakeWindows(LocalWindows):
    def __init__(self, bundle: Bundle) -> None:
        self._fake = bundle

    async def embed(self, window: int, inputs: Mapping[str, Array], order: int = 0) -> Array:
        return window_stamp(self._fake, window)


CANVASES = [make_canvas(np.zeros((*size, 3), np.uint8), GEOMETRIES["mini"]) for size in SIZES]


async def run(plan: Plan, bundle: Bundle) -> list[int]:
    """Runs it, and returns how many windows each request held."""
    received: dict[str, set[int]] = defaultdict(set)
    clients = [
        FakeClient(site, bundle, outcomes, delay, batch, received)
        for site, outcomes, delay, batch in zip(
            plan.sites, plan.outcomes, plan.delays, plan.batches, strict=True
        )
    ]
    ledger = ExposureLedger.open(None, {site.name: site.operator for site in plan.sites}, plan.caps)
    local = FakeWindows(bundle) if plan.local else None
    wanted = {window for number in plan.frames for window in CANVASES[number].windows}
    async with open_sites(
        bundle,
        clients,
        ledger,
        wanted,
        lambda text: None,
        window_engine=plan.local,
        reconnect_s=(0, 0),
        patience=Patience(first_s=0.0, grace_s=0.0),
    ) as windows:
        if windows.sites.unheard():
            seen("begun without a site")
        encoder = ImageEncoder(bundle, NO_ENGINES, windows, local)
        for number in plan.frames:
            await frame(encoder, CANVASES[number], bundle, plan.local)
            for grant in ledger.grant_all(plan.elsewhere):
                if grant is not None:
                    received[grant.operator].add(grant.window)
            check(plan, ledger, received)
    check(plan, ledger, received)
    return [windows for client in clients for windows in client.requests]


async def frame(encoder: ImageEncoder, canvas: Canvas, bundle: Bundle, local: bool) -> None:
    """Every embedding is right, or the frame is lost, which the edge's own engine prevents."""
    try:
        embeddings = await embeddings_of(encoder, canvas)
    except FrameLost:
        assert not local
        seen("frame lost")
        return
    seen("frame done")
    expected = bundle.padding_embeddings()
    for window in canvas.windows:
        expected[window] = window_stamp(bundle, window)
    assert np.array_equal(embeddings, expected)


def check(plan: Plan, ledger: ExposureLedger, received: Mapping[str, set[int]]) -> None:
    """What was received was granted. Only a site that fails or joins meanwhile may leave a grant that is not
    used."""
    steady = not any({"down", "wrong"} & set(outcomes) for outcomes in plan.outcomes) and not any(plan.delays)
    for operator, cap in plan.caps.items():
        assert len(received[operator]) <= len(ledger.exposure(operator)) <= cap
        assert received[operator] <= ledger.exposure(operator)
        assert not steady or received[operator] == ledger.exposure(operator)


@given(plan=plans())
@settings(max_examples=80)
def test_no_operator_receives_a_window_beyond_its_cap(mini_bundle: Bundle, plan: Plan) -> None:
    try:
        asyncio.run(run(plan, mini_bundle))
    except InputError:
        assert not plan.local
        seen("refused at the start")


@pytest.mark.parametrize(("batch", "most"), [(1, 1), (2, 2), (25, 3)])
def test_windows_really_share_requests_here(mini_bundle: Bundle, batch: int, most: int) -> None:
    """Five windows of two operators that may have three each."""
    sites = (config("0", operator="A"), config("1", operator="B"))
    plan = Plan(sites, ((), ()), {"A": 3, "B": 3}, (0,), (), False, (0, 0), (batch, batch))
    sizes = asyncio.run(run(plan, mini_bundle))
    assert (sum(sizes), max(sizes)) == (5, most)
