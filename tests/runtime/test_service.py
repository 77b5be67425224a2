"""`pedsam run` as a service: started from edge.toml, steered, stopped by SIGTERM, started again."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import anyio
import cv2
import numpy as np
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from runtime.preview import protocol
from runtime.results.run_folder import MARKER
from stages.bundle import Bundle
from tests.support.live_runs import counted_sites
from tests.support.pictures import photo
from tests.support.processes import MODULE
from tests.support.watchers import Watcher

pytestmark = pytest.mark.anyio

ASKED = '{"objects":   []}'  # as only a person would write it


def long_film(path: Path) -> Path:
    """Three minutes of a slow pan, 320 x 180 pixels."""
    picture = cv2.resize(np.asarray(photo("16:9"))[..., ::-1], (320, 180))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 5.0, (320, 180))
    for number in range(900):
        writer.write(np.roll(picture, number, axis=1))
    writer.release()
    return path


@asynccontextmanager
async def service(folder: Path) -> AsyncIterator[tuple[Process, str]]:
    """A running service and the address of its preview; it is killed at the end if it still runs."""
    line = [*MODULE, "run", "--config", str(folder / "edge.toml")]
    async with await anyio.open_process(line, stderr=subprocess.STDOUT) as process:
        try:
            yield process, await address_in(process)
        finally:
            if process.returncode is None:
                process.kill()


async def address_in(process: Process) -> str:
    assert process.stdout is not None
    text = ""
    with anyio.fail_after(120):
        async for part in TextReceiveStream(process.stdout):
            text += part
            if "preview: " in text and "\n" in text.partition("preview: ")[2]:
                return text.partition("preview: ")[2].split()[0]
    raise AssertionError(text)


@asynccontextmanager
async def viewer(address: str) -> AsyncIterator[Watcher]:
    base, token = address.split("/#")[0], urlsplit(address).fragment.removeprefix("token=")
    async with aiohttp.ClientSession() as session, session.ws_connect(base + protocol.PATH) as socket:
        watcher = Watcher(socket)
        await watcher.say("hello", token=token)
        await watcher.text("hello")
        yield watcher


async def stopped(process: Process) -> str:
    """Its last words after SIGTERM."""
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    text = ""
    with anyio.fail_after(120):
        async for part in TextReceiveStream(process.stdout):
            text += part
        assert await process.wait() == 0, text
    assert "Traceback" not in text
    return text


async def test_a_service_from_its_file_to_its_second_start(mini_bundle: Bundle, tmp_path: Path) -> None:
    long_film(tmp_path / "film.mp4")
    (tmp_path / "prompts.json").write_text(ASKED)
    async with counted_sites(mini_bundle, tmp_path) as sites:
        (tmp_path / "edge.toml").write_text(
            f'[source]\nsource = "film.mp4"\nrealtime = true\n'
            f'[loop]\nbundle = "{mini_bundle.path}"\nthreads = 1\nprompts = "prompts.json"\n'
            f"allow_undistilled = true\n[privacy]\nsites = 'sites.toml'\n"
            f'[sinks]\nout = "out"\npreview = 0\n'
        )
        before = sites.tiles()
        async with service(tmp_path) as (process, address), viewer(address) as watcher:
            probes = sites.tiles() - before
            assert (await watcher.frame()).names == []
            assert sites.tiles() - before == probes  # nothing was asked for, so nothing has left
            frame = await watcher.frame()
            await watcher.say("prompt", number=frame.number, box=[60, 20, 260, 160])
            while not (frame := await watcher.frame()).names:
                pass
            assert frame.names == ["1"]
            text = await stopped(process)
        assert "stopping after the frames under way" in text
        assert sites.tiles() - before > probes
        summary = json.loads((tmp_path / "out/summary.json").read_text())
        assert summary["frames_lost"] == 0
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [MARKER, "summary.json"]
        assert (tmp_path / "prompts.json").read_text() == ASKED
        async with service(tmp_path) as (process, address), viewer(address) as watcher:
            while not (frame := await watcher.frame()).names:
                pass
            assert frame.names == ["1"]  # it goes on by itself
            await stopped(process)
        assert (tmp_path / "prompts.json").read_text() == ASKED
