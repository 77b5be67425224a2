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
from runtime.objects.prompts import MAX_POINTS
from runtime.preview import protocol, viewers
from runtime.preview.viewers import ViewerLimits
from tests.support.live import BOARD
from tests.support.watchers import running_preview

pytestmark = pytest.mark.anyio
PROTOCOL = Path(protocol.__file__).with_name("PROTOCOL.md").read_text(encoding="utf-8")


COMMANDS = (
    "prompt", "remove", "rename", "pause", "choose", "undo", "redo", "play", "step", "seek", "hold", "try",
)  # fmt: skip
FROM_VIEWERS = ("hello", "shown", "look", *COMMANDS)
# Objects whose keys are names of operators, zones, rails and kinds of events.
NAMED_BY_DATA = ("caps", "shares", "board.temperatures_c", "board.power_mw", "board.throttle_events")


def examples(kind: str) -> Iterator[dict[str, Any]]:
    """The messages of this type that PROTOCOL.md shows, in its order."""
    text = PROTOCOL.partition("## A detector")[0].replace(", ...", "")
    for match in re.finditer(rf'{{"type": "{kind}"', text):
        message, _ = json.JSONDecoder().raw_decode(text, match.start())
        yield message


def keys(value: Any, path: str = "") -> set[str]:
    """The paths of all keys in a message, those of list items as of one."""
    if isinstance(value, list):
        return set().union(*(keys(item, f"{path}[]") for item in value))
    if not isinstance(value, dict) or path in NAMED_BY_DATA:
        return set()
    found = {f"{path}.{key}".lstrip(".") for key in value}
    return found.union(*(keys(item, f"{path}.{key}".lstrip(".")) for key, item in value.items()))


def documented(kind: str) -> set[str]:
    return set().union(*map(keys, examples(kind)))


async def test_what_the_preview_sends_has_the_documented_keys_and_no_others() -> None:
    async with running_preview() as run:
        run.live.board, run.live.kept_now = BOARD, {7}
        run.live.playback = Playback(False, 2.08, 3.2, 0.04, False)
        watcher = await run.dial()
        await watcher.say("hello", token=run.token)
        hello = await watcher.text("hello")
        await watcher.say("prompt", id=1, number=0, box=[300, 90, 500, 290])
        done = await watcher.text("done")
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
    (_, documented_hello) = examples("hello")  # the first one is the viewer's
    assert keys(hello) == keys(documented_hello)
    for message in (frame.header, status, holds.header, done, error, tried):
        assert keys(message) == documented(message["type"]), message["type"]


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
    shown_messages = [message for message in examples(kind) if "version" not in message]
    for message in shown_messages:
        protocol.decode(json.dumps(message))
    together = {key: value for message in shown_messages for key, value in message.items()}
    given = PoppedKeys(together)
    protocol._DECODERS[kind](given, None)
    assert given.looked_for | {"type"} == set(together) - {"id"}
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
    ):
        assert words in PROTOCOL
    assert f"less than {SHORT_MB} MB" in PROTOCOL
    assert (STALE_S, THROTTLED_S) == (10, 60)
    assert (ViewerLimits().viewers, viewers.MAX_PROMPTS, ViewerLimits().hello_s) == (8, 8, 10)
