"""The heartbeat: touched while a run moves, old when its camera or its process hangs."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from anyio.abc import Process

from runtime.live.heartbeat import Activity, Doing, Heartbeat, HeartbeatOptions, Watchdog, beating
from runtime.live.interface import Live
from runtime.objects.prompts import Prompt, Prompts
from runtime.pipeline import PipelineOptions
from stages.bundle import Bundle
from stages.console import make_console
from stages.errors import InputError
from tests.runtime.test_service import long_film
from tests.support.cameras import Camera, HangingCamera, scenery
from tests.support.live_runs import NOTHING_ASKED, background_run, counted_sites, run_options
from tests.support.processes import MODULE

pytestmark = pytest.mark.anyio
OPTIONS = HeartbeatOptions(Path("unused"))  # every 2 s, 30 s without a frame, 120 s to open, 300 s grace
CUP = Prompts((Prompt("cup", (150, 60, 450, 300)),))
RUNNING = Activity(Doing.FRAMES, 7, 1)


def looks_until_it_stops(watchdog: Watchdog, now: Activity, most: int = 1000) -> int | None:
    """How many looks at the same activity it takes; None when it goes on."""
    return next((number for number in range(1, most) if not watchdog.moves(now)), None)


@pytest.mark.parametrize(
    ("doing", "max_fps", "seconds"),
    [
        (Doing.FRAMES, None, 30),
        (Doing.FRAMES, 10.0, 30),
        (Doing.FRAMES, 0.05, 60),
        (Doing.OPENING, None, 120),
        (Doing.STARTING, None, 300),
        (Doing.ENDING, None, 300),
    ],
)
def test_it_stops_when_nothing_has_changed_for_too_long(
    doing: Doing, max_fps: float | None, seconds: int
) -> None:
    watchdog = Watchdog(OPTIONS, max_fps)
    assert looks_until_it_stops(watchdog, Activity(doing, 7, 1)) == seconds / 2 + 2


def test_it_goes_on_when_nothing_is_due() -> None:
    assert looks_until_it_stops(Watchdog(OPTIONS), Activity(Doing.NOTHING, 7, 1)) is None


@pytest.mark.parametrize(("standing", "frames", "doing"), [
    (True, 0, Doing.NOTHING), (True, 7, Doing.NOTHING), (False, 0, Doing.STARTING), (False, 7, Doing.FRAMES),
])  # fmt: skip
def test_nothing_is_due_of_a_file_that_waits_for_viewers(standing: bool, frames: int, doing: Doing) -> None:
    heartbeat = Heartbeat()
    source = SimpleNamespace(standing=standing, trouble=None, openings=0)
    waiting: Any = SimpleNamespace(
        ended=False, paused=False, pacing=False, source=source, measured=SimpleNamespace(frames=frames)
    )
    heartbeat.pipeline = waiting
    assert heartbeat.activity() == Activity(doing, frames, 0)


def test_it_goes_on_while_frames_or_attempts_to_open_the_camera_come() -> None:
    watchdog = Watchdog(OPTIONS)
    assert all(watchdog.moves(Activity(Doing.FRAMES, number // 10, 1)) for number in range(500))
    assert all(watchdog.moves(Activity(Doing.OPENING, 50, number // 30)) for number in range(500))


def test_a_frame_makes_it_move_again() -> None:
    watchdog = Watchdog(OPTIONS)
    assert looks_until_it_stops(watchdog, RUNNING)
    assert not watchdog.moves(RUNNING)
    assert watchdog.moves(Activity(Doing.FRAMES, 8, 1))


def test_what_begins_to_be_due_has_its_time() -> None:
    """Nothing was due for an hour; frames are due from now on."""
    watchdog = Watchdog(OPTIONS)
    for _ in range(1800):
        watchdog.moves(Activity(Doing.NOTHING, 7, 1))
    assert looks_until_it_stops(watchdog, RUNNING) == 17


class Ticks:
    """Sleeps as long as `pass_on` says; `waits` tells that it is slept again."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []
        self._turns = anyio.create_memory_object_stream[None](0)
        self._asleep = anyio.create_memory_object_stream[None](10)

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        await self._asleep[0].send(None)
        await self._turns[1].receive()

    async def pass_on(self, times: int = 1) -> None:
        """Let it look so many times; it sleeps again then."""
        for _ in range(times):
            await self._asleep[1].receive()
            await self._turns[0].send(None)
        await self._asleep[1].receive()
        await self._asleep[0].send(None)

    def close(self) -> None:
        for stream in (*self._turns, *self._asleep):
            stream.close()


