"""A preview on a real socket, watched and steered by programs."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anyio
import pytest
from PIL import Image

from runtime.preview import PreviewOptions, introduction, preview, protocol
from runtime.preview.server import HEADERS, STATIC
from runtime.preview.viewers import TOO_MANY, WRONG_TOKEN, ViewerLimits
from stages.errors import InputError
from tests.support.keys import keys_for
from tests.support.live import FakeLive
from tests.support.watchers import Frame, Watcher, running_preview

TOKEN = "x" * 32
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked_loop")]


async def test_a_viewer_sees_frames_and_figures() -> None:
    async with running_preview(model="mini", banner="untrained weights") as run:
        watcher = await run.dial()
        await watcher.say("hello", token=run.token)
        hello = await watcher.text("hello")
        assert (hello["version"], hello["model"], hello["banner"]) == (1, "mini", "untrained weights")
        assert hello["palette"][:2] == ["#e69f00", "#56b4e9"]
        first = await watcher.frame()
        run.live.advance()
        second = await watcher.frame()
        assert (first.number, second.number) == (0, 1)
        assert Image.open(io.BytesIO(second.file)).size == (640, 360)
        status = await watcher.text("status")
        assert status["viewers"] == 1
        figures = json.loads(json.dumps(run.live.status().to_json()))
        assert status == {"type": "status", "viewers": 1, **figures}


async def test_a_prompt_makes_an_object_that_can_be_renamed_and_removed() -> None:
    async with running_preview() as run:
        watcher = await run.watch()
        number = (await watcher.frame()).number
        await watcher.say("prompt", id=5, number=number, points=[[300, 200, 1]], box=[250, 150, 350, 250])
        assert await watcher.text("done") == {"type": "done", "id": 5, "name": "object 1"}
        request = run.live.requests[0]
        assert (request.number, request.points) == (0, ((300, 200, 1),))
        assert request.box_xyxy == (250, 150, 350, 250)
        await watcher.say("rename", id=6, name="object 1", new="cup")
        assert (await watcher.text("done"))["name"] == "cup"
        run.live.advance()
        assert (await watcher.frame()).names == ["cup"]
        await watcher.say("remove", id=7, name="cup")
        await watcher.text("done")
        assert run.live.objects == {}


async def test_a_prompt_under_way_holds_up_nothing_else() -> None:
    async with running_preview() as run:
        run.live.gate = anyio.Event()
        watcher = await run.watch()
        await watcher.say("prompt", id=1, number=0, points=[[300, 200, 1]])
        await watcher.frame()
        await watcher.say("pause", id=2, paused=True)
        assert (await watcher.text("done"))["id"] == 2
        run.live.gate.set()
        assert (await watcher.text("done"))["id"] == 1


async def test_prompts_under_way_are_bounded() -> None:
    async with running_preview() as run:
        run.live.gate = anyio.Event()
        watcher = await run.watch()
        for number in range(9):
            await watcher.say("prompt", id=number, number=0, points=[[300, 200, 1]])
        refused = await watcher.text("error")
        assert (refused["id"], refused["text"]) == (8, "8 prompts are under way; wait for one")
        assert len(run.live.requests) <= 8


async def test_pausing_is_told_to_everybody_at_once() -> None:
    async with running_preview(status_s=1000.0) as run:
        one, other = await run.watch(), await run.watch()
        assert not (await other.text("status"))["paused"]
        await one.say("pause", id=1, paused=True)
        while not (await other.text("status"))["paused"]:
            pass
        assert run.live.paused
        await other.say("pause", paused=False)
        while (await one.text("status"))["paused"] or run.live.paused:
            pass


async def test_what_the_loop_refuses_is_told_in_its_words() -> None:
    async with running_preview() as run:
        watcher = await run.watch()
        await watcher.say("remove", id=3, name="cup")
        assert await watcher.text("error") == {"type": "error", "id": 3, "text": "there is no object cup"}
        await watcher.say("prompt", id=4, number=0, name="cup", points=[[1, 1, 1]])
        assert (await watcher.text("error"))["id"] == 4


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("no json", "a message is not JSON"),
        ('{"type": "reboot"}', "a message has the type 'reboot'"),
        ('{"type": "pause", "paused": "yes"}', "paused is 'yes', expected true or false"),
        ('{"type": "hello", "token": "x"}', "hello was said before"),
        (b"\0\1\2", "a message is binary; those to the preview are text"),
    ],
)
async def test_nonsense_is_answered_and_changes_nothing(message: str | bytes, sentence: str) -> None:
    async with running_preview() as run:
        watcher = await run.watch()
        await watcher.frame()
        if isinstance(message, bytes):
            await watcher.socket.send_bytes(message)
        else:
            await watcher.socket.send_str(message)
        assert sentence in (await watcher.text("error"))["text"]
        run.live.advance()
        assert (await watcher.frame()).number == 1  # it is still served
        assert not run.live.paused
        assert run.live.requests == []


@pytest.mark.parametrize(
    "first", ['{"type": "hello", "token": "wrong"}', '{"type": "pause", "paused": true}', "x", b"x", ""]
)
async def test_who_does_not_know_the_token_gets_nothing(first: str | bytes) -> None:
    async with running_preview() as run:
        watcher = await run.dial()
        if isinstance(first, bytes):
            await watcher.socket.send_bytes(first)
        else:
            await watcher.socket.send_str(first)
        assert await watcher.closed() == WRONG_TOKEN
        assert (watcher.frames, watcher.texts) == ([], [])
        assert not run.live.paused


async def test_who_says_nothing_is_hung_up_on() -> None:
    async with running_preview(limits=ViewerLimits(hello_s=0.05)) as run:
        watcher = await run.dial()
        assert await watcher.closed() == WRONG_TOKEN
        assert (watcher.frames, watcher.texts) == ([], [])


async def test_a_viewer_that_never_acknowledges_gets_one_frame_and_slows_nobody() -> None:
    async with running_preview() as run:
        slow, quick = await run.watch(), await run.watch()
        while not slow.frames:
            await slow.read()
        for number in range(1, 20):
            assert (await quick.frame()).number == number - 1
            run.live.advance()
        assert (await quick.frame()).number == 19
        await slow.say("shown", number=12345)  # not the one it got
        for _ in range(10):  # round trips, in which a frame would have come
            await slow.say("pause", paused=False)
            await slow.text("done")
        assert [frame.number for frame in slow.frames] == [0]
        await slow.say("shown", number=0)
        assert (await slow.frame()).number == 19  # the newest, not the next


async def test_viewers_are_bounded_and_a_place_becomes_free_again() -> None:
    async with running_preview(limits=ViewerLimits(viewers=2)) as run:
        first, _ = await run.watch(), await run.watch()
        third = await run.dial()
        await third.say("hello", token=run.token)
        assert await third.closed() == TOO_MANY
        assert third.texts == [{"type": "error", "id": None, "text": "2 viewers watch already; close one"}]
        assert third.frames == []
        await first.socket.close()
        while (again := await _try(run)) is None:
            await anyio.lowlevel.checkpoint()
        assert (await again.frame()).number == 0


async def _try(run: Any) -> Watcher | None:
    watcher = await run.dial()
    await watcher.say("hello", token=run.token)
    first = await watcher.read()
    return watcher if isinstance(first, dict) and first["type"] == "hello" else None


async def test_newcomers_are_bounded() -> None:
    async with running_preview() as run:
        silent = [await run.dial() for _ in range(32)]
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await run.dial()
        assert caught.value.status == 503
        await silent[0].socket.close()


async def test_too_many_messages_end_a_connection() -> None:
    async with running_preview(limits=ViewerLimits(messages_per_s=1)) as run:
        watcher = await run.watch()
        for _ in range(30):
            await watcher.say("shown", number=0)
        assert await watcher.closed() == TOO_MANY


async def test_a_message_that_is_too_long_ends_a_connection() -> None:
    async with running_preview() as run:
        watcher = await run.watch()
        await watcher.socket.send_str(" " * (protocol.MESSAGE_BYTES + 1))
        assert await watcher.closed() == aiohttp.WSCloseCode.MESSAGE_TOO_BIG


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
    ],
)
async def test_pages_of_others_are_refused(headers: dict[str, str]) -> None:
    async with running_preview() as run:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await run.dial(headers=headers)
        assert caught.value.status == (421 if "Host" in headers else 403)


async def test_its_own_page_is_let_in() -> None:
    async with running_preview() as run:
        watcher = await run.dial(headers={"Origin": run.base})
        await watcher.say("hello", token=run.token)
        await watcher.text("hello")


async def test_every_file_of_the_page_is_served_with_strict_headers() -> None:
    async with running_preview() as run:
        for file in STATIC.iterdir():
            name = "" if file.name == "index.html" else file.name
            async with run.session.get(f"{run.base}/{name}") as response:
                assert response.status == 200, file
                assert await response.read() == file.read_bytes()
                assert response.headers.items() >= HEADERS.items()
                assert run.token not in str(response.headers)
        assert "unsafe" not in HEADERS["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/../server.py", 404), ("GET", "/index.html", 404), ("GET", "/%2e%2e/server.py", 404),
     ("POST", "/", 405), ("GET", "/v2/live", 404), ("GET", "/v1/live", 400)],
)  # fmt: skip
async def test_nothing_else_is(method: str, path: str, status: int) -> None:
    async with running_preview() as run, run.session.request(method, run.base + path) as response:
        assert response.status == status
        assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_names_of_others_do_not_lead_to_the_page() -> None:
    async with (
        running_preview() as run,
        run.session.get(run.base, headers={"Host": "evil.example"}) as response,
    ):
        assert response.status == 421


async def test_the_end_is_told() -> None:
    async with aiohttp.ClientSession() as session:
        async with preview(FakeLive(), PreviewOptions(port=0, token=TOKEN)) as address:
            watcher = Watcher(await session.ws_connect(address.split("/#")[0] + protocol.PATH))
            await watcher.say("hello", token=TOKEN)
            await watcher.frame()
            end = asyncio.create_task(watcher.closed())
        assert await end == aiohttp.WSCloseCode.GOING_AWAY


async def test_off_loopback_keys_are_needed() -> None:
    with pytest.raises(InputError, match=r"0\.0\.0\.0 is not a loopback address: .* make keys with"):
        async with running_preview(host="0.0.0.0"):  # noqa: S104
            pass


async def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port} \\(Address already in use"):
            async with preview(FakeLive(), PreviewOptions(port=port)):
                pass


async def test_with_keys_it_speaks_tls_and_its_token_stays(tmp_path: Path) -> None:
    keys = keys_for(tmp_path, host="192.0.2.7")
    async with running_preview(host="0.0.0.0", keys=keys) as run:  # noqa: S104
        assert run.base.startswith("https://192.0.2.7:")
        assert run.token == (keys / "token").read_text().strip()
        watcher = await replace(run, address=f"https://127.0.0.1:{urlsplit(run.base).port}/#").dial()
        await watcher.say("hello", token=run.token)
        assert isinstance(await watcher.frame(), Frame)


async def test_a_phone_is_told_where_to_go(tmp_path: Path) -> None:
    keys = keys_for(tmp_path, host="192.0.2.7")
    options = PreviewOptions(host="192.0.2.7", keys=keys)
    far = introduction("https://192.0.2.7:8080/#token=t", options)
    assert far.startswith("preview: https://192.0.2.7:8080/#token=t\n")
    assert "▄" in far
    assert "certificate, SHA-256: " in far
    near = "http://127.0.0.1:8080/#token=t"
    assert introduction(near, PreviewOptions()) == f"preview: {near}"


async def test_a_token_is_made_anew_each_time() -> None:
    async with running_preview() as one, running_preview() as other:
        assert one.token != other.token
        assert len(one.token) >= 32
    assert TOKEN not in repr(PreviewOptions(token=TOKEN))
