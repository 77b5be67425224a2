"""PROTOCOL.md: its example runs, its messages have the real ones' keys, its limits are the code's."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime.frames.player import Playback
from runtime.live.board import SHORT_MB, STALE_S, THROTTLED_S
from runtime.objects.follower import RECENT_FRAMES
from runtime.objects.prompts import MAX_POINTS
from runtime.objects.trust import Check, Trust
from runtime.preview import protocol, viewers
from runtime.preview.saving import FILES
from runtime.preview.viewers import ViewerLimits
from stages.bundle import Bundle, shipped_bundle
from tests.support.live import BOARD
from tests.support.live_runs import live_run
from tests.support.watchers import running_preview, watching

pytestmark = pytest.mark.anyio
PROTOCOL = Path(protocol.__file__).with_name("PROTOCOL.md").read_text(encoding="utf-8")


COMMANDS = (  # those with an id
    "prompt", "confirm", "remove", "rename", "pause", "choose", "undo", "redo", "play", "step", "seek",
    "hold", "try", "save", "prompts",
)  # fmt: skip
FROM_VIEWERS = ("hello", "shown", "look", *COMMANDS)
FROM_PREVIEW = ("hello", "frame", "status", "holds", "done", "error", "tried", "file", "prompts")
# Objects whose keys are names of operators, zones, rails and kinds of events.
NAMED_BY_DATA = ("caps", "shares", "board.temperatures_c", "board.power_mw", "board.throttle_events")


def all_examples() -> Iterator[dict[str, Any]]:
    """The messages that PROTOCOL.md shows, in its order."""
    text = PROTOCOL.partition("## A detector")[0].replace(", ...", "")
    for match in re.finditer(r'{"type":', text):
        message, _ = json.JSONDecoder().raw_decode(text, match.start())
        yield message


def examples(kind: str) -> Iterator[dict[str, Any]]:
    return (message for message in all_examples() if message["type"] == kind)


def is_from_viewer(message: dict[str, Any]) -> bool:
    """Of the types that both sides send, only the preview's have these keys."""
    return message["type"] in FROM_VIEWERS and not {"version", "objects"} & set(message)


def keys(value: Any, path: str = "") -> set[str]:
    """The paths of all keys in a message, those of list items as of one."""
    if isinstance(value, list):
        return set().union(*(keys(item, f"{path}[]") for item in value))
    if not isinstance(value, dict) or path in NAMED_BY_DATA:
        return set()
    found = {f"{path}.{key}".lstrip(".") for key in value}
    return found.union(*(keys(item, f"{path}.{key}".lstrip(".")) for key, item in value.items()))


