"""The MJPEG stream as players take it: ffmpeg, a browser, one that reads nothing, one that hangs up."""

from __future__ import annotations

import base64
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anyio
import numpy as np
import pytest
from PIL import Image

from runtime.live.mjpeg import SNAPSHOT, STREAM, MjpegOptions, serve_mjpeg
from runtime.results.result import FrameResult
from runtime.results.sinks import draw_overlay
from stages.errors import InputError
from stages.tensors import Pixels
from tests.support.browser import chromium
from tests.support.keys import keys_for
from tests.support.live import FakeLive

pytestmark = pytest.mark.anyio
DEADLINE_S = 60
FFMPEG = shutil.which("ffmpeg")
ORANGE = (230, 159, 0)  # of the first object


@asynccontextmanager
async def streaming(every_s: float = 0.03, **more: Any) -> AsyncIterator[tuple[FakeLive, str]]:
    """A run with an object, frame after frame, and the address of its stream."""
    live = FakeLive()
    await live.prompt_at(300, 200)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(live.run, every_s)
        async with serve_mjpeg(live, MjpegOptions(**{"port": 0, **more})) as line:
            yield live, line.split()[2].partition("?")[0]
        tasks.cancel_scope.cancel()


async def frames(response: aiohttp.ClientResponse, count: int) -> list[bytes]:
    """The next JPEGs of a stream, read as its header says, not by looking for their ends."""
    found: list[bytes] = []
    data = b""
    while len(found) < count:
        data += await response.content.readany()
        while (
            head := re.search(rb"\r\nContent-Type: image/jpeg\r\nContent-Length: (\d+)\r\n\r\n", data)
        ) and (len(data) >= (end := head.end() + int(head[1]))):
            found.append(data[head.end() : end])
            data = data[end:]
    return found[:count]


def read(jpeg: bytes) -> np.ndarray[Any, Any]:
    with Image.open(BytesIO(jpeg)) as picture:
        return np.asarray(picture)


async def test_each_part_is_the_newest_frame_with_its_masks() -> None:
    async with streaming() as (live, url), aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=pedsam-frame"
        assert response.headers["Cache-Control"] == "no-store"
        first, *_, last = [read(jpeg) for jpeg in await frames(response, 5)]
        assert first.shape == (360, 640, 3)
        assert np.abs(first.astype(int) - last).max() > 30  # the camera moves
        inside, outside = last[195:205, 295:305].mean((0, 1)), last[20:30, 20:30].mean((0, 1))
        newest = live.frames.value
        assert newest is not None
        plain = newest.frame.pixels[20:30, 20:30].mean((0, 1))
        assert np.abs(outside - plain).max() < 25
        assert inside[0] - inside[2] > 60  # orange over it


async def test_a_snapshot_is_one_picture_as_wide_as_asked_for() -> None:
    async with streaming(width=320) as (_, url), aiohttp.ClientSession() as session:
        async with session.get(url.replace(STREAM, SNAPSHOT)) as response:
            assert response.headers["Content-Type"] == "image/jpeg"
            assert read(await response.read()).shape == (180, 320, 3)
        async with session.get(url.replace(STREAM, "/other")) as response:
            assert response.status == 404
        async with session.head(url) as response:
            assert response.status == 200


async def test_frames_are_encoded_once_for_all_and_only_while_somebody_watches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[int] = []

    def counted(result: FrameResult, banner: str | None) -> Pixels:
        drawn.append(result.number)
        return draw_overlay(result, banner)

    monkeypatch.setattr("runtime.live.overlays.draw_overlay", counted)
    async with streaming() as (live, url), aiohttp.ClientSession() as session:
        _, _ = await live.frames.after(live.frames.version + 5)
        assert not drawn
        async with session.get(url) as one, session.get(url) as other:
            await frames(one, 4)
            await frames(other, 4)
        assert len(drawn) == len(set(drawn)) > 0
        with anyio.fail_after(DEADLINE_S):  # they are noticed to be gone, and it stops
            while True:
                before = len(drawn)
                await live.frames.after(live.frames.version + 10)
                if len(drawn) == before:
                    break


@pytest.mark.ffmpeg
async def test_ffmpeg_reads_it(tmp_path: Path) -> None:
    assert FFMPEG, "ffmpeg is not installed; on Debian: apt-get install ffmpeg"
    async with streaming() as (_, url):
        out = tmp_path / "frame_%02d.png"
        line = [FFMPEG, "-v", "error", "-f", "mpjpeg", "-i", url, "-frames:v", "5", str(out)]
        with anyio.fail_after(DEADLINE_S):
            done = await anyio.run_process(line, check=False, stderr=subprocess.STDOUT)
        assert done.returncode == 0, done.stdout
    assert read((tmp_path / "frame_05.png").read_bytes()).shape == (360, 640, 3)


