"""The proxy counts what is in the requests, and each distortion is what its name says."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import numpy as np
import pytest

from benchmarks.chaos.distortions import distort
from benchmarks.chaos.faults import ANSWERS, LIES, Fault
from benchmarks.chaos.film import FRAMES, SHAPES, Film, Pixels, make_film, windows_of
from benchmarks.chaos.messages import HEADER_LENGTH, Message, answer, read_message
from benchmarks.chaos.proxy import SiteProxy, Traffic
from media.pictures import read_picture
from stages import wire
from stages.bundle import Bundle, shipped_bundle
from stages.errors import WireError
from stages.geometry import GEOMETRIES
from stages.tile_inputs import blank_canvas

pytestmark = pytest.mark.anyio

LATER = 1 << 20
GEOMETRY = GEOMETRIES["mini"]
CODE = Bundle.load(shipped_bundle()).tiles


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Film:
    return make_film(0, tmp_path_factory.mktemp("film"))


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return Bundle.load(shipped_bundle())


def frame_of(film: Film, frame: int = 0) -> Pixels:
    return read_picture(film.folder / f"{frame:03}.png")


def tile_of(pixels: Pixels, window: int) -> Pixels:
    """uint8 [1, K]: what the edge sends of a window of a frame."""
    rows, cols = pixels.shape[:2]
    canvas = blank_canvas(GEOMETRY)
    canvas[:rows, :cols] = pixels
    return CODE.encode(canvas, GEOMETRY.extents(rows, cols)[[window]], [window], GEOMETRY)


def request(tile: Pixels, window: int) -> wire.Message:
    index = np.array([[window]], np.int32)
    return wire.encode_request({"tile": tile, "index": index, "extent": index.repeat(4, 1)}, ("embedding",))


def good_answer(shipped: Bundle) -> Message:
    """A window's embedding, as a site answers it."""
    shape = (1, *shipped.embedding_shape)
    embedding = np.linspace(-2, 2, math.prod(shape), dtype=np.float16).reshape(shape)
    made = wire.encode_response({"embedding": embedding}, {"embedding": True})
    return answer(
        b"200 OK", made.body, **{HEADER_LENGTH.decode().replace("-", "_"): str(made.header_length).encode()}
    )


@asynccontextmanager
async def proxied(
    traffic: Traffic, good: Message, *faults: Fault, further: bytes = b""
) -> AsyncIterator[str]:
    """The proxy of site a, in front of a site that answers everything with `good`.

    With `further` it answers so every request of a connection after the first.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message = good
        while await read_message(reader) is not None:
            writer.write(message.encode())
            message = answer(b"200 OK", further) if further else good
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    proxy = SiteProxy("a", "alpha", traffic, lambda: port, faults, seed=0)
    async with proxy.running():
        yield f"http://127.0.0.1:{proxy.port}/v2/models/window/infer"
    server.close()


async def send(url: str, *messages: wire.Message) -> list[bytes]:
    """Each message's answer, over one connection."""
    async with aiohttp.ClientSession() as http:
        answers = []
        for message in messages:
            async with http.post(url, data=message.body, headers=message.headers) as found:
                answers.append(await found.read())
        return answers


async def test_windows_are_counted_by_what_tiles_show(film: Film, shipped: Bundle) -> None:
    probe = shipped.probe().inputs["tile"]
    half_changed = frame_of(film)
    half_changed[160:240, 200:240] ^= 255
    changed = tile_of(half_changed, 12)
    traffic = Traffic(film)
    async with proxied(traffic, good_answer(shipped)) as url:
        await send(url, request(tile_of(frame_of(film), 3), 3), request(tile_of(frame_of(film, 5), 14), 14))
        assert traffic.windows == {(0, "alpha"): {3, 14}}
        await send(url, request(probe[:1], 7))
        assert traffic.windows == {(0, "alpha"): {3, 14}}
        traffic.edge = 1
        await send(url, request(tile_of(frame_of(film), 4), 9), request(changed, 12))
    assert traffic.windows == {(0, "alpha"): {3, 14}, (1, "alpha"): {4, 12}}
    assert (traffic.misnamed, traffic.changed, traffic.tiles["a"]) == (1, {12}, 4)


def test_synthetic_tiles_resemble_no_film(film: Film) -> None:
    """Black ones neither, though a tile of the film may be half padding."""
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    for tile in (noise, *(np.full((80, 80, 3), level, np.uint8) for level in (0, 99, 255))):
        assert not film.resembles(tile_of(tile, 0)[0])


