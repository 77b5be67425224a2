"""What sites of several operators can tell from what they are sent: by every byte of every request of a run
in which sites fail, nothing says that they work for one edge, which frame a tile is of, or how many there
were.

What this cannot show: the address that all connections come from, when requests come, and what is on the
tiles: those of one scene, and a tile that a second operator got because the first one failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web

from runtime.edge import Edge, EdgeOptions, open_edge
from runtime.sites.client import SiteClient
from runtime.sites.ledger import Grant
from server.serve import ServeOptions, running_site
from stages import wire
from stages.bundle import Bundle
from stages.tensors import Array
from tests.support.edge import PATIENT, canvas_of
from tests.support.keys import keys_for, site_at
from tests.support.tls import answering

pytestmark = pytest.mark.anyio

SITES = {"a1": "alpha", "a2": "alpha", "b": "beta", "c": "gamma", "s": "spare"}
# Values of headers that sites of different operators may both see, and why they tell nothing of an edge.
SAME_FOR_ALL = {
    "accept": "*/*, what the HTTP library sends",
    "accept-encoding": "identity, from every edge",
    "user-agent": "versions of Python and of the HTTP library: those of a release, not of an edge",
    "content-type": "of binary tensors",
    "content-length": "follows from the number of windows",
    "inference-header-content-length": "follows from the number of windows",
    "if-match": "the digest of the weights, which every edge with this bundle names",
}
EXTENTS = 20  # bytes of index and extent, which follow the tile
OWN = {"host": "the site's address", "authorization": "the site's token"}


@dataclass(frozen=True)
class Sent:
    """A request as it was on the wire; `windows` are those it is about."""

    first: bytes
    headers: Mapping[str, str]
    body: bytes
    windows: tuple[int, ...] = ()

    @property
    def head(self) -> bytes:
        """The JSON before the tensors."""
        return self.body[: int(self.headers[wire.HEADER_LENGTH.lower()])]


@dataclass
class Recorder:
    """A way to a site that notes what each connection carried there, and cuts the next one that carries
    anything once it is told to `cut`."""

    connections: list[bytearray] = field(default_factory=list)
    cut: bool = False

    @asynccontextmanager
    async def to(self, url: str) -> AsyncIterator[str]:
        port = int(url.rpartition(":")[2])

        async def there(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            carried = bytearray()
            self.connections.append(carried)
            while data := await reader.read(1 << 16):
                carried += data
                if self.cut:
                    self.cut = False
                    break
                writer.write(data)
            writer.close()

        async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(1 << 16):
                writer.write(data)
            writer.close()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            site_reader, site_writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError):
                await asyncio.gather(there(reader, site_writer), back(site_reader, writer))

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def requests(self, bundle: Bundle) -> Iterator[Sent]:
        for carried in self.connections:
            yield from requests_in(bytes(carried), bundle)


def requests_in(carried: bytes, bundle: Bundle) -> Iterator[Sent]:
    """Those of a connection that came to their end."""
    stage = bundle.stage("window")
    while b"\r\n\r\n" in carried:
        top, _, carried = carried.partition(b"\r\n\r\n")
        first, *lines = top.split(b"\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.decode("latin-1").partition(":") for line in lines)
        }
        length = int(headers.get("content-length", 0))
        body, carried = carried[:length], carried[length:]
        if len(body) < length:
            return
        windows: tuple[int, ...] = ()
        if body:
            header_length = headers[wire.HEADER_LENGTH.lower()]
            decoded = wire.decode_request(body, header_length, stage.inputs, stage.outputs, 25)
            windows = tuple(decoded.inputs["index"][:, 0].tolist())
        yield Sent(first, headers, body, windows)


@dataclass
class Seen:
    """A run's recorders by site, and the site, windows and body of every request with tiles, as they left."""

    bundle: Bundle
    recorders: dict[str, Recorder]
    left: list[tuple[str, tuple[int, ...], bytes]] = field(default_factory=list)

    def on_sent(self, grants: Sequence[Grant], inputs: Mapping[str, Array]) -> None:
        body = wire.encode_request(inputs, ["embedding"]).body
        self.left.append((grants[0].site, tuple(grant.window for grant in grants), body))

    def by_operator(self) -> dict[str, list[Sent]]:
        found: dict[str, list[Sent]] = {}
        for name, recorder in self.recorders.items():
            found.setdefault(SITES[name], []).extend(recorder.requests(self.bundle))
        return found


