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
import numpy as np
import pytest
from PIL import Image

from runtime.frames.player import Player
from runtime.frames.sources import open_source
from runtime.objects.prompts import read_prompts
from runtime.objects.trust import Check, Trust
from runtime.preview import PreviewOptions, introduction, preview, protocol
from runtime.preview.server import HEADERS, STATIC
from runtime.preview.viewers import KEPT_FRAMES, TOO_MANY, WRONG_TOKEN, ViewerLimits
from stages.errors import InputError
from tests.support.edge import write_photo
from tests.support.keys import keys_for
from tests.support.live import FakeLive
from tests.support.watchers import DEADLINE_S, Frame, Watcher, running_preview

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


async def test_a_new_object_can_be_named_and_no_two_alike() -> None:
    async with running_preview() as run:
        watcher = await run.watch()
        await watcher.say("prompt", id=1, number=0, new="cup", points=[[300, 200, 1]])
        assert await watcher.text("done") == {"type": "done", "id": 1, "name": "cup"}
        await watcher.say("prompt", id=2, number=0, new="cup", points=[[100, 100, 1]])
        refused = await watcher.text("error")
        assert (refused["id"], refused["text"]) == (2, "another object is named cup; give each its own name")
        assert list(run.live.objects) == ["cup"]


@pytest.mark.parametrize("kind", ["prompt", "confirm", "try"])
async def test_frames_that_are_yet_to_come_are_refused(kind: str) -> None:
    async with running_preview() as run:
        watcher = await run.watch()
        await run.live.prompt_at(300, 200)
        run.live.advance()
        asked = {} if kind == "confirm" else {"points": [[300, 200, 1]]}
        await watcher.say(kind, id=1, number=2, name="object 1", **asked)
        refused = await watcher.text("error")
        assert (refused["id"], refused["text"]) == (1, "frame 2 is yet to come: the newest is 1")
        await watcher.say(kind, id=2, number=1, name="object 1", **asked)
        assert (await watcher.text("tried" if kind == "try" else "done"))["id"] == 2
        assert [request.number for request in run.live.requests] == [0, *([1] if kind == "prompt" else [])]


async def test_before_the_first_frame_a_prompt_may_name_frame_0_alone() -> None:
    live = FakeLive()
    live.frames.value = None
    async with running_preview(live) as run:
        watcher = await run.watch()
        for number, answer in ((1, "error"), (0, "done")):
            await watcher.say("prompt", id=number, number=number, points=[[300, 200, 1]])
            assert (await watcher.text(answer))["id"] == number


async def test_a_mark_is_in_the_header_and_goes_when_the_mask_is_confirmed() -> None:
    async with running_preview() as run:
        watcher = await run.watch()
        name = await run.live.prompt_at(300, 200)
        run.live.objects[name].trust = Trust(0.41239, Check.SHRANK)
        run.live.advance()
        while not (frame := await watcher.frame()).names:
            pass
        (found,) = frame.header["objects"]
        assert (found["state"], found["confidence"], found["check"]) == ("tracked", 0.4124, "shrank")
        await watcher.say("confirm", id=3, number=frame.number, name=name)
        assert await watcher.text("done") == {"type": "done", "id": 3, "name": name}
        assert run.live.confirmed == [(name, frame.number)]
        run.live.advance()
        (found,) = (await watcher.frame()).header["objects"]
        assert (found["confidence"], found["check"]) == (0.4124, None)
        await watcher.say("confirm", id=4, number=frame.number, name="cup")
        assert (await watcher.text("error"))["text"] == "there is no object cup"


async def test_files_are_of_the_frames_own_pixels_and_of_the_last_frames_sent() -> None:
    async with running_preview(longest_px=100) as run:
        watcher = await run.watch()
        name = await run.live.prompt_at(300, 200)
        run.live.advance()
        while not (frame := await watcher.frame()).names:
            pass
        await watcher.say("save", id=5, number=frame.number, file="frame.png")
        saved = await watcher.binary("file")
        media, file_name = "image/png", f"{frame.number}.png"
        assert saved.header == {
            "type": "file", "id": 5, "number": frame.number, "name": file_name, "media": media,
        }  # fmt: skip
        shown = run.live.frames.value
        assert shown is not None
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(saved.file))), shown.frame.pixels)
        await watcher.say("save", id=6, number=frame.number, file="cutout.png", name="cup")
        assert (await watcher.text("error"))["text"] == f"there is no object cup on frame {frame.number}"
        await watcher.say("save", id=7, number=frame.number, file="cutout.png", name=name)
        assert (await watcher.binary("file")).header["id"] == 7
        for _ in range(KEPT_FRAMES):
            run.live.advance()
            await watcher.frame()
        await watcher.say("save", id=8, number=frame.number, file="frame.png")
        refused = await watcher.text("error")
        said = f"frame {frame.number} is none of the last 3 that were sent here; take a newer one"
        assert (refused["id"], refused["text"]) == (8, said)


async def test_prompts_are_what_a_later_run_reads(tmp_path: Path) -> None:
    async with running_preview() as run:
        watcher = await run.watch()
        await watcher.say("prompt", id=1, number=0, new="cup", points=[[300, 200, 1]], box=[9, 9, 600, 300])
        await watcher.text("done")
        await watcher.say("prompts", id=2)
        answer = await watcher.text("prompts")
        assert answer["id"] == 2
        file = tmp_path / "prompts.json"
        file.write_text(json.dumps({"objects": answer["objects"]}), encoding="utf-8")
        (prompt,) = read_prompts((), (), file).entries
        assert (prompt.name, prompt.box_xyxy, prompt.points) == ("cup", (9, 9, 600, 300), ((300, 200, 1),))


@pytest.mark.parametrize("message", [{"type": "reboot"}, {"type": ["x"]}, {}, {"type": "hello", "token": "x"},
                                     {"type": "look", "operator": "nobody"}, {"type": "pause"}])  # fmt: skip
async def test_whatever_is_refused_is_answered_with_its_id(message: dict[str, Any]) -> None:
    async with running_preview() as run:
        watcher = await run.watch()
        await watcher.socket.send_str(json.dumps({**message, "id": 12}))
        assert (await watcher.text("error"))["id"] == 12


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


class Noting(Player):
    """Notes whether it is told that somebody watches; `left` is set when nobody does."""

    def __init__(self, path: Path) -> None:
        super().__init__(open_source(path))
        self.told: list[bool] = []
        self.left = anyio.Event()

    def watched(self, watched: bool) -> None:
        self.told.append(watched)
        if not watched:
            self.left.set()


async def test_a_file_is_watched_as_long_as_there_is_a_viewer(tmp_path: Path) -> None:
    player = Noting(write_photo(tmp_path / "a.png"))
    async with running_preview(FakeLive(player=player)) as run:
        assert player.told == []
        first, second = await run.watch(), await run.watch()
        await first.socket.close()
        await second.text("status")
        assert all(player.told)
        await second.socket.close()
        with anyio.fail_after(DEADLINE_S):
            await player.left.wait()
    assert player.told[-1] is False
