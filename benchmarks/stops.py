"""Runs that are stopped at random moments by a signal: how they end.

    python -m benchmarks.stops --runs 200 --out benchmarks/results/stops.json

Each seed draws a source (many or few pictures, a stream, a stream that falls silent, a camera that answers
nothing, a site that answers nothing), a moment up to --horizon seconds after the start, a signal, and for
every fourth run a second signal soon after. The run is a process of its own. What is looked at: its exit
code, what it printed, whether its files are whole, and whether a process of it is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import describe
from benchmarks.processes import die_with_starter
from tests.support.edge import sites_file, write_photo
from tests.support.streams import network_camera

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
KINDS = ("pictures", "few pictures", "stream", "falls silent", "silent camera", "silent site")
END_S = 120.0  # a run that has not ended by then hangs
MARK = "PEDSAM_STOPS_MARK"  # in the environment of a run and of all it starts
CRASHES = ("Traceback", "Fatal Python", "terminate called", "Exception ignored", "core dumped", "Assertion")


@dataclass(frozen=True)
class Stop:
    """What a seed draws: a signal after so many seconds, and a second one so long after that, if any."""

    kind: str
    signal: str
    after_s: float
    again_s: float | None

    @classmethod
    def drawn(cls, seed: int, horizon_s: float) -> Stop:
        draw = random.Random(seed)  # noqa: S311
        after_s = draw.uniform(0, horizon_s)
        again_s = draw.uniform(0, 0.5) if draw.random() < 0.25 else None
        return cls(draw.choice(KINDS), draw.choice(SIGNALS).name, after_s, again_s)


@dataclass
class Ending:
    """How a run ended. `faults` is empty if it is well."""

    stop: Stop
    code: int
    moment: str
    ending_s: float  # from the signal to the end
    faults: list[str] = field(default_factory=list)
    said: str = ""


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """A port whose server accepts and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(server.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for each in held:
                each.close()


@contextlib.contextmanager
def arguments_for(kind: str, folder: Path) -> Iterator[list[str]]:
    """The command line of a run of this kind, while what it needs is there."""
    line = ["--out", str(folder / "out"), "--box", "20,20,200,200", "--threads", "1"]
    with contextlib.ExitStack() as stack:
        if kind in ("pictures", "few pictures", "silent site"):
            (folder / "in").mkdir()
            first = write_photo(folder / "in/000.png")
            for number in range(1, 4 if kind == "few pictures" else 500):
                os.link(first, folder / f"in/{number:03}.png")
            line += ["--source", str(folder / "in")]
        if kind == "silent site":
            url = f"http://127.0.0.1:{stack.enter_context(silent_server())}"
            line += ["--sites", str(sites_file(folder / "sites.toml", ("a", url))), "--accept-exposure"]
        if kind == "silent camera":
            port = stack.enter_context(silent_server())
            line += ["--source", f"http://127.0.0.1:{port}/video", "--record"]
        if kind in ("stream", "falls silent"):
            camera = stack.enter_context(network_camera())
            line += ["--source", camera.url, "--record"]
            if kind == "falls silent":
                stack.enter_context(silent_soon(camera.asked, camera.silent))
        yield line


@contextlib.contextmanager
def silent_soon(asked: threading.Event, silent: threading.Event) -> Iterator[None]:
    """Sets `silent` two seconds after somebody has asked."""
    over = threading.Event()

    def wait() -> None:
        while not asked.wait(0.1):
            if over.is_set():
                return
        over.wait(2)
        silent.set()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def run_stopped(stop: Stop, folder: Path) -> Ending:
    """Run once, and stop it."""
    mark = f"{os.getpid()}-{folder.name}"
    environment = {**os.environ, MARK: mark, "PYTHONFAULTHANDLER": "1"}
    said = folder / "said.txt"
    with arguments_for(stop.kind, folder) as line, said.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pedsam", "run", *line],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=die_with_starter,
        )
        try:
            handled = _stop(process, stop)
            sent_s = time.perf_counter()
            code = process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            handled, sent_s, code = True, time.perf_counter() - END_S, -signal.SIGKILL
        ending_s = time.perf_counter() - sent_s
        left = _left(mark)
    text = said.read_text(encoding="utf-8")
    ending = Ending(stop, code, _moment(text, code, handled), round(ending_s, 2))
    if handled:  # else it was Python's own affair
        ending.faults += [f"printed {word!r}" for word in CRASHES if word in text]
        ending.faults += list(_faults_of(ending, text))
    ending.faults += ["a process is left"] if left else []
    ending.faults += list(_damage(folder / "out", code))
    if ending.faults:
        ending.said = text[-2000:]
    return ending


