"""Bytes to a site and back: counted as a wire in between counts them, and known before anything is sent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from runtime.frames.canvas import make_canvas
from runtime.sites.client import REQUEST_BYTES, WIRE_OUTPUTS, SiteClient
from runtime.sites.traffic import Traffic, gigabytes_an_hour, message_bytes, most_windows
from server.serve import ServeOptions, running_site
from stages.bundle import Bundle, Stage
from stages.tensors import Array, TensorSpec
from tests.support.edge import PATIENT, QUICK, Impostor, config, flood, grant_for, hang_up, sendable, stall

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked_loop")]
SITE = ServeOptions(port=0, threads=1)
WINDOWS = (0, 7, 12)


class Wire:
    """A way to a site that counts the bytes it carries."""

    def __init__(self) -> None:
        self.up = 0
        self.down = 0

    @asynccontextmanager
    async def to(self, url: str) -> AsyncIterator[str]:
        port = int(url.rpartition(":")[2])

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(1 << 16):
                    setattr(self, way, getattr(self, way) + len(data))
                    writer.write(data)
            writer.close()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(carry(reader, there[1], "up"), carry(there[0], writer, "down"))

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    @property
    def carried(self) -> tuple[int, int]:
        return self.up, self.down


def black() -> npt.NDArray[np.uint8]:
    return np.zeros((360, 640, 3), np.uint8)


def noise() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (360, 640, 3), np.uint8)


def tiles(bundle: Bundle, picture: npt.NDArray[np.uint8], windows: tuple[int, ...]) -> dict[str, Array]:
    return make_canvas(picture, bundle.geometry).window_inputs(windows, bundle)


@asynccontextmanager
async def site_over(wire: Wire, bundle: Bundle, wire_format: str) -> AsyncIterator[SiteClient]:
    async with (
        running_site(bundle, SITE) as running,
        wire.to(running.url) as url,
        SiteClient(config("a", url), bundle, wire_format, PATIENT) as client,
    ):
        await client.connect(bundle.probe())
        yield client


async def test_what_is_counted_is_what_a_wire_carries(mini_bundle: Bundle) -> None:
    """To the byte, of questions, probes, noise and tiles; bodies are those that were predicted."""
    wire = Wire()
    async with site_over(wire, mini_bundle, "fp16") as client:
        await client.ping()
        await client.send_noise(10_000)
        before = client.traffic + Traffic()
        grants = [grant_for(client.config, window) for window in WINDOWS]
        await client.infer(grants, sendable(tiles(mini_bundle, noise(), WINDOWS)))
        now = client.traffic - before
    size = message_bytes(mini_bundle.stage("window"), WIRE_OUTPUTS["fp16"], len(WINDOWS))
    assert (now.body_up, now.body_down, now.requests) == (size.up, size.down, 1)
    assert 100 < now.head_down < now.head_up < 500
    assert (client.traffic.up, client.traffic.down) == wire.carried


@pytest.mark.parametrize("windows", [WINDOWS[:1], WINDOWS])
@pytest.mark.parametrize("wire_format", ["fp16", "int8"])
async def test_no_length_tells_what_a_window_shows(
    mini_bundle: Bundle, wire_format: str, windows: tuple[int, ...]
) -> None:
    wire = Wire()
    async with site_over(wire, mini_bundle, wire_format) as client:
        lengths = []
        for picture in (black(), noise(), 255 - black()):
            before = wire.carried
            grants = [grant_for(client.config, window) for window in windows]
            await client.infer(grants, sendable(tiles(mini_bundle, picture, windows)))
            lengths.append((wire.up - before[0], wire.down - before[1]))
    assert lengths[0][0] > mini_bundle.geometry.tile_px**2 * 3 * len(windows)
    assert lengths == lengths[:1] * 3


@pytest.mark.parametrize("failure", [hang_up, flood, stall])
async def test_a_request_that_fails_counts_as_far_as_it_came(mini_bundle: Bundle, failure: object) -> None:
    site = Impostor(mini_bundle, failure)  # type: ignore[arg-type]
    async with site.running() as url, SiteClient(config("a", url), mini_bundle, "fp16", QUICK) as client:
        with pytest.raises(Exception, match="site a"):
            await client.infer([grant_for(client.config, 7)], sendable(tiles(mini_bundle, noise(), (7,))))
    size = message_bytes(mini_bundle.stage("window"), WIRE_OUTPUTS["fp16"])
    assert client.traffic.body_up == size.up
    assert (client.traffic.down > 1000) == (failure is not stall)


def open_sockets(port: int) -> Iterator[tuple[bool, int]]:
    """TCP_NODELAY of every connection of this process to or from a port of its own, and its number."""
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as each:
            if each.family == socket.AF_INET and port in (each.getpeername()[1], each.getsockname()[1]):
                yield bool(each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)), number


async def test_connections_are_kept_and_hold_nothing_back(mini_bundle: Bundle) -> None:
    """Both ends of them: the client's and the server's, which are in this process."""
    async with running_site(mini_bundle, SITE) as running:
        port = int(running.url.rpartition(":")[2])
        async with SiteClient(config("a", running.url), mini_bundle, "fp16", PATIENT) as client:
            await client.check_probe(mini_bundle.probe())
            first = list(open_sockets(port))
            await client.check_probe(mini_bundle.probe())
            assert list(open_sockets(port)) == first
    assert [nodelay for nodelay, _ in first] == [True, True]


def coded(stage: Stage, tile_bytes: int) -> Stage:
    """The window stage with tiles of so many bytes."""
    inputs = (TensorSpec("tile", "uint8", ("n", tile_bytes)), *stage.inputs[1:])
    return replace(stage, inputs=inputs)


async def test_windows_share_a_request_as_far_as_they_travel_at_once(mini_bundle: Bundle) -> None:
    stage = mini_bundle.stage("window")
    assert most_windows(stage, WIRE_OUTPUTS["fp16"], REQUEST_BYTES) == 1  # 19,200 bytes
    small = coded(stage, 100)
    answer = (
        message_bytes(small, WIRE_OUTPUTS["int8"], 2).down - message_bytes(small, WIRE_OUTPUTS["int8"]).down
    )
    assert most_windows(small, WIRE_OUTPUTS["int8"], REQUEST_BYTES) == REQUEST_BYTES // answer == 2
    assert most_windows(coded(stage, 1150), ("scale",), REQUEST_BYTES) == 11


async def test_what_an_hour_takes() -> None:
    assert gigabytes_an_hour(1e9, 1800) == 2.0
    assert gigabytes_an_hour(1e9, 0) == 0.0
