"""PROTOCOL.md: its example runs, and what it says of limits is so."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import anyio
import pytest

from runtime.preview import protocol, viewers
from runtime.preview.viewers import Limits
from tests.watchers import shown

pytestmark = pytest.mark.anyio
PROTOCOL = Path(protocol.__file__).with_name("PROTOCOL.md").read_text(encoding="utf-8")


async def test_the_detector_in_it_sends_a_box_and_reads_masks(tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", PROTOCOL, re.DOTALL)
    assert found
    script = tmp_path / "detector.py"
    script.write_text(found[1])
    async with shown() as run, anyio.create_task_group() as tasks:
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
        f'"points": {protocol.POINTS}',
        f'"messages_per_s": {Limits().messages_per_s:g}',
        f"{viewers.WRONG_TOKEN} no or a wrong token",
        f"{viewers.TOO_MANY} too many viewers",
    ):
        assert words in PROTOCOL
    assert (Limits().viewers, viewers.PROMPTS, Limits().hello_s) == (8, 8, 10)
