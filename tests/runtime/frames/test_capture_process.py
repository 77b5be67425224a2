"""The process that reads a camera: it is killed, stopped or crashes, and pictures come as they are."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from runtime.frames.cameras import CameraOptions, _stream_attempts, environment_of, source_for
from runtime.frames.capture_process import CaptureProcess
from runtime.frames.capturing import packet_of
from runtime.frames.gstreamer import JetsonVideo
from stages.address import Address
from tests.support.cameras import scenery
from tests.support.few_files import few_files
from tests.support.streams import NetworkCamera, network_camera

ROOT = Path(__file__).parents[3]
HOLDING = """
import sys, time
import cv2
from runtime.frames.capture_process import CaptureProcess
from runtime.frames.capturing import Attempt
patient = ((cv2.CAP_PROP_READ_TIMEOUT_MSEC, 600_000),)
process = CaptureProcess(lambda: [Attempt("stream", sys.argv[1], patient)])
process.open().read()
print(process.pid, flush=True)
time.sleep(600)
"""


@contextmanager
def reading(camera: NetworkCamera, **limits: float) -> Iterator[CaptureProcess]:
    attempts = _stream_attempts(Address(camera.url), JetsonVideo.here())
    process = CaptureProcess(lambda: attempts, environment_of(None, None), **limits)
    try:
        yield process
    finally:
        process.stop()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_there(pid: int) -> bool:
    """Whether a process runs, and is not just waited for."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False
    return "State:\tZ" not in status


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_is_a_lost_connection_that_is_tried_again(how: signal.Signals) -> None:
    said: queue.Queue[str] = queue.Queue()
    with (
        network_camera() as camera,
        source_for(camera.url, CameraOptions(), said.put, steady_s=0.0) as source,
    ):
        frames = iter(source)
        next(frames)
        pid = process_of(source).pid
        assert pid is not None
        os.kill(pid, how)
        assert said.get(timeout=60).endswith("gives no picture any more; it is opened again when it is back")
        assert next(frames).error is None
        assert said.get(timeout=60).endswith("is back")
        assert process_of(source).pid not in (None, pid)


def process_of(source: object) -> CaptureProcess:
    found = source._open_capture.__self__  # type: ignore[attr-defined]
    assert isinstance(found, CaptureProcess)
    return found


def test_a_read_that_never_returns_ends_when_the_source_is_stopped() -> None:
    """The process is halted, as one inside a driver that hangs."""
    with network_camera() as camera, source_for(camera.url, CameraOptions()) as source:
        frames = iter(source)
        next(frames)
        pid = process_of(source).pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(0.2, source.stop).start()
        assert not list(frames)
    assert not is_there(pid)
    assert not any(thread.name.startswith("camera ") for thread in threading.enumerate())


def test_an_opening_that_never_returns_ends_when_it_is_stopped() -> None:
    with network_camera() as camera, reading(camera) as process:
        camera.silent.set()
        threading.Timer(0.2, process.stop).start()
        assert process.open() is None
        assert process.open() is None  # for good
        assert process.pid is None


def test_what_gives_nothing_for_too_long_is_ended_and_can_be_opened_again() -> None:
    with network_camera() as camera, reading(camera, picture_s=1.0) as process:
        assert process.open() is process
        first = process.pid
        assert process.read() is not None
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        until(lambda: process.read() is None)
        assert not is_there(first)
        assert process.read() is None
        assert process.open() is process
        assert process.read() is not None


def test_a_picture_that_cannot_be_taken_out_is_a_lost_connection() -> None:
    with network_camera() as camera, reading(camera) as process:
        assert process.open() is process
        with few_files(0):
            assert process.read() is None
        assert process.failed
        assert process.pid is None
        assert process.open() is process
        assert process.read() is not None
        assert not process.failed


def test_what_cannot_be_opened_is_asked_again_in_the_same_process() -> None:
    with network_camera() as camera, reading(camera) as process:
        camera.streaming.clear()
        assert process.open() is None
        first = process.pid
        camera.streaming.set()
        assert process.open() is process
        assert process.pid == first
        assert process.read() is not None


def test_pictures_change_their_size() -> None:
    """From one to a larger one, and back, in one process."""
    with network_camera() as camera, reading(camera) as process:
        pids = set()
        for shape in ("16:9", "1000x667", "portrait", "16:9"):
            camera.shape = shape
            camera.streaming.set()
            assert process.open() is process
            picture = process.read()
            assert picture is not None
            assert picture.shape == scenery(0, shape).shape
            near = (np.abs(picture.astype(int) - scenery(number, shape)).mean() for number in range(50))
            assert min(near) < 15
            camera.streaming.clear()
            until(lambda: process.read() is None)
            pids.add(process.pid)
        assert len(pids) == 1


def test_the_newest_picture_is_read_and_the_others_are_counted() -> None:
    with network_camera() as camera, reading(camera) as process:
        assert process.open() is process
        assert process.read() is not None
        sent = camera.sent
        until(lambda: camera.sent >= sent + 20)
        assert process.read() is not None
        assert process.skipped > 0  # what waited when it was asked
        picture = process.read()
        assert picture is not None
        assert process.came_s is not None
        assert process.came_s <= time.perf_counter()
        assert picture.flags.c_contiguous
        assert picture.flags.owndata


def test_neither_its_command_line_nor_signals_for_the_terminal_reach_it() -> None:
    """Whoever started it ends it; other users of the machine see its command line."""
    with network_camera() as camera, reading(camera) as process:
        assert process.open() is process
        pid = process.pid
        assert pid is not None
        assert b"secret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert os.getpgid(pid) == pid != os.getpgid(0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
        for _ in range(5):
            assert process.read() is not None
        assert process.pid == pid


@pytest.mark.parametrize("name", ["queue", "cv2", "runtime"])
def test_nothing_is_imported_from_the_folder_where_a_run_is_started(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{name}.py").write_text("raise SystemExit(1)\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with network_camera() as camera, reading(camera) as process:
        assert process.open() is process


def test_it_ends_with_the_process_that_started_it() -> None:
    """Also while it is inside OpenCV."""
    with network_camera() as camera:
        line = [sys.executable, "-c", HOLDING, camera.url]
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
            assert holder.stdout is not None
            pid = int(holder.stdout.readline())
            camera.silent.set()
            time.sleep(0.5)  # what was sent before is read
            holder.kill()
            until(lambda: not is_there(pid))


def test_without_memory_for_a_picture_it_ends_in_silence() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    code = "from runtime.frames import capturing; capturing.main()"
    with network_camera() as camera, ours, theirs, Path("/dev/null").open() as memory:
        files = (theirs.fileno(), memory.fileno())
        ours.send(packet_of(_stream_attempts(Address(camera.url), JetsonVideo.here())))
        line = [sys.executable, "-c", code, *map(str, files)]
        done = subprocess.run(
            line, pass_fds=files, check=False, capture_output=True, text=True, cwd=ROOT, timeout=60
        )
        assert ours.recv(100) == b'{"opened": true}'
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)


def test_pictures_are_those_of_opencv_in_rgb() -> None:
    with network_camera() as camera, reading(camera) as process:
        assert process.open() is process
        picture = process.read()
        assert picture is not None
    assert np.abs(picture.astype(int) - scenery(0)).mean() < 15