def touched(path: Path) -> bool:
    """Whether it was touched since this was asked last."""
    new = path.stat().st_mtime > 1
    os.utime(path, (1, 1))
    return new


async def test_the_file_is_touched_until_the_run_does_not_move_and_that_is_said_once(tmp_path: Path) -> None:
    """A run that never has a frame, look by look."""
    path, said = tmp_path / "heartbeat", list[str]()
    with contextlib.closing(Ticks()) as ticks:
        await watch_it_stop(path, ticks, said)
    assert set(ticks.slept_s) == {2.0}


async def watch_it_stop(path: Path, ticks: Ticks, said: list[str]) -> None:
    async with beating(HeartbeatOptions(path), said.append, sleep=ticks.sleep):
        assert touched(path)  # at once: the start may take longer than a health check waits
        for _ in range(151):
            await ticks.pass_on()
            assert touched(path)
        assert said == []
        await ticks.pass_on(3)
        assert not touched(path)
        assert said == [f"heartbeat {path} stops: no frame was finished since the start for 302 s"]


async def test_the_file_holds_the_frames_that_were_finished(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat"
    with contextlib.closing(Ticks()) as ticks:
        async with beating(HeartbeatOptions(path), lambda text: None, sleep=ticks.sleep) as heartbeat:
            assert path.read_text() == "0\n"
            heartbeat.activity = lambda: Activity(Doing.FRAMES, frames=17)  # type: ignore[method-assign]
            await ticks.pass_on(2)
            assert path.read_text() == "17\n"


async def test_without_one_nothing_is_touched() -> None:
    async with beating(None, lambda text: None) as heartbeat:
        assert heartbeat.activity() == Activity(Doing.STARTING)


async def test_a_file_that_cannot_be_touched_is_told_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "heartbeat"
    with pytest.raises(
        InputError, match=r"heartbeat file .* cannot be written \(No such file or directory\)"
    ):
        async with beating(HeartbeatOptions(path), lambda text: None):
            pass


class Lines(io.StringIO):
    """A terminal; `until` waits for a text on it."""

    def __init__(self) -> None:
        super().__init__()
        self._written = anyio.Event()

    def write(self, text: str) -> int:
        length = super().write(text)
        self._written.set()
        self._written = anyio.Event()
        return length

    async def until(self, text: str) -> None:
        with anyio.fail_after(60):
            while text not in self.getvalue():
                await self._written.wait()


@dataclass(frozen=True)
class Beating:
    """A run, and what it says on its terminal."""

    lines: Lines
    live: Live


@asynccontextmanager
async def beating_run(
    bundle: Bundle,
    path: Path,
    camera: Camera,
    sites: Path | None = None,
    prompts: Prompts = NOTHING_ASKED,
    **more: Any,
) -> AsyncIterator[Beating]:
    """A run on a camera that is looked at every few milliseconds; it has finished a frame."""
    options = HeartbeatOptions(path, every_s=0.01, stuck_s=0.2, opening_s=0.2, grace_s=60)
    lines, lives = Lines(), list[Live]()

    @asynccontextmanager
    async def watcher(live: Live) -> AsyncIterator[str]:
        lives.append(live)
        yield "watching"

    camera.show(scenery(0))
    async with background_run(
        bundle,
        camera.source(),
        prompts,
        run_options(sites, heartbeat=options, **more),
        watcher,
        console=make_console(file=lines, width=500),
    ):
        with anyio.fail_after(120):
            await lives[0].frames.after(0)
        try:
            yield Beating(lines, lives[0])
        finally:
            camera.unplug()


async def until_touched(path: Path, times: int = 3) -> None:
    touched(path)
    with anyio.fail_after(60):
        for _ in range(times):
            while not touched(path):  # noqa: ASYNC110  (a file has no event)
                await anyio.sleep(0.005)


async def test_a_camera_whose_read_hangs_stops_it_and_a_frame_makes_it_go_on(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    camera, path = Camera(), tmp_path / "heartbeat"
    async with beating_run(mini_bundle, path, camera) as run:
        await run.lines.until(f"heartbeat {path} stops: no frame was finished, though frames are due for 0 s")
        touched(path)
        camera.show(scenery(1))
        await run.lines.until(f"the run moves again; heartbeat {path} goes on")
        assert touched(path)
        assert run.lines.getvalue().count("stops") == 1


async def test_a_file_that_cannot_be_written_later_is_told_once_and_when_it_can_again(tmp_path: Path) -> None:
    path, told, looks = tmp_path / "folder/heartbeat", list[str](), 0
    ended = anyio.Event()
    path.parent.mkdir()

    async def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            shutil.rmtree(path.parent)
        elif looks == 5:
            path.parent.mkdir()
        elif looks == 8:
            ended.set()
            await anyio.sleep_forever()

    async with beating(HeartbeatOptions(path), told.append, sleep=sleep):
        with anyio.fail_after(60):
            await ended.wait()
    assert told == [
        f"heartbeat {path} cannot be written (No such file or directory): whoever watches it will take this "
        "run for one that hangs",
        f"heartbeat {path} is written again",
    ]
    assert path.read_text() == "0\n"


async def test_a_paused_run_goes_on_without_frames(mini_bundle: Bundle, tmp_path: Path) -> None:
    camera, path = Camera(), tmp_path / "heartbeat"
    async with beating_run(mini_bundle, path, camera) as run:
        run.live.pause(True)
        await until_touched(path, times=40)  # 0.4 s and more: twice as long as it may hang
        assert "stops" not in run.lines.getvalue()
        run.live.pause(False)
        await run.lines.until("stops")


async def test_a_run_that_waits_for_its_pace_goes_on(mini_bundle: Bundle, tmp_path: Path) -> None:
    """A frame sends 2.3 megabits; the next is read five seconds later, though the camera has shown it."""
    camera, path = Camera(), tmp_path / "heartbeat"
    pace = PipelineOptions(max_mbit=0.5)
    async with (
        counted_sites(mini_bundle, tmp_path) as sites,
        beating_run(mini_bundle, path, camera, sites.file, CUP, pipeline=pace) as run,
    ):
        camera.show(scenery(1))
        await until_touched(path, times=40)
        assert "stops" not in run.lines.getvalue()


async def test_a_camera_that_is_opened_again_and_again_goes_on_and_one_attempt_that_hangs_stops_it(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    camera, path = HangingCamera(), tmp_path / "heartbeat"
    async with beating_run(mini_bundle, path, camera) as run:
        camera.unplug()
        await until_touched(path, times=40)
        assert "stops" not in run.lines.getvalue()
        camera.hangs.set()
        await run.lines.until(f"heartbeat {path} stops: an attempt to open the camera again has not come")
        camera.goes_on.set()


async def test_a_process_that_is_stopped_lets_the_file_get_old(mini_bundle: Bundle, tmp_path: Path) -> None:
    """As a loop that hangs does: nothing in the process can touch it."""
    path = tmp_path / "heartbeat"
    line = [*MODULE, "run", "--source", str(long_film(tmp_path / "film.mp4")), "--realtime", "--preview", "0"]
    line += ["--bundle", str(mini_bundle.path), "--allow-undistilled", "--threads", "1"]
    line += ["--heartbeat", str(path)]
    async with await anyio.open_process(line, stdout=subprocess.DEVNULL, stderr=None) as process:
        try:
            await until_older(path, 0)
            process.send_signal(signal.SIGSTOP)
            await until_older(path, 5.0)  # touched every two seconds, it would never be
            process.send_signal(signal.SIGCONT)
            await until_touched(path, times=1)
        finally:
            await killed(process)


async def until_older(path: Path, seconds: float) -> None:
    """Until the file is there and is so old."""

    def older() -> bool:
        return path.exists() and time.time() - path.stat().st_mtime >= seconds

    with anyio.fail_after(60):
        while not older():  # noqa: ASYNC110  (a file has no event)
            await anyio.sleep(0.05)


async def killed(process: Process) -> None:
    process.kill()
    await process.wait()


@pytest.mark.parametrize("abstract", [False, True])
async def test_systemd_hears_of_every_beat_and_of_none_when_the_run_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    """On a socket as systemd gives one to a service with WatchdogSec=."""
    address = f"@pedsam-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{address[1:]}" if abstract else address)
        systemd.setblocking(False)
        await look(tmp_path / "beat", 20)  # of which four are within the grace
        assert [systemd.recv(100) for _ in range(4)] == [b"WATCHDOG=1"] * 4
        with pytest.raises(BlockingIOError):
            systemd.recv(100)
    await look(tmp_path / "beat", 2)  # nobody listens any more, and nothing happens


async def look(path: Path, looks: int) -> None:
    """Look so many times at a run that does not get beyond its start, which may take 3 s, one apart."""
    options = HeartbeatOptions(path, every_s=1.0, grace_s=3.0)
    done, left = anyio.Event(), iter(range(looks))

    async def sleep(seconds: float) -> None:
        if next(left, None) is None:
            done.set()
            await anyio.sleep_forever()

    async with beating(options, lambda text: None, sleep=sleep):
        await done.wait()
