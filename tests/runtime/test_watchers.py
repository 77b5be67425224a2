"""What the command line starts beside a run."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import numpy as np
import pytest
from PIL import Image

from runtime.live.interface import Live
from runtime.live.mjpeg import SNAPSHOT, STREAM
from runtime.objects.prompts import Prompts
from runtime.watchers import mjpeg_watcher, preview_watcher
from stages.bundle import Bundle
from stages.console import make_console
from tests.support.cameras import Camera, scenery
from tests.support.live import FakeLive
from tests.support.live_runs import background_run, run_options
from tests.support.watchers import RunningPreview

pytestmark = pytest.mark.anyio


async def test_the_page_gets_pictures_of_the_width_asked_for(mini_bundle: Bundle) -> None:
    live = FakeLive()
    watcher = preview_watcher(mini_bundle, "127.0.0.1", 0, width=320)
    async with watcher(live) as line, aiohttp.ClientSession() as session:
        viewer = await RunningPreview(live, line.removeprefix("preview: "), session).watch()
        frame = await viewer.frame()
        await viewer.socket.close()
    assert Image.open(io.BytesIO(frame.file)).size == (320, 180)
    assert (frame.header["width"], frame.header["height"]) == (640, 360)  # points are in its pixels


async def test_the_stream_says_that_weights_are_not_meaningful_and_is_as_wide_as_asked_for(
    mini_bundle: Bundle,
) -> None:
    watcher = mjpeg_watcher(mini_bundle, "127.0.0.1", 0, None, 320)
    live = FakeLive()
    async with (
        watcher(live) as line,
        aiohttp.ClientSession() as session,
        session.get(line.split()[-1].replace(STREAM, SNAPSHOT)) as response,
    ):
        shown = Image.open(io.BytesIO(await response.read()))
    assert shown.size == (320, 180)
    assert live.frames.value is not None
    above = np.asarray(shown)[:4].mean() / live.frames.value.frame.pixels[:8].mean()
    assert above < 0.6  # darkened, for the banner of untrained weights


async def test_an_address_stays_on_one_line_however_narrow_the_terminal(mini_bundle: Bundle) -> None:
    address = "http://127.0.0.1:8080/#token=" + "x" * 32

    @asynccontextmanager
    async def watcher(live: Live) -> AsyncIterator[str]:
        yield f"preview: {address}"

    camera, text = Camera(), io.StringIO()
    camera.show(scenery(0))
    console = make_console(file=text, width=30)
    async with background_run(
        mini_bundle, camera.source(), Prompts(()), run_options(None), watcher, console=console
    ):
        camera.unplug()
    assert f"preview: {address}\n" in text.getvalue()
