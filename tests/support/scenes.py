"""Sites of every manner behind one image encoder, over the windows of a 16:9 frame."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import anyio
import numpy as np

from runtime.encoder import ImageEncoder, LocalWindows
from runtime.frames.canvas import Canvas
from runtime.frames.kept import Kept
from runtime.keeper import KeepOptions, keeping
from runtime.sites.areas import Areas
from runtime.sites.client import REQUEST_BYTES, OnSent, SiteClient
from runtime.sites.config import SiteConfig
from runtime.sites.health import Site
from runtime.sites.ledger import ExposureLedger
from runtime.sites.reuse import Reuse
from runtime.sites.start import LOSE, NO_STAGE
from runtime.sites.windows import OnAnswer, SiteWindows, open_sites
from stages.bundle import Bundle
from stages.engines.thread import EngineThread
from stages.tensors import Array
from tests.support.edge import PATIENT, QUICK, SOON, Impostor, canvas_of, config, ledger_for, window_stamp

NOTHING_KEPT = KeepOptions()
NO_ENGINES = EngineThread({})  # of an encoder whose global stage is not run


class LocalStamps(LocalWindows):
    """The edge's window engine, without an engine: stamps windows as an Impostor does, and notes them."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.windows: list[int] = []

    async def embed(self, window: int, inputs: Mapping[str, Array], order: int = 0) -> Array:
        self.windows.append(window)
        return window_stamp(self.bundle, window)


@dataclass
class Notes:
    """Messages about the sites, and a way to wait for one."""

    lines: list[str] = field(default_factory=list)
    news: anyio.Event = field(default_factory=anyio.Event)

    def add(self, text: str) -> None:
        self.lines.append(text)
        self.news.set()
        self.news = anyio.Event()

    async def wait_for(self, words: str) -> None:
        with anyio.fail_after(20):
            while not any(words in line for line in self.lines):
                await self.news.wait()


@dataclass(frozen=True)
class KeepingCanvas(Canvas):
    """A frame that keeps windows, whatever it shows."""

    kept: frozenset[int] = frozenset()


async def embeddings_of(encoder: ImageEncoder, canvas: Canvas, kept: frozenset[int] = frozenset()) -> Array:
    """Those of all windows, [windows, w, w, D]; in a scene the frame keeps these too."""
    values = {field.name: getattr(canvas, field.name) for field in fields(canvas)}
    encoding = encoder.start(KeepingCanvas(**values, kept=kept) if kept else canvas)
    await encoding.collect()
    return encoding.embeddings


@dataclass
class Scene:
    """Impostors by name behind one encoder."""

    bundle: Bundle
    impostors: dict[str, Impostor]
    encoder: ImageEncoder
    windows: SiteWindows
    ledger: ExposureLedger
    notes: Notes

    async def frame(self) -> None:
        """Embed a frame and hold every window against what it must be."""
        canvas = canvas_of("16:9", self.bundle.geometry)
        for window, embedding in enumerate(await embeddings_of(self.encoder, canvas)):
            if window in canvas.windows:
                assert np.array_equal(embedding, window_stamp(self.bundle, window)), window
            else:
                assert np.array_equal(embedding, self.bundle.padding_embeddings()[window])

    def sent(self, *names: str) -> set[int]:
        return {window for name in names for window in self.impostors[name].tiles}

    def own(self, name: str) -> set[int]:
        """Windows whose home is the operator of this name."""
        home = self.windows.placement.home
        return {window for window, operator in home.items() if operator == f"operator-{name}"}

    def site(self, name: str) -> Site:
        return {site.name: site for site in self.windows.sites}[name]

    @property
    def clients(self) -> list[SiteClient]:
        return [site.client for site in self.windows.sites]


@asynccontextmanager
async def scene(
    bundle: Bundle,
    impostors: dict[str, Impostor],
    cap: int = 5,
    local: LocalWindows | None = None,
    reconnect_s: Sequence[float] = SOON,
    spares: str = "",
    same_operator: str = "",
    hasty: str = "",
    ledger: Path | None = None,
    hedge_factor: float | None = None,
    on_answer: OnAnswer | None = None,
    reuse: Reuse | None = None,
    ledger_kind: type[ExposureLedger] = ExposureLedger,
    request_bytes: int = REQUEST_BYTES,
    keep: KeepOptions = NOTHING_KEPT,
    lose: bool = False,
    areas: Areas | None = None,
    on_sent: OnSent | None = None,
) -> AsyncIterator[Scene]:
    """Sites named in `spares` are spares, in `same_operator` share an operator, in `hasty` are soon late.

    Windows share requests of up to `request_bytes`, at sites that take several. `lose` has `local` compute
    kept windows only.
    """
    async with AsyncExitStack() as stack:
        configs: list[SiteConfig] = []
        for name, impostor in impostors.items():
            url = await stack.enter_async_context(impostor.running())
            operator = "operator-both" if name in same_operator else ""
            configs.append(config(name, url, operator, spare=name in spares))
        notes = Notes()
        book = stack.enter_context(ledger_for(configs, cap, ledger, ledger_kind))
        clients = [
            SiteClient(
                c, bundle, "fp16", QUICK if c.name in hasty else PATIENT, request_bytes, on_sent=on_sent
            )
            for c in configs
        ]
        canvas = canvas_of("16:9", bundle.geometry)
        fallback = local is not None and not lose
        async with open_sites(
            bundle,
            clients,
            book,
            set(canvas.windows) - keep.boxes.of(canvas),
            notes.add,
            window_engine=fallback,
            reconnect_s=reconnect_s,
            hedge_factor=hedge_factor,
            on_answer=on_answer,
            no_fallback=LOSE if lose else NO_STAGE,
            areas=areas,
        ) as windows:
            keeper = await stack.enter_async_context(keeping(keep, book))

            async def keep_these(canvas: Canvas, number: int) -> Kept:
                found = await keeper(canvas, number)
                alone = canvas.kept if isinstance(canvas, KeepingCanvas) else frozenset()
                return replace(found, windows=found.windows | alone)

            encoder = ImageEncoder(
                bundle, NO_ENGINES, windows, local, reuse, keep=keep_these, fallback=not lose
            )
            yield Scene(bundle, impostors, encoder, windows, book, notes)


def honest(bundle: Bundle, names: str) -> dict[str, Impostor]:
    return {name: Impostor(bundle) for name in names}