def _stop(process: subprocess.Popen[bytes], stop: Stop) -> bool:
    """Send the signals. Returns whether the first one found a handler: before pedsam's first line, while
    Python itself starts, it ends the process as it does any other."""
    number = signal.Signals[stop.signal]
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(stop.after_s)
    handled = _handles(process.pid)
    process.send_signal(number)
    if stop.again_s is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(stop.again_s)
        process.send_signal(number)
    return handled


def _handles(pid: int) -> bool:
    """Whether this process has handlers of pedsam, or has ended. Python itself handles SIGINT alone."""
    wanted = sum(1 << (number - 1) for number in SIGNALS)
    found = 0
    with contextlib.suppress(OSError):
        for text in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            name, _, value = text.partition(":")
            if name == "State" and "Z" in value:
                return True
            if name in ("SigIgn", "SigCgt"):
                found |= int(value, 16)
        return found & wanted == wanted
    return True


def _moment(text: str, code: int, handled: bool) -> str:
    """When the first signal came, by what the run says of it."""
    if not handled:
        return "before pedsam's first line"
    for words, moment in (
        ("stopping after the frames", "frames under way"),
        ("stopping once", "results being written"),
        ("stopping", "opening"),
    ):
        if words in text:
            return moment
    return "imports and options" if code > 128 else "after the end"


def _faults_of(ending: Ending, text: str) -> Iterator[str]:
    stop, code = ending.stop, ending.code
    early = 128 + signal.Signals[stop.signal]
    if code < 0:
        yield f"ended by {signal.Signals(-code).name}"
    ended = ending.moment == "after the end"
    expected = {0} if ended else {0, early}
    if ended and stop.kind == "silent camera":  # such a run ends by itself
        expected = {1}
    if stop.again_s is not None:
        expected.add(1)
    elif "Aborted" in text:
        yield "aborted at the first signal"
    if code not in expected:
        yield f"exit code {code}"
    if ending.moment in ("imports and options", "opening") and code == 0:
        yield "nothing was done, and the exit code is 0"


def _damage(out: Path, code: int) -> Iterator[str]:
    """What is not whole of a run's files."""
    summary = out / "summary.json"
    if code == 0 and not summary.exists():
        yield "there is no summary"
    with contextlib.suppress(FileNotFoundError):
        try:
            frames = json.loads(summary.read_text(encoding="utf-8"))["frames"]
            lines = (out / "masks.jsonl").read_text(encoding="utf-8").splitlines()
            found = [json.loads(line)["frame"] for line in lines]
        except ValueError:
            yield "a file is cut off"
            return
        if found != list(range(frames)):
            yield f"{len(found)} masks of {frames} frames"


def _left(mark: str) -> list[int]:
    """Processes of a run that are there ten seconds after it has ended."""
    deadline = time.monotonic() + 10
    while (found := list(_marked(mark))) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    return found


def _marked(mark: str) -> Iterator[int]:
    wanted = f"{MARK}={mark}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in path.read_bytes().split(b"\0"):
                yield int(path.parent.name)


@click.command()
@click.option("--runs", type=click.IntRange(1), default=200, show_default=True)
@click.option("--first", type=int, default=0, show_default=True, help="Seed of the first run.")
@click.option("--horizon", type=click.FloatRange(0.1), default=9.0, show_default=True, help="In seconds.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(runs: int, first: int, horizon: float, out: Path) -> None:
    """Stop so many runs, and count how they ended."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup the runs would ignore it
    endings = []
    for seed in range(first, first + runs):
        with tempfile.TemporaryDirectory() as scratch:
            ending = run_stopped(Stop.drawn(seed, horizon), Path(scratch))
        endings.append(ending)
        click.echo(f"seed {seed}: {ending.stop.kind}, {ending.moment}: {ending.code} {ending.faults or ''}")
    out.write_text(json.dumps(_report(endings, first, horizon), indent=1) + "\n", encoding="utf-8")


def _report(endings: list[Ending], first: int, horizon: float) -> dict[str, Any]:
    counts: dict[str, Counter[str]] = {}
    for ending in endings:
        counts.setdefault(ending.moment, Counter())[str(ending.code)] += 1
    slowest = max(endings, key=lambda ending: ending.ending_s)
    return {
        "machine": describe(),
        "runs": len(endings),
        "first_seed": first,
        "horizon_s": horizon,
        "exit_codes_by_moment": {moment: dict(found) for moment, found in sorted(counts.items())},
        "runs_by_kind": dict(Counter(ending.stop.kind for ending in endings)),
        "two_signals": sum(ending.stop.again_s is not None for ending in endings),
        "slowest_ending_s": slowest.ending_s,
        "with_faults": [asdict(ending) for ending in endings if ending.faults],
    }


if __name__ == "__main__":
    main()