@pytest.mark.ffmpeg
async def test_ffmpeg_ends_with_the_run_and_with_whole_frames() -> None:
    """It takes the boundary at the end for a frame without a picture, says so, and ends well."""
    assert FFMPEG
    async with streaming() as (_, url):
        line = [FFMPEG, "-v", "error", "-f", "mpjpeg", "-i", url, "-c", "copy", "-f", "mjpeg", "-"]
        process = await anyio.open_process(line)
        assert process.stdout is not None
        assert process.stderr is not None
        with anyio.fail_after(DEADLINE_S):
            assert await process.stdout.receive()
    with anyio.fail_after(DEADLINE_S):
        async for _ in process.stdout:
            pass
        complaints = b"".join([part async for part in process.stderr]).splitlines()
        assert await process.wait() == 0
        assert complaints in ([], [f"{url}: Invalid data found when processing input".encode()])
    await process.aclose()


@pytest.mark.browser
async def test_a_browser_shows_it() -> None:
    async with streaming() as (_, url), chromium() as browser:
        page = await browser.new_page()
        await page.goto(url, wait_until="commit")
        await page.wait_for_function(
            "() => document.images[0]?.naturalWidth === 640", timeout=DEADLINE_S * 1000
        )
        await page.close()


async def test_a_watcher_that_reads_nothing_holds_nobody_up_and_is_hung_up_on() -> None:
    async with streaming(stalled_s=1.0, most_watchers=2) as (live, url), aiohttp.ClientSession() as session:
        where = urlsplit(url)
        with socket.socket() as asleep:
            asleep.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            asleep.connect((where.hostname or "", where.port or 0))
            asleep.sendall(f"GET {STREAM} HTTP/1.1\r\nHost: {where.netloc}\r\n\r\n".encode())
            async with session.get(url) as response:
                number = live.number
                await frames(response, 20)
                assert live.number > number
                with anyio.fail_after(DEADLINE_S):  # its place is free again after a while
                    while True:
                        async with session.get(url) as third:
                            if third.status == 200:
                                break
                            assert third.status == 503
                            assert "2 watch already; close one" in await third.text()
                        await live.frames.after(live.frames.version + 1)


async def test_a_watcher_that_hangs_up_frees_its_place_also_while_no_frame_comes() -> None:
    async with (
        streaming(every_s=1000, most_watchers=1, repeat_s=1000) as (_, url),
        aiohttp.ClientSession() as session,
    ):
        for _ in range(3):
            with anyio.fail_after(DEADLINE_S):
                while True:
                    async with session.get(url) as response:
                        if response.status == 200:
                            await frames(response, 1)
                            break
                    await anyio.sleep(0.01)
            response.close()


async def test_a_silent_camera_still_gives_a_frame_now_and_then() -> None:
    async with (
        streaming(every_s=1000, repeat_s=0.1) as (_, url),
        aiohttp.ClientSession() as session,
        session.get(url) as response,
    ):
        one, two, three = await frames(response, 3)
    assert one == two == three


async def test_a_stream_ends_where_a_frame_does_when_the_run_ends() -> None:
    async with aiohttp.ClientSession() as session:
        async with streaming() as (_, url):
            response = await session.get(url)
            await frames(response, 2)
        with anyio.fail_after(DEADLINE_S):
            rest = await response.read()
    assert rest.endswith(b"--\r\n")


async def test_a_run_that_is_started_again_has_its_port_and_its_watchers_at_once() -> None:
    async with aiohttp.ClientSession() as session:
        port = 0
        for _ in range(3):
            async with streaming(port=port) as (_, url):
                port = urlsplit(url).port or 0
                response = await session.get(url)
                await frames(response, 2)
            response.close()


