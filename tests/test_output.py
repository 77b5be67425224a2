"""What happens to commands whose words nobody reads."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import select
import shlex
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from pedsam.command import LazyGroup
from stages.console import MISSING, LastingOutput
from tests.support.edge import write_photo

ROOT = Path(__file__).parent.parent


def test_a_pipe_whose_reader_has_ended_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        output = LastingOutput(stream)
        for _ in range(3):
            output.write("words" * 10_000)
            output.flush()
    assert output.error is None


def test_a_full_disk_is_kept_for_the_end() -> None:
    with Path("/dev/full").open("w") as stream:
        output = LastingOutput(stream)
        for _ in range(3):
            output.write("words")
            output.flush()
    assert output.error is not None
    assert output.error.errno == errno.ENOSPC


def test_a_connection_that_was_reset_is_no_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    ours.send(b"words")
    theirs.recv(1, socket.MSG_PEEK)
    theirs.close()  # what is unread then resets it
    with os.fdopen(ours.detach(), "w") as stream:
        select.select([stream], [], [], 60)
        output = LastingOutput(stream)
        for _ in range(3):
            output.write("words")
            output.flush()
    assert output.error is None


def full_pipe() -> tuple[int, int]:
    """The reading and the writing end of a pipe that takes nothing more."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    return reading, writing


def test_a_full_pipe_that_nobody_reads_keeps_nobody_waiting() -> None:
    """What did not go through goes with what is written later, if somebody reads by then."""
    reading, writing = full_pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading, "rb", buffering=0) as reader:
        output = LastingOutput(stream)
        output.write("one\n")
        output.flush()
        full = reader.read(1 << 20)
        output.write("two\n")
        assert reader.read(100) == b"one\ntwo\n"
        output.close()
        assert set(full) == {ord("x")}
        assert os.get_blocking(writing)  # other programs may have it too
    assert output.error is None


