"""Sites played in this process, and a record of every tile that leaves for them.

Placement, ledger, requests, retries and hedges are the product's own; only the answers are not. What leaves
does not depend on what comes back, so a played site answers zeros and no model runs. Some requests fail or
are late, drawn with a seed, so that what happens then is in the record too. No connection is ever opened.
"""

from __future__ import annotations

import contextlib
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from runtime.encoder import FrameLost, ImageEncoder, LocalWindows
from runtime.frames.canvas import Canvas
from runtime.keeper import KeepOptions, keeping
from runtime.results.measurements import WindowStatistics
from runtime.sites.areas import Areas
from runtime.sites.assignment import default_cap
from runtime.sites.client import OnSent, SiteClient, choose_wire
from runtime.sites.config import SiteConfig, operator_caps
from runtime.sites.ledger import ExposureLedger, Grant
from runtime.sites.reuse import Reuse
from runtime.sites.windows import open_sites
from stages.bundle import Bundle, Probe, Stage
from stages.engines.thread import EngineThread
from stages.errors import PedsamError, SiteUnavailable, ungrouped
from stages.geometry import Geometry
from stages.tensors import Array, TensorSpec
from stages.tile_code import RGB, TileCode

TILE_S = 0.001  # that a played site says a tile takes
LATE_S = 0.3  # until a late answer comes: long enough for a second site to be asked
LONGEST_OUTAGE = 3  # frames
RECONNECT_S = (0.005,)
KEEP_NOTHING = KeepOptions()

# What each operator has of a frame: operator -> window -> the tile as it travels, uint8 [K].
Received = Mapping[str, Mapping[int, Array]]


class PlayedBundle(Bundle):
    """What the edge has to know of a model to send its tiles: geometry and code. No file belongs to it."""

    @classmethod
    def of(cls, geometry: Geometry, tiles: TileCode = RGB, components: int | None = None) -> PlayedBundle:
        """Raises InputError where the code does not fit the geometry."""
        components = components or geometry.dim
        shape = ("n", *geometry.embedding_shape(components))
        window = Stage(
            "window",
            "window/model.onnx",
            {},
            inputs=(
                TensorSpec("tile", "uint8", ("n", tiles.tile_bytes(geometry))),
                TensorSpec("index", "int32", ("n", 1)),
                TensorSpec("extent", "int32", ("n", 4)),
            ),
            outputs=(
                TensorSpec("embedding", "float16", shape),
                TensorSpec("embedding_q8", "int8", shape),
                TensorSpec("scale", "float16", (*shape[:-1], 1)),
            ),
            precision="fp32",
        )
        return cls(
            path=Path(geometry.name),
            geometry=geometry,
            pixel_mean=(),
            pixel_std=(),
            weights="untrained",
            trained_on="",
            embedding_dtype="float16",
            head_blocks=0,
            stages={"window": window},
            edge_files={},
            probe_tolerance={},
            components=components,
            tiles=tiles,
        )

    def padding_embeddings(self) -> Array:
        return self.answer(self.geometry.windows)

    def probe(self) -> Probe:
        return Probe({}, self.answer(1), {})

    def answer(self, windows: int) -> Array:
        """What a played site answers: zeros [n, w, w, r]."""
        return np.zeros((windows, *self.embedding_shape), self.embedding_dtype)


class Fates:
    """What becomes of each request: answered, late or failed; drawn with a seed.

    `failures` is the share of requests, 0 to 1, half of which are late. A site that fails one is down for the
    rest of the frame and up to LONGEST_OUTAGE frames more. `frame` is to be counted up by whoever shows them.
    """

    def __init__(self, failures: float, seed: int) -> None:
        self.frame = 0
        self.failed = self.late = 0
        self._failures = failures
        self._draw = random.Random(seed)  # noqa: S311  (no secret)
        self._down_until: dict[str, int] = {}

    def check_up(self, site: str) -> None:
        """Raise SiteUnavailable while a site is down."""
        if self.frame < self._down_until.get(site, 0):
            raise SiteUnavailable(site, "is played as one that fails")

    async def meet(self, site: str) -> None:
        """Let a request have its fate. Raises SiteUnavailable."""
        self.check_up(site)
        drawn = self._draw.random()
        if drawn < self._failures / 2:
            self.failed += 1
            self._down_until[site] = self.frame + self._draw.randint(1, LONGEST_OUTAGE)
            self.check_up(site)
        elif drawn < self._failures:
            self.late += 1
        await anyio.sleep(LATE_S if self._failures / 2 <= drawn < self._failures else 0)


class PlayedSite(SiteClient):
    """A site that is played: everything up to the connection is the product's, and there is none."""

    def __init__(self, config: SiteConfig, bundle: PlayedBundle, fates: Fates, on_sent: OnSent) -> None:
        super().__init__(config, bundle, choose_wire(bundle, None), on_sent=on_sent)
        self._played = bundle
        self._fates = fates

    async def __aenter__(self) -> PlayedSite:
        return self

    async def connect(self, probe: Probe) -> None:
        self._fates.check_up(self.name)
        self.max_batch = self._played.geometry.windows
        self.tile_s = TILE_S

    async def _post(self, inputs: Mapping[str, Array], timeout_s: float) -> Array:
        await self._fates.meet(self.name)
        return self._played.answer(len(inputs["index"]))


