"""Runs that are stopped by a signal, at random moments and at chosen ones: real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.processes import children_of
from benchmarks.stops import KINDS, Stop, run_stopped, silent_server
from tests.runtime.frames.test_capture_process import is_there, until
from tests.support.edge import write_photo
from tests.support.processes import MODULE
from tests.support.streams import network_camera

ROOT = Path(__file__).parents[2]
BOX = ("--box", "20,20,200,200", "--threads", "1")
HORIZON_S = 6.0  # by then a run is at its frames, unless the machine is busy


@pytest.mark.parametrize(("seed", "kind"), list(enumerate(KINDS)))
def test_a_signal_at_a_random_moment_ends_a_run_in_order(seed: int, kind: str, tmp_path: Path) -> None:
    drawn = Stop.drawn(seed, HORIZON_S)
    ending = run_stopped(Stop(kind, drawn.signal, drawn.after_s, drawn.again_s), tmp_path)
    assert ending.faults == [], ending.said


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    line = [*MODULE, "run", *arguments, *BOX]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(line, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_that_is_stopped_while_its_camera_is_opened_has_done_nothing(
    number: signal.Signals, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with network_camera() as camera:
        camera.silent.set()
        with running("--source", camera.url, "--out", str(out)) as process:
            assert camera.asked.wait(60)
            (reader,) = children_of(process.pid)
            os.kill(reader, signal.SIGSTOP)  # as one that a driver holds
            process.send_signal(number)
            said, _ = process.communicate(timeout=30)  # it would give up the opening by itself in twice that
    assert not is_there(reader)
    assert process.returncode == 128 + number
    nothing = f"Error: nothing was done: {number.name} stopped the run before its first frame"
    assert said.splitlines() == ["stopping", nothing]
    assert not (out / "summary.json").exists()


def test_one_whose_sites_do_not_answer_can_be_stopped(tmp_path: Path) -> None:
    picture = write_photo(tmp_path / "a.png")
    with silent_server() as port:
        sites = tmp_path / "sites.toml"
        sites.write_text(
            f'[[site]]\nname = "a"\noperator = "a"\nurl = "http://127.0.0.1:{port}"\n', encoding="utf-8"
        )
        arguments = ("--source", str(picture), "--no-record", "--sites", str(sites), "--accept-exposure")
        with running(*arguments) as process:
            until(lambda: (tmp_path / "sites.ledger.json").exists())
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "Traceback" not in said


def test_a_live_run_ends_in_order_while_its_camera_says_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        network_camera() as camera,
        running("--source", camera.url, "--out", str(out), "--record") as process,
    ):
        until(lambda: any(out.glob("record/*/masks.jsonl")))
        camera.silent.set()
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "stopping after the frames under way" in said
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["stopped"] == "SIGINT"
    assert summary["nothing_done"] is None
    assert summary["frames"] >= 1


HANGING = """
import anyio, os, signal
from runtime.stopping import stopping
async def main():
    with stopping(lambda text: print(text, flush=True), lambda: None):
        with anyio.CancelScope(shield=True):
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGTERM)
                await anyio.sleep(0.01)
            await anyio.sleep_forever()
anyio.run(main)
"""


WRITING = """
import anyio, os, signal
from runtime.stopping import stopping
async def main():
    with stopping(lambda text: print(text, flush=True), lambda: None) as stop:
        stop.then("stopping once the results are written")
        os.kill(os.getpid(), signal.SIGTERM)
        await anyio.sleep(0.01)
        print("written")
anyio.run(main)
"""


def test_a_signal_that_comes_while_results_are_written_waits_for_them() -> None:
    line = [sys.executable, "-c", WRITING]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["stopping once the results are written", "written"]


def test_the_third_signal_ends_the_process_whatever_it_does() -> None:
    line = [sys.executable, "-c", HANGING]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "stopping\n", "")