def test_a_full_socket_keeps_nobody_waiting() -> None:
    """As a service's output is one; it cannot be opened anew."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(b"x" * 4096)
    ours.setblocking(True)
    with ours, theirs, os.fdopen(os.dup(ours.fileno()), "w") as stream:
        output = LastingOutput(stream)
        output.write("words")
        output.flush()
        output.close()
    assert output.error is None


def test_what_nobody_reads_is_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.console.KEPT_BYTES", 20)
    reading, writing = full_pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading, "rb", buffering=0) as reader:
        output = LastingOutput(stream)
        for number in range(100):
            output.write(f"line {number}\n")
        reader.read(1 << 20)
        output.write("last\n")
        assert reader.read(1000) == b"line 0\nline 1\n" + MISSING + b"last\n"
        output.close()


def test_at_the_end_a_reader_that_reads_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.console.PATIENCE_S", 0.01)
    reading, writing = full_pipe()
    with os.fdopen(writing, "w") as stream:
        output = LastingOutput(stream)
        output.write("words")
        output.finish()
        output.write("words")
        output.finish()  # it is not asked again
        output.close()
    os.close(reading)


def test_at_the_end_a_slow_reader_gets_everything() -> None:
    reading, writing = full_pipe()
    words = "words\n" * 50_000
    got: list[bytes] = []
    with os.fdopen(reading, "rb") as reader:
        thread = threading.Thread(target=lambda: got.append(reader.read()))
        with os.fdopen(writing, "w") as stream:
            output = LastingOutput(stream)
            output.write(words)
            thread.start()
            output.finish()
            output.close()
        thread.join(60)
    assert got[0].lstrip(b"x").decode() == words


def test_a_terminal_that_is_stopped_or_closed_keeps_nobody_waiting() -> None:
    outside, inside = pty.openpty()
    with os.fdopen(inside, "w") as stream:
        output = LastingOutput(stream)
        for _ in range(100):  # more than a terminal takes that nobody reads
            output.write("words\n" * 1000)
        os.close(outside)
        for _ in range(3):
            output.write("words")
            output.flush()
        output.close()
    assert output.error is None


FULL = {"output": (True, False), "errors": (False, True), "both": (True, True)}


@pytest.mark.parametrize("which", FULL)
def test_a_run_whose_words_nobody_reads_goes_on_and_its_files_are_whole(which: str, tmp_path: Path) -> None:
    """Both ends are there until its summary is: a blocked write would keep it from that."""
    (tmp_path / "in").mkdir()
    for number in range(3):
        write_photo(tmp_path / f"in/{number}.png")
    (tmp_path / "in/3.png").write_bytes(b"no picture, which is told")
    line = [sys.executable, "-m", "pedsam", "run", "--source", str(tmp_path / "in"), "--threads", "1"]
    line += ["--box", "20,20,200,200", "--out", str(tmp_path / "out")]
    reading, writing = full_pipe()
    output, errors = (writing if full else subprocess.DEVNULL for full in FULL[which])
    process = subprocess.Popen(line, stdout=output, stderr=errors, cwd=ROOT)
    os.close(writing)
    with process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "out/summary.json").exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.close(reading)
        assert process.wait(60) == 3  # of the frame that is lost
    summary = json.loads((tmp_path / "out/summary.json").read_text(encoding="utf-8"))
    assert (summary["frames"], summary["frames_lost"]) == (4, 1)
    assert len((tmp_path / "out/masks.jsonl").read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.parametrize(("stream", "code"), [("stdout", 1), ("stderr", 0)])
def test_a_run_whose_words_have_no_room_goes_on_too(stream: str, code: int, tmp_path: Path) -> None:
    """The exit code says it of standard output alone, which may be kept in a file."""
    write_photo(tmp_path / "1.png")
    line = [sys.executable, "-m", "pedsam", "run", "--source", str(tmp_path), "--threads", "1"]
    line += ["--box", "20,20,200,200", "--out", str(tmp_path / "out")]
    with Path("/dev/full").open("w") as full:
        where: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: full}
        done = subprocess.run(line, cwd=ROOT, check=False, timeout=120, **where)
    assert done.returncode == code
    assert json.loads((tmp_path / "out/summary.json").read_text(encoding="utf-8"))["frames"] == 1


@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-"])
def test_an_error_that_cannot_be_told_is_still_one(where: str) -> None:
    line = [sys.executable, "-m", "pedsam", "run", "--source", "gone", "--box", "1,1,2,2"]
    done = subprocess.run(["/bin/sh", "-c", f"{shlex.join(line)} {where}"], cwd=ROOT, check=False)
    assert done.returncode == 1


def test_head_ends_no_run(tmp_path: Path) -> None:
    write_photo(tmp_path / "1.png")
    line = [sys.executable, "-m", "pedsam", "run", "--source", str(tmp_path), "--threads", "1"]
    line += ["--box", "20,20,200,200", "--out", str(tmp_path / "out")]
    script = f"{{ {shlex.join(line)}; echo $? >&2; }} | head -n 1 > /dev/null"
    done = subprocess.run(["/bin/sh", "-c", script], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.stderr == "0\n"
    assert (tmp_path / "out/summary.json").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_that_nothing_else_has_told_is_one_sentence(number: int) -> None:
    @click.command("x")
    def command() -> None:
        raise OSError(number, os.strerror(number), "results.json")

    group = LazyGroup("pedsam")
    group.get_command = lambda ctx, name: command  # type: ignore[method-assign]
    result = CliRunner().invoke(group, ["x"])
    assert result.exit_code == 1
    assert result.output == f"Error: results.json: {os.strerror(number)}\n"


@pytest.mark.parametrize(
    ("where", "why"), [("1</dev/null", "Bad file descriptor"), (">/dev/full", "No space left on device")]
)
def test_standard_output_that_cannot_be_written_is_one_sentence(where: str, why: str) -> None:
    code = (
        "import click; from pedsam.command import LazyGroup\n"
        "group = LazyGroup('pedsam')\n"
        "group.get_command = lambda ctx, name: click.Command('x', callback=lambda: click.echo('words'))\n"
        "group.main(['x'])"
    )
    line = f"{shlex.join([sys.executable, '-c', code])} {where}"
    done = subprocess.run(["/bin/sh", "-c", line], check=False, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"Error: standard output: {why}\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_is_no_error(tmp_path: Path, closed: str) -> None:
    """Nor does the next file that is opened get what is printed."""
    code = (
        "import os, sys; from pathlib import Path; import click\n"
        "from pedsam.command import LazyGroup\n"
        "@click.command('x')\n"
        "def command():\n"
        "    with open(sys.argv[-1] + '/result', 'w') as file:\n"
        "        click.echo('words'); print('words'); os.system('echo words; echo words >&2')\n"
        "        file.write('a result')\n"
        "group = LazyGroup('pedsam'); group.get_command = lambda ctx, name: command\n"
        "group.main(['x'])"
    )
    line = f"{shlex.join([sys.executable, '-c', code, str(tmp_path)])} {closed}"
    done = subprocess.run(["/bin/sh", "-c", line], check=False, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.replace("words\n", "")) == (0, "")
    assert (tmp_path / "result").read_text() == "a result"