class PlayedEdge(LocalWindows):
    """The edge's own window engine, played too."""

    def __init__(self, bundle: PlayedBundle) -> None:
        self._answer: Array = bundle.answer(1)[0]

    @property
    def mean_s(self) -> float:
        return TILE_S

    async def embed(self, window: int, inputs: Mapping[str, Array], order: int = 0) -> Array:
        return self._answer


@dataclass
class Record:
    """What has left: tiles of the frame that is shown now, and positions since the start, by operator."""

    requests: int = 0
    frame: defaultdict[str, dict[int, Array]] = field(default_factory=lambda: defaultdict(dict))
    positions: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    def note(self, grants: Sequence[Grant], inputs: Mapping[str, Array]) -> None:
        """An OnSent."""
        self.requests += 1
        for grant, tile in zip(grants, inputs["tile"], strict=True):
            self.frame[grant.operator][grant.window] = tile.copy()
            self.positions[grant.operator].add(grant.window)


class Session:
    """Frames of one shape on their way to played sites; made by `open_session`."""

    def __init__(
        self,
        encoder: ImageEncoder,
        operators: tuple[str, ...],
        windows: frozenset[int],
        record: Record,
        fates: Fates,
    ) -> None:
        self.operators = operators
        self.windows = windows
        self.record = record
        self.fates = fates
        self._encoder = encoder
        self._held: dict[str, dict[int, Array]] = {operator: {} for operator in operators}

    @property
    def statistics(self) -> WindowStatistics:
        return self._encoder.statistics

    def positions_share(self, coalition: int) -> float:
        """The largest share of the windows with picture that so many operators were sent together so far."""
        seen = (
            frozenset().union(*(self.record.positions[operator] for operator in each))
            for each in combinations(self.operators, coalition)
        )
        return max(map(len, seen)) / max(1, len(self.windows))

    async def show(self, canvas: Canvas) -> Received:
        """Send a frame as a run does; what each operator has of it then. Raises PedsamError where it is lost.

        A window that has not changed is not sent again: who got it before has it still.
        """
        self.record.frame = defaultdict(dict)
        self.fates.frame += 1
        try:
            await self._encoder.start(canvas, self.fates.frame).collect()
        except FrameLost as exc:
            raise PedsamError(f"a picture cannot be audited: {exc}") from exc
        sent = {operator: self.record.frame.get(operator, {}) for operator in self.operators}
        again = self._unchanged(canvas, sent)
        for operator, tiles in sent.items():
            self._held[operator].update(tiles)
        return {operator: {**again[operator], **tiles} for operator, tiles in sent.items()}

    def _unchanged(self, canvas: Canvas, sent: Received) -> Received:
        """What operators have of the windows that nobody was sent: tiles of earlier frames that are equal."""
        anybody = {window for tiles in sent.values() for window in tiles}
        left = [window for window in canvas.windows if window not in anybody]
        tiles = self._encoder.bundle.tiles
        coded = tiles.encode(canvas.pixels, canvas.extents[left], left, canvas.geometry)
        return {
            operator: {
                window: tile
                for window, tile in zip(left, coded, strict=True)
                if window in held and np.array_equal(held[window], tile)
            }
            for operator, held in self._held.items()
        }


@contextlib.asynccontextmanager
async def open_session(
    bundle: PlayedBundle,
    sites: Sequence[SiteConfig],
    size: tuple[int, int],
    *,
    failures: float = 0.0,
    seed: int = 0,
    keep: KeepOptions = KEEP_NOTHING,
) -> AsyncIterator[Session]:
    """A session for frames of this (height, width): the placement and the ledger of a run that begins with
    them. Of `sites` names, operators, caps and spares count; what `keep` names never leaves."""
    kept = keep.boxes.windows(bundle.geometry, *size)
    areas = Areas.of(bundle.geometry, [size], kept)
    operators = {site.name: site.operator for site in sites}
    regular = {site.operator for site in sites if not site.spare}
    caps = operator_caps(sites, default_cap(len(areas.windows), len(regular)))
    record, fates = Record(), Fates(failures, seed)
    clients = [PlayedSite(site, bundle, fates, record.note) for site in sites]
    with ungrouped(), ExposureLedger.open(None, operators, caps) as ledger:
        ledger.keep(kept)
        async with (
            keeping(keep, ledger) as keeper,
            open_sites(
                bundle,
                clients,
                ledger,
                areas.windows,
                _ignore,
                window_engine=True,
                reconnect_s=RECONNECT_S,
                areas=areas,
            ) as windows,
        ):
            encoder = ImageEncoder(
                bundle, EngineThread({}), windows, PlayedEdge(bundle), Reuse(0.0), keep=keeper
            )
            yield Session(
                encoder, tuple(sorted(set(operators.values()))), areas.windows | kept, record, fates
            )


def _ignore(*_: Any) -> None:
    """Nobody has to be told that a played site fails."""


def made_up_sites(operators: int) -> tuple[SiteConfig, ...]:
    """Sites of so many operators, one each, with the default caps."""
    names = [f"operator-{number:02}" for number in range(1, operators + 1)]
    return tuple(SiteConfig(name, name, f"played://{name}") for name in names)