def kinds(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The path of every value in a message and what JSON calls its kind; those of null are left out, since
    null says nothing of what else may be there."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from kinds(item, path if path in NAMED_BY_DATA else f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for item in value:
            yield from kinds(item, f"{path}[]")
    elif value is not None:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        yield path, "number" if number else type(value).__name__


def empty(value: Any, path: str = "") -> Iterator[str]:
    """The beginnings of paths below lists and objects that are empty or null in a message."""
    if value is None or value == []:
        yield f"{path}."
        yield f"{path}[]"
    for key, item in value.items() if isinstance(value, dict) else ():
        yield from empty(item, f"{path}.{key}".lstrip("."))
    for item in value if isinstance(value, list) else ():
        yield from empty(item, f"{path}[]")


def check_documented(*messages: dict[str, Any]) -> None:
    """Each message of the preview has the keys that its examples in PROTOCOL.md have, and no others, and
    values of the same kinds."""
    for message in messages:
        shown = [each for each in examples(message["type"]) if not is_from_viewer(each)]
        assert keys(message) <= set().union(*map(keys, shown)), message["type"]
        missing = set().union(*map(keys, shown)) - keys(message)
        assert {path for path in missing if not path.startswith(tuple(empty(message)))} == set(), message[
            "type"
        ]
        expected = dict(pair for each in shown for pair in kinds(each))
        for path, kind in kinds(message):
            assert expected.get(path, kind) == kind, (message["type"], path)


def test_every_example_is_a_message_of_one_side() -> None:
    shown = list(all_examples())
    for message in filter(is_from_viewer, shown):
        protocol.decode(json.dumps(message))
    assert {message["type"] for message in shown if is_from_viewer(message)} == set(FROM_VIEWERS)
    assert {message["type"] for message in shown if not is_from_viewer(message)} == set(FROM_PREVIEW)


async def test_what_the_preview_sends_is_as_documented() -> None:
    async with running_preview() as run:
        run.live.board, run.live.kept_now, run.live.message = BOARD, {7}, "site b is down"
        run.live.playback = Playback(False, 2.08, 3.2, 0.04, False)
        watcher = await run.dial()
        await watcher.say("hello", token=run.token)
        hello = await watcher.text("hello")
        await watcher.say(
            "prompt", id=1, number=0, new="cup", box=[300, 90, 500, 290], points=[[400, 200, 1]]
        )
        done = await watcher.text("done")
        run.live.objects["cup"].trust = Trust(0.4, Check.GREW)
        run.live.advance()
        while not (frame := await watcher.frame()).names:
            pass
        status = await watcher.text("status")
        await watcher.say("look", operator="alpha")
        holds = await watcher.binary("holds")
        await watcher.say("try", id=3, number=0, points=[[400, 200, 1]])
        tried = await watcher.text("tried")
        await watcher.say("remove", id=2, name="nobody")
        error = await watcher.text("error")
        await watcher.say("save", id=3, number=frame.number, file="coco.json")
        file = await watcher.binary("file")
        await watcher.say("prompts", id=4)
        prompts = await watcher.text("prompts")
    check_documented(hello, frame.header, status, holds.header, tried, done, error, file.header, prompts)


async def test_what_a_real_run_answers_is_as_documented() -> None:
    """The model that ships, every window at the edge, and the examples of viewers word for word."""
    async with live_run(Bundle.load(shipped_bundle()), None) as real, watching(real.live) as watcher:
        (hello,) = watcher.texts
        await real.frame()
        await watcher.frame()
        await watcher.say("prompt", id=1, number=0, new="cup", box=[60, 40, 400, 300], points=[[200, 150, 1]])
        done = await watcher.text("done")
        await real.frames_until(lambda shown: shown.objects)
        while not (frame := await watcher.frame()).names:
            pass
        status = await watcher.text("status")
        await watcher.say("confirm", id=2, number=frame.number, name="cup")
        assert await watcher.text("done") == {"type": "done", "id": 2, "name": "cup"}
        await watcher.say("prompts", id=3)
        prompts = await watcher.text("prompts")
        await watcher.say("save", id=4, number=frame.number, file="cutout.png", name="cup")
        file = await watcher.binary("file")
        for message in filter(is_from_viewer, all_examples()):
            if message["type"] in COMMANDS and message.get("number") is not None:  # 412 is yet to come
                await watcher.socket.send_str(json.dumps(message))
                error = await watcher.text("error")
                assert error["id"] == message["id"]
    check_documented(hello, frame.header, status, done, error, file.header, prompts)


class PoppedKeys(dict[str, Any]):
    """A message that notes which of its keys were looked for."""

    def __init__(self, message: dict[str, Any]) -> None:
        super().__init__(message)
        self.looked_for: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.looked_for.add(key)
        return super().get(key, default)

    def pop(self, key: str, *default: Any) -> Any:
        self.looked_for.add(key)
        return super().pop(key, *default)


@pytest.mark.parametrize("kind", FROM_VIEWERS)
def test_what_viewers_may_send_has_the_documented_keys_and_no_others(kind: str) -> None:
    shown_messages = list(filter(is_from_viewer, examples(kind)))
    looked_for: set[str] = set()
    for message in shown_messages:
        given = PoppedKeys(message)
        protocol._DECODERS[kind](given, None)
        looked_for |= given.looked_for
    together = set().union(*shown_messages)
    assert looked_for | {"type"} == together - {"id"}
    assert ("id" in together) == (kind in COMMANDS)


def test_every_message_of_viewers_is_documented() -> None:
    assert set(protocol._DECODERS) == set(FROM_VIEWERS)


async def test_the_detector_in_it_sends_a_box_and_reads_masks(tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", PROTOCOL, re.DOTALL)
    assert found
    script = tmp_path / "detector.py"
    script.write_text(found[1])
    async with running_preview() as run, anyio.create_task_group() as tasks:
        tasks.start_soon(run.live.run)
        running = await asyncio.create_subprocess_exec(
            sys.executable,
            script,
            run.address,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, error = await running.communicate()
        tasks.cancel_scope.cancel()
    assert running.returncode == 0, error.decode()
    lines = out.decode().splitlines()
    assert lines[0] == "{'type': 'done', 'id': 1, 'name': 'object 1'}"
    assert re.fullmatch(r"\d+ object 1 tracked \[300, 90, 501, 291\] 31\d\d\d", lines[1])
    assert len(lines) == 4
    assert run.live.requests[0].box_xyxy == (300, 90, 500, 290)


def test_its_numbers_are_those_in_the_code() -> None:
    for words in (
        protocol.PATH,
        f'"message_bytes": {protocol.MESSAGE_BYTES}',
        f'"name_characters": {protocol.NAME_CHARACTERS}',
        f'"points": {MAX_POINTS}',
        f'"messages_per_s": {ViewerLimits().messages_per_s:g}',
        f"{viewers.WRONG_TOKEN} no or a wrong token",
        f"{viewers.TOO_MANY} too many viewers",
        *(f"`{check.value}`" for check in Check),
        *(f"`{file}`" for file in FILES),
    ):
        assert words in PROTOCOL
    flat = " ".join(PROTOCOL.split())
    assert f"That frame must be one of the newest {RECENT_FRAMES}." in flat
    assert (viewers.KEPT_FRAMES, "one of the last three frames" in flat) == (3, True)
    assert f"less than {SHORT_MB} MB" in PROTOCOL
    assert (STALE_S, THROTTLED_S) == (10, 60)
    assert (ViewerLimits().viewers, viewers.MAX_PROMPTS, ViewerLimits().hello_s) == (8, 8, 10)
