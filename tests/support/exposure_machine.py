"""Runs of one session with everything that can happen to them, by chance, and the real classes of the edge:
ledger and its file, placement, router, hedging, shared requests, health of sites, encodings. Only sockets are
missing. Time is virtual.

`ExposureMachine` is a state machine of Hypothesis. It looks at each request where a socket would take it.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import anyio
import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from runtime.encoder import FrameLost, ImageEncoder, LocalWindows
from runtime.frames.canvas import Canvas, make_canvas
from runtime.frames.kept import Kept
from runtime.results.measurements import WindowStatistics
from runtime.sites.client import SiteClient, SiteTimeout
from runtime.sites.health import Health, Sites
from runtime.sites.ledger import ExposureLedger
from runtime.sites.placement import Placement
from runtime.sites.windows import SiteWindows
from stages.bundle import Bundle, Probe
from stages.errors import SiteUnavailable, SiteUntrusted
from stages.tensors import Array
from tests.support.disks import put_away
from tests.support.edge import config
from tests.support.fakes import TINY, tiny_bundle
from tests.support.scenes import NO_ENGINES
from tests.support.virtual_time import VirtualLoop

T = TypeVar("T")
Outcome = Literal["good", "late", "down", "hangs", "wrong"]
SITES = (
    *(("a1", "A", False), ("a2", "A", False), ("b1", "B", False), ("b2", "B", False)),
    *(("c", "C", False), ("s", "S", True)),
)
OPERATORS = ("A", "B", "C", "S")
# Wide and tall frames of five windows each, of nine together: placing them takes no time.
SIZES = ((60, 400), (400, 60), (90, 450), (30, 100))
REQUEST_BYTES = 540  # three windows
FRAMES_KNOWN = 256  # as many as a pixel can tell apart
MEMORY = Path("/dev/shm")  # noqa: S108 (a folder in memory: the file is written at most steps)


@dataclass(frozen=True)
class Run:
    """`caps` of operators, who is the `home` of which window, whether the edge has a window `engine`, how
    many windows a site takes in one request, and which of SITES are `down` at the start."""

    caps: dict[str, int]
    home: dict[int, str]
    engine: bool
    batch: int
    down: frozenset[int]


def homes(seed: int) -> dict[int, str]:
    """Some windows have none; an operator may have more than its cap."""
    drawn = random.Random(seed).choices((*OPERATORS[:3] * 9, ""), k=TINY.windows)
    return {window: operator for window, operator in enumerate(drawn) if operator}


windows = st.sampled_from(sorted({window for size in SIZES for window in TINY.windows_with_picture(*size)}))
kept_windows = st.frozensets(windows, max_size=4)
caps = st.fixed_dictionaries({operator: st.sampled_from([2, 3, 3, 4, 5, 9, 0]) for operator in OPERATORS})
runs = st.builds(
    Run,
    caps,
    st.integers(0, 999).map(homes),
    st.booleans(),
    st.sampled_from([1, 3]),
    st.frozensets(st.integers(0, len(SITES) - 1), max_size=2),
)
outcomes: st.SearchStrategy[Outcome] = st.sampled_from(
    ["good", *["late"] * 4, *["down"] * 4, "hangs", "wrong"]
)


class StampBundle(Bundle):
    """The record of a bundle of which nothing lies on a disk."""

    @classmethod
    def make(cls) -> StampBundle:
        tiny = tiny_bundle()
        return cls(**{field.name: getattr(tiny, field.name) for field in fields(tiny)})

    def padding_embeddings(self) -> Array:
        return np.zeros((TINY.windows, *self.embedding_shape), np.float16)

    def probe(self) -> Probe:
        return Probe({}, self.padding_embeddings()[:1], {})


class MemoryClient(SiteClient):
    """A site without a socket: the machine is told of what would be written to it, and its script says what
    comes of it. It connects as `up` says."""

    def __init__(self, machine: ExposureMachine, name: str, operator: str, spare: bool, batch: int) -> None:
        super().__init__(
            config(name, operator=operator, spare=spare), machine.model, "fp16", request_bytes=REQUEST_BYTES
        )
        self.machine = machine
        self.batch = batch
        self.up: Outcome = "good"

    async def connect(self, probe: Probe) -> None:
        self.max_batch, self.tile_s = self.batch, 0.01
        await self._suffer(self.up)

    async def _post(self, inputs: Mapping[str, Array], timeout_s: float) -> Array:
        self.machine.on_the_wire(self, inputs)
        await self._suffer(self.machine.script.popleft() if self.machine.script else "good")
        return np.stack([stamp(self.machine.model, index) for index in inputs["index"][:, 0].tolist()])

    async def _suffer(self, outcome: Outcome) -> None:
        await anyio.sleep({"late": 1.0, "hangs": 5.0}.get(outcome, 0.0))
        if outcome == "down":
            raise SiteUnavailable(self.name, "is down")
        if outcome == "hangs":
            raise SiteTimeout(self.name, 5.0)
        if outcome == "wrong":
            raise SiteUntrusted(self.name, "is wrong")


class OwnWindows(LocalWindows):
    def __init__(self, bundle: Bundle) -> None:
        self._own = bundle

    async def embed(self, window: int, inputs: Mapping[str, Array], order: int = 0) -> Array:
        await anyio.lowlevel.checkpoint()
        return stamp(self._own, window)


def stamp(bundle: Bundle, window: int) -> Array:
    return np.full(bundle.embedding_shape, window, np.float16)


def canvas_of(size: tuple[int, int], number: int) -> Canvas:
    """A frame whose pixels are its number."""
    return make_canvas(np.full((*size, 3), number % FRAMES_KNOWN, np.uint8), TINY)


class ExposureMachine(RuleBasedStateMachine):
    """What was sent to whom is noted here, apart from the ledger that it is held against.

    `happened` counts steps and what came of them, over all machines of the class.
    """

    happened: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.model = StampBundle.make()
        self.loop = VirtualLoop()
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)
        self.path = Path(self.folder.name) / "ledgers" / "ledger.json"
        self.path.parent.mkdir()
        self.mend: Callable[[], object] | None = None
        self.frames = 0
        self.kept_by_frame: dict[int, frozenset[int]] = {}
        self.kept_in_run: frozenset[int] = frozenset()
        self.session_sent: dict[str, set[int]] = {operator: set() for operator in OPERATORS}
        self.most_cap = dict.fromkeys(OPERATORS, 0)  # of the runs of this session
        self.wrong: list[str] = []  # what went wrong while tasks ran

    # What happens

    @initialize(run=runs)
    def first_run(self, run: Run) -> None:
        self._begin(run)

    @rule(run=runs, new_session=st.booleans())
    def next_run(self, run: Run, new_session: bool) -> None:
        self._end()
        self._begin(run, new_session=new_session)

    @rule(
        frames=st.lists(
            st.tuples(st.sampled_from(SIZES), kept_windows | st.just(frozenset())), min_size=1, max_size=3
        ),
        script=st.lists(outcomes, max_size=8),
    )
    def play(self, frames: list[tuple[tuple[int, int], frozenset[int]]], script: list[Outcome]) -> None:
        """Frames, at once; their first requests end as the script says."""
        self.script = deque(script)
        self._do(self._play(frames))

    @rule(site=st.sampled_from(range(len(SITES))), up=st.sampled_from(["good", *["down"] * 3, "wrong"]))
    def have_connections_suffer(self, site: int, up: Outcome) -> None:
        self.clients[site].up = up

    @rule(window=windows)
    def keep_for_the_session(self, window: int) -> None:
        self.ledger.keep({window})
        self.kept_in_run |= {window}

    @rule(seconds=st.sampled_from([0.5, 2.0, 40.0]))
    def wait(self, seconds: float) -> None:
        """Sites connect again, and the ledger's file is tried again."""
        self._do(anyio.sleep(seconds))

    @rule()
    def break_or_mend_the_file(self) -> None:
        if self.mend is None:
            self.mend = put_away(self.path.parent)
        else:
            self._mend_the_file()

    @rule(site=st.sampled_from(range(len(SITES))), window=windows)
    def ask_the_ledger(self, site: int, window: int) -> None:
        """By other ways than a frame's; nothing is sent."""
        if self.ledger.grant(SITES[site][0], window) is not None:
            assert window not in self.kept_in_run
        router = self.sites.router
        for kept in self.kept_in_run:
            assert not any(self.ledger.grant_again(name, kept) for name, *_ in SITES)
            assert not router.second(kept, ())
            assert not router.trials(kept)

    # What must hold

    def on_the_wire(self, client: MemoryClient, inputs: Mapping[str, Array]) -> None:
        """A request leaves. A failure is noted, since whoever sends may take it for one of the site."""
        operator, cap = client.config.operator, self.caps[client.config.operator]
        for tile, window in zip(inputs["tile"], inputs["index"][:, 0].tolist(), strict=True):
            number = int(tile.max())
            self.happened["tiles sent"] += 1
            self.happened["copies for a trial"] += self._on_trial(client)
            self.session_sent[operator].add(window)
            self.run_sent[operator].add(window)
            counted = self.seen_before[operator] | self.run_sent[operator]
            what = f"window {window} of frame {number} to {client.name}"
            if window in self.kept_by_frame[number]:
                self.wrong.append(f"{what}: the frame keeps it")
            if window in self.kept_in_run:
                self.wrong.append(f"{what}: it is kept for the session")
            if window not in self.seen_before[operator] and len(counted) > cap:
                self.wrong.append(f"{what}: {sorted(counted)} are more than the cap of {cap}")

    @invariant()
    def nothing_went_wrong(self) -> None:
        self.happened["steps"] += 1
        assert not self.wrong

    @invariant()
    def the_file_says_all_that_was_sent(self) -> None:
        exposure = self._in_file()
        for operator, sent in self.session_sent.items():
            assert sent <= exposure[operator]
            assert len(exposure[operator]) <= self.most_cap[operator]

    # How

    def _mend_the_file(self) -> None:
        assert self.mend is not None
        self.mend()
        self.mend = None

    def _on_trial(self, client: MemoryClient) -> bool:
        return any(site.client is client for site in self.sites.sites.on_trial())

    def teardown(self) -> None:
        self._end()
        self.loop.close()
        self.folder.cleanup()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def _in_file(self) -> dict[str, set[int]]:
        folder = self.path.parent
        path = self.path if self.mend is None else folder.with_name(f"{folder.name}.away") / self.path.name
        return {name: set(seen) for name, seen in json.loads(path.read_bytes())["exposure"].items()}

    def _begin(self, run: Run, *, new_session: bool = False) -> None:
        self.caps = run.caps
        self.happened["sessions"] += new_session
        if new_session:
            self.session_sent = {operator: set() for operator in OPERATORS}
            self.most_cap = dict.fromkeys(OPERATORS, 0)
        self.most_cap = {name: max(most, run.caps[name]) for name, most in self.most_cap.items()}
        self.kept_in_run = frozenset()
        self.run_sent: dict[str, set[int]] = {operator: set() for operator in OPERATORS}
        operators = {name: operator for name, operator, _ in SITES}
        self.ledger = ExposureLedger.open(self.path, operators, run.caps, new_session, clock=self.loop.time)
        self.seen_before = self.ledger.exposed()
        self.clients = [MemoryClient(self, *site, run.batch) for site in SITES]
        for site in run.down:
            self.clients[site].up = "down"
        self.over = asyncio.Event()
        begun = self.loop.create_future()
        self.run_task = self.loop.create_task(self._run(run, begun))
        self._do(_result(begun))

    async def _run(self, run: Run, begun: asyncio.Future[None]) -> None:
        """What runtime.sites.windows.open_sites does, but that the homes of windows are drawn, not sought."""
        await self.loop.watch_threads()
        statistics = WindowStatistics()
        sites = Sites(self.clients, self.model.probe(), lambda text: None, (1.0, 20.0))
        async with sites, sites.connecting() as tasks:
            await anyio.sleep(2.0)
            placement = Placement(TINY, sites, self.ledger, run.home)
            sites.on_change.append(placement.choose_substitutes)
            self.sites = SiteWindows(
                sites, placement, self.ledger, tasks, statistics, window_engine=run.engine
            )
            self.encoder = ImageEncoder(
                self.model,
                NO_ENGINES,
                self.sites,
                OwnWindows(self.model),
                keep=self._keep,
                fallback=run.engine,
            )
            self.engine = run.engine
            begun.set_result(None)
            await self.over.wait()

    async def _keep(self, canvas: Canvas, number: int) -> Kept:
        return Kept(self.kept_by_frame[number % FRAMES_KNOWN])

    def _end(self) -> None:
        if self.mend is not None:
            self._mend_the_file()
        self.over.set()
        self._do(_result(self.run_task))
        counts = self.sites.statistics
        self.happened["runs"] += 1
        self.happened["windows kept"] += counts.kept_windows
        self.happened["second requests for late tiles"] += counts.hedged
        self.happened["windows sent elsewhere"] += counts.redispatched
        self.happened["sites excluded"] += sum(site.health is Health.EXCLUDED for site in self.sites.sites)
        self.ledger.__exit__(None, None, None)
        assert self.ledger.unwritten is None

    async def _play(self, frames: list[tuple[tuple[int, int], frozenset[int]]]) -> None:
        async with anyio.create_task_group() as tasks:
            for size, kept in frames:
                self.frames += 1
                self.kept_by_frame[self.frames % FRAMES_KNOWN] = kept
                tasks.start_soon(self._frame, canvas_of(size, self.frames), self.frames)

    async def _frame(self, canvas: Canvas, number: int) -> None:
        """Every embedding is right, or the frame is lost, which the edge's own engine prevents."""
        encoding = self.encoder.start(canvas, number)
        try:
            await encoding.collect()
        except FrameLost:
            assert not self.engine
            self.happened["frames lost"] += 1
            return
        self.happened["frames done"] += 1
        for window in canvas.windows:
            assert (encoding.embeddings[window] == window).all()


async def _result(future: asyncio.Future[None]) -> None:
    await future