@asynccontextmanager
async def edge_at(bundle: Bundle, folder: Path) -> AsyncIterator[tuple[Edge, Seen]]:
    """An edge with real sites behind recorders."""
    seen = Seen(bundle, {name: Recorder() for name in SITES})
    tables = []
    async with AsyncExitStack() as stack:
        for name, recorder in seen.recorders.items():
            site = await stack.enter_async_context(running_site(bundle, ServeOptions(port=0, threads=1)))
            url = await stack.enter_async_context(recorder.to(site.url))
            (folder / f"{name}.token").write_text(f"token-of-{name}-" * 4)
            (folder / f"{name}.token").chmod(0o600)
            tables.append(
                f'[[site]]\nname = "{name}"\noperator = "{SITES[name]}"\nurl = "{url}"\n'
                f'token_file = "{name}.token"\nspare = {str(name == "s").lower()}\n'
            )
        (folder / "sites.toml").write_text("\n".join(tables))
        options = EdgeOptions(keep_objects=True, sites=folder / "sites.toml", threads=1)
        yield (
            await stack.enter_async_context(
                open_edge(bundle, [(360, 640)], options, lambda text: None, on_sent=seen.on_sent)
            ),
            seen,
        )


async def test_no_byte_that_sites_get_is_of_the_edge_or_of_the_frame(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    canvas = canvas_of("16:9", mini_bundle.geometry)
    async with edge_at(mini_bundle, tmp_path) as (edge, seen):
        for number, cut in enumerate(["", "", "b", "a1", "", "c"]):
            if cut:
                seen.recorders[cut].cut = True
            moved = np.roll(canvas.pixels, 5 * number, axis=1)  # another picture in every window
            keep(edge, {number})
            await edge.encoder.start(replace(canvas, pixels=moved), number).collect()
        exposed = edge.ledger.exposed()
        counts = edge.encoder.statistics
        assert counts.redispatched + counts.hedged + counts.local_windows >= 1
    requests = seen.by_operator()
    assert all(len(sent) > 20 for operator, sent in requests.items() if operator != "spare")
    check_headers(requests)
    check_bodies(requests, seen)
    check_shared(requests, exposed, mini_bundle)


def keep(edge: Edge, windows: Iterable[int]) -> frozenset[int]:
    """Keep these windows in frames from now on."""
    kept = frozenset(windows)
    edge.keeper.of_objects = lambda canvas, number: lambda: kept
    return kept


def check_headers(requests: Mapping[str, Sequence[Sent]]) -> None:
    """Nothing but what is listed, and for one number of windows always the same: no counter, no time."""
    values: dict[str, dict[str, set[str]]] = {}
    for operator, sent in requests.items():
        for each in sent:
            assert each.headers.keys() <= SAME_FOR_ALL.keys() | OWN.keys()
            for name, value in each.headers.items():
                values.setdefault(name, {}).setdefault(operator, set()).add(value)
    for name in OWN:
        for one, other in itertools.combinations(values[name].values(), 2):
            assert not one & other, name
    for sent in requests.values():
        tops = {
            (len(each.windows), each.headers["authorization"], each.first, tuple(each.headers.items()))
            for each in sent
            if each.windows
        }
        assert len(tops) == len({top[:2] for top in tops})
    assert {each.first for sent in requests.values() for each in sent} == {
        b"POST /v2/models/window/infer HTTP/1.1",
        b"GET /v2/models/window/config HTTP/1.1",
    }


def check_bodies(requests: Mapping[str, Sequence[Sent]], seen: Seen) -> None:
    """Each is a probe, or tiles that were granted and nothing else. The head before them, and the length,
    follow from the number of windows."""
    left = {body for _, _, body in seen.left}
    heads: dict[int, set[bytes]] = {}
    lengths: dict[int, set[int]] = {}
    synthetic: dict[str, set[bytes]] = {}
    for operator, sent in requests.items():
        for each in sent:
            if each.windows:
                heads.setdefault(len(each.windows), set()).add(each.head)
                lengths.setdefault(len(each.windows), set()).add(len(each.body))
                if each.body not in left:
                    synthetic.setdefault(operator, set()).add(each.body)
    assert {len(found) for found in heads.values()} == {len(found) for found in lengths.values()} == {1}
    for operator, bodies in synthetic.items():  # the bundle's probe, and eight of each site's own
        assert len(bodies) <= 1 + 8 * list(SITES.values()).count(operator)


def check_shared(
    requests: Mapping[str, Sequence[Sent]], exposed: Mapping[str, frozenset[int]], bundle: Bundle
) -> None:
    """Bodies that two operators got: the bundle's probe, synthetic tiles of one colour, and tiles of windows
    that both have seen since one of them failed."""
    bodies = {
        operator: {each.body: each.windows for each in sent if each.windows}
        for operator, sent in requests.items()
    }
    probe = wire.encode_request(bundle.probe().inputs, ["embedding"]).body
    for one, other in itertools.combinations(bodies, 2):
        for body in bodies[one].keys() & bodies[other].keys() - {probe}:
            both = exposed[one] & exposed[other]
            plain = len(set(body[-EXTENTS - bundle.geometry.tile_px**2 * 3 : -EXTENTS])) <= 3
            assert plain or both.issuperset(bodies[one][body]), (one, other)


async def test_tiles_of_a_frame_leave_in_row_major_order(mini_bundle: Bundle, tmp_path: Path) -> None:
    """Whatever they show, and whichever of them are kept or used again. Frames in which a window went to
    another operator than before, which a busy machine can cause, do not count."""
    canvas = canvas_of("16:9", mini_bundle.geometry)
    rng = np.random.default_rng(0)
    async with edge_at(mini_bundle, tmp_path) as (edge, seen):
        steady = 0
        for number in range(12):
            before = edge.ledger.exposed(), edge.encoder.statistics.redispatched
            canvas = replace(canvas, pixels=canvas.pixels.copy())
            side = mini_bundle.geometry.tile_px
            for window in rng.choice(15, 9, replace=False):  # the others are used again
                row, col = divmod(int(window), mini_bundle.geometry.grid)
                canvas.pixels[row * side, col * side] = rng.integers(0, 256, 3)
            seen.left.clear()
            kept = keep(edge, rng.choice(15, 2, replace=False).tolist())
            await edge.encoder.start(canvas, number).collect()
            every = [window for _, windows, _ in seen.left for window in windows]
            order = list(dict.fromkeys(every))  # a busy machine makes tiles late: those are sent again
            assert kept.isdisjoint(order)
            if before == (edge.ledger.exposed(), edge.encoder.statistics.redispatched):
                assert order == sorted(order)
                steady += len(order) > 5
        assert steady > 3


async def test_no_tls_session_is_taken_up_again(mini_bundle: Bundle, tmp_path: Path) -> None:
    """What a server gave for that, in another connection to it, would be an identifier."""
    reused: list[bool] = []

    async def hang_up(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        reused.append(request.transport.get_extra_info("ssl_object").session_reused)
        response = web.Response()
        response.force_close()
        return response

    keys = keys_for(tmp_path)
    async with (
        answering(hang_up, keys) as url,
        SiteClient(site_at(url, keys), mini_bundle, "fp16", PATIENT) as client,
    ):
        for _ in range(3):
            await client.ping()
    assert reused == [False] * 3