async def test_off_loopback_keys_are_needed_and_every_way_to_give_the_token_works(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"0\.0\.0\.0 is not a loopback address: .* give --mjpeg-keys"):
        async with serve_mjpeg(FakeLive(), MjpegOptions(host="0.0.0.0", port=0)):  # noqa: S104
            pass
    keys = keys_for(tmp_path, host="192.0.2.7")
    token = (keys / "token").read_text().strip()
    basic = base64.b64encode(f"anybody:{token}".encode()).decode()
    async with (
        streaming(host="0.0.0.0", keys=keys) as (_, url),  # noqa: S104
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session,
    ):
        assert url.startswith("https://192.0.2.7:")
        here = url.replace("192.0.2.7", "127.0.0.1").replace(STREAM, SNAPSHOT)
        for query, headers, status in (
            ("", {}, 401),
            ("?token=wrong", {}, 401),
            ("?token=", {}, 401),
            ("", {"Authorization": "Basic !!!"}, 401),
            ("", {"Authorization": f"Basic {token}"}, 401),
            ("", {"Authorization": "Basic /////w=="}, 401),
            (f"?token={token}", {}, 200),
            ("", {"Authorization": f"Bearer {token}"}, 200),
            ("", {"Authorization": f"Basic {basic}"}, 200),
            (f"?token={token}", {"Sec-Fetch-Site": "cross-site"}, 200),
        ):
            async with session.get(here + query, headers=headers) as response:
                assert response.status == status, (query, headers)
                if status == 401:
                    assert response.headers["WWW-Authenticate"].startswith("Basic ")
                    assert not (await response.read()).startswith(b"\xff\xd8")


@asynccontextmanager
async def streaming_with_tls(folder: Path, **more: Any) -> AsyncIterator[tuple[FakeLive, str]]:
    """As `streaming`, with keys; the address is on loopback and has the token."""
    keys = keys_for(folder, host="192.0.2.7")
    token = (keys / "token").read_text(encoding="utf-8").strip()
    async with streaming(host="0.0.0.0", keys=keys, **more) as (live, url):  # noqa: S104
        yield live, f"{url.replace('192.0.2.7', '127.0.0.1')}?token={token}"


@pytest.mark.parametrize("every_s", [0.01, 0.05])
async def test_with_tls_a_watcher_gets_frames_as_long_as_it_takes_them(
    tmp_path: Path, every_s: float
) -> None:
    """Also where it takes each before the next comes; well beyond what buffers hold."""
    async with (
        streaming_with_tls(tmp_path, every_s=every_s, stalled_s=3.0) as (_, url),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session,
        session.get(url) as response,
    ):
        with anyio.fail_after(DEADLINE_S):
            found = await frames(response, 75)
    assert sum(map(len, found)) > 2 << 20
    assert len(set(found)) > 30


async def test_with_tls_a_watcher_that_reads_nothing_is_hung_up_on(tmp_path: Path) -> None:
    async with (
        streaming_with_tls(tmp_path, stalled_s=1.0, most_watchers=1) as (_, url),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session,
    ):
        asleep = await session.get(url)
        with anyio.fail_after(DEADLINE_S):
            while True:
                async with session.get(url) as other:
                    if other.status == 200:
                        break
                    assert other.status == 503
                await anyio.sleep(0.1)
        asleep.close()


async def test_pages_and_names_of_others_get_nothing() -> None:
    async with streaming() as (_, url), aiohttp.ClientSession() as session:
        own = url.removesuffix(STREAM)
        for headers, status in (
            ({"Host": "evil.example"}, 421),
            ({"Host": "evil.example", "Origin": "http://evil.example"}, 421),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": own.replace("http:", "https:")}, 403),
            ({"Origin": own}, 200),
            ({"Sec-Fetch-Site": "same-origin"}, 200),
            ({"Sec-Fetch-Site": "none"}, 200),
        ):
            for path in (STREAM, SNAPSHOT):
                async with session.get(own + path, headers=headers) as response:
                    assert response.status == status, headers
        async with session.get(url) as response:
            assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.browser
async def test_a_page_of_somebody_else_does_not_show_it() -> None:
    """In a real browser: neither by itself nor to its script."""
    async with streaming() as (_, url), chromium() as browser:
        page = await browser.new_page()
        await page.goto("data:text/html,<p>elsewhere")
        shown = await page.evaluate(
            """url => new Promise(done => {
                const image = new Image();
                image.onload = () => done(true);
                image.onerror = () => done(false);
                image.src = url;
            })""",
            url.replace(STREAM, SNAPSHOT),
        )
        await page.close()
    assert shown is False


async def test_a_port_that_is_taken_is_told_in_a_sentence() -> None:
    async with streaming() as (live, url):
        port = urlsplit(url).port
        with pytest.raises(InputError, match=f"the MJPEG stream cannot listen on 127.0.0.1:{port}"):
            async with serve_mjpeg(live, MjpegOptions(port=port or 0)):
                pass