async def test_a_fault_begins_and_ends_by_the_tiles(film: Film, shipped: Bundle) -> None:
    traffic = Traffic(film)
    good = good_answer(shipped)
    async with proxied(traffic, good, Fault("busy", "a", 1, 2, 0.0)) as url:
        answers = await send(url, *[request(tile_of(frame_of(film), 3), 3)] * 4)
    assert [found == good.body for found in answers] == [True, False, False, True]
    assert traffic.done == {"busy": 2}


@pytest.mark.parametrize("after", [0, 1])
async def test_another_tile_is_the_answer_to_an_earlier_one(film: Film, shipped: Bundle, after: int) -> None:
    """Of a site that lies from its first tile on, that tile has the only honest answer."""
    traffic = Traffic(film)
    good = good_answer(shipped)
    fault = Fault("another_tile", "a", after, LATER, 0.0)
    async with proxied(traffic, good, fault, further=b"its own") as url:
        answers = await send(url, *(request(tile_of(frame_of(film), window), window) for window in (3, 4, 5)))
    assert answers == [good.body] * 3


@pytest.mark.parametrize("kind", ["stall", "cut_request", "cut_answer"])
async def test_connections_that_end_or_hang(film: Film, shipped: Bundle, kind: str) -> None:
    traffic = Traffic(film)
    async with proxied(traffic, good_answer(shipped), Fault(kind, "a", 0, LATER, 0.5)) as url:
        if kind == "stall":
            with anyio.move_on_after(0.5) as hanging:
                await send(url, request(tile_of(frame_of(film), 3), 3))
            assert hanging.cancelled_caught
        else:
            with pytest.raises(aiohttp.ClientError):
                await send(url, request(tile_of(frame_of(film), 3), 3))
    assert traffic.windows == {(0, "alpha"): {3}}  # it was sent, whatever became of it


@pytest.mark.parametrize("value", [0.0, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("kind", ["nan", "shape", "dtype", "json"])
async def test_answers_that_are_none(shipped: Bundle, kind: str, value: float) -> None:
    bad = distort(Fault(kind, "a", 0, 1, value), good_answer(shipped), np.random.default_rng(0))
    length = bad.header(HEADER_LENGTH)
    specs = [spec for spec in shipped.stage("window").outputs if spec.name == "embedding"]
    try:
        outputs = wire.decode_response(bad.body, length.decode() if length else None, specs, 1)
    except WireError:
        return
    assert kind == "nan"
    assert not np.isfinite(outputs["embedding"]).any()


@pytest.mark.parametrize("kind", ["zeros", "noise", "other_weights"])
async def test_answers_that_look_right(shipped: Bundle, kind: str) -> None:
    good = good_answer(shipped)
    bad = distort(Fault(kind, "a", 0, 1, 0.5), good, np.random.default_rng(0))
    specs = [spec for spec in shipped.stage("window").outputs if spec.name == "embedding"]
    right, wrong = (
        wire.decode_response(each.body, (each.header(HEADER_LENGTH) or b"").decode(), specs, 1)["embedding"]
        for each in (good, bad)
    )
    distance = np.sqrt(
        np.mean((wrong - right).astype(np.float64) ** 2) / np.mean(right.astype(np.float64) ** 2)
    )
    assert distance == pytest.approx({"zeros": 1.0, "noise": 0.01, "other_weights": 2.5}[kind], rel=0.1)


async def test_every_kind_of_answer_is_done_somewhere(shipped: Bundle) -> None:
    by_the_proxy = {"stall", "cut_request", "cut_answer", "drip", "other_digest", "another_tile"}
    for kind in {*ANSWERS, *LIES} - by_the_proxy:
        good = good_answer(shipped)
        for value in np.linspace(0, 0.999, 10):
            changed = distort(Fault(kind, "a", 0, 1, float(value)), good, np.random.default_rng(0))
            assert changed.encode() != good.encode()


def test_films_fill_their_windows(tmp_path: Path) -> None:
    for number in range(len(SHAPES)):
        film = make_film(number, tmp_path / str(number))
        last = frame_of(film, FRAMES - 1)
        for window in windows_of(SHAPES[number]):
            assert film.shown(tile_of(last, window)[0], window) == window
