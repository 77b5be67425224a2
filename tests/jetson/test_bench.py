"""`pedsam board bench` on a pretended board, where `pedsam bench` is real: the service runs again after."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from media.pictures import read_picture
from tests.support.flashing import Flashing
from tests.support.processes import MODULE

pytestmark = pytest.mark.sshd


def line(board: Flashing, *more: str) -> list[str]:
    return [*MODULE, "board", "bench", "board", "--ssh-config", str(board.ssh_config), *more]


def benched(board: Flashing, *more: str) -> subprocess.CompletedProcess[str]:
    words = line(board, "--runs", "1", *more)
    return subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


@contextmanager
def hanging(board: Flashing) -> Iterator[subprocess.Popen[str]]:
    """The command while the board measures, in a process group of its own, as a shell starts it."""
    board.trouble("bench-hangs")
    words = line(board)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "the service is stopped meanwhile\n"
        assert process.stdout.readline() == "measuring\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_board_is_measured_and_its_service_runs_again(board: Flashing, tmp_path: Path) -> None:
    board.flash()
    out, state = tmp_path / "new/out", board.board.home / "pedsam/state"
    before = {path.name for path in state.iterdir()}
    done = benched(board, "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "the service is stopped meanwhile"
    assert lines[-2:] == [
        "the service is started again",
        f"{out / 'bench.json'} and {out / 'bench.png'} hold this here",
    ]
    assert any(text.startswith("offloaded, one after another, is limited by ") for text in lines)
    assert board.wait_until_healthy()
    written = json.loads((out / "bench.json").read_text(encoding="utf-8"))
    assert {way: each["runs"] for way, each in written["ways"].items()} == {"local": 1, "offloaded": 1}
    assert list(written["ways"]["offloaded"]["sites"]) == ["a", "b", "c"]
    assert written["ways"]["local"]["board"]["power_w_mean"] > 1
    assert read_picture(out / "bench.png").shape[2] == 3
    assert {path.name for path in state.iterdir()} - before <= {"bench", "starts", "starts.new"}

    where_results_cannot_be_written_nothing_is_stopped(board)
    a_failure_is_told_and_the_service_runs_again(board)
    a_service_that_was_stopped_stays_so(board)


def where_results_cannot_be_written_nothing_is_stopped(board: Flashing) -> None:
    done = benched(board, "--out", "/proc/none")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: cannot write /proc/none")
    assert "service" not in done.stdout
    assert board.running


def a_failure_is_told_and_the_service_runs_again(board: Flashing) -> None:
    board.trouble("bench-unknown")
    done = benched(board)
    board.trouble("bench-unknown", there=False)
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert "was flashed by a pedsam that had no bench; `pedsam board update board`" in said
    assert board.wait_until_healthy()
    sites = board.board.home / f"pedsam/versions/{board.current}/config/sites.toml"
    sites.write_text("", encoding="utf-8")
    assert benched(board).stderr.startswith("Error: board cannot be measured: sites file ")
    assert board.wait_until_healthy()


def a_service_that_was_stopped_stays_so(board: Flashing) -> None:
    board.board.connection().script("service.sh", "stop")
    assert "the service is" not in benched(board).stdout
    assert board.running is None


def test_the_service_runs_again_after_ctrl_c_and_a_lost_connection(board: Flashing) -> None:
    board.flash()
    with hanging(board) as process:
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 1
    assert not measures(board)
    assert board.wait_until_healthy()
    with hanging(board) as process:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
    assert measures(board)
    assert board.running is None
    board.trouble("bench-hangs", there=False)
    assert board.wait_until_healthy()


def measures(board: Flashing) -> bool:
    pid = (board.board.folder / "docker/containers/pedsam-bench/pid").read_text(encoding="utf-8")
    return Path(f"/proc/{pid}").exists()
