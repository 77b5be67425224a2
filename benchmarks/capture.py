"""What it costs to read a camera in a process of its own, beside reading it in this one.

    python -m benchmarks.capture --out benchmarks/results/capture.json

The camera is a film of 1920 x 1080 in Motion JPEG, as USB cameras give it, read as fast as that goes: "here"
as OpenCV reads it, to RGB by numpy, and "process" by `runtime.frames.capture_process`, as `pedsam run` does.
A picture that is left out there for a newer one counts as read. Figures are the best of the rounds, which
alternate; processor time is that of all threads, of the process that reads too.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np

from benchmarks.machine import describe
from runtime.frames.cameras import environment_of
from runtime.frames.capture_process import CaptureProcess
from runtime.frames.capturing import Attempt

FRAMES, HEIGHT, WIDTH, FPS = 150, 1080, 1920, 30
ROUNDS = 3
TICKS = os.sysconf("SC_CLK_TCK")


def film(path: Path) -> None:
    """A soft pattern that moves, under a camera's noise."""
    noise = np.random.default_rng(0).normal(0, 4, (HEIGHT, WIDTH, 3))
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (WIDTH, HEIGHT))
    for number in range(FRAMES):
        soft = 128 + 80 * np.sin((column + 4 * number) / 60) * np.cos(row / 45)
        writer.write(np.clip(soft[..., None] + noise, 0, 255).astype(np.uint8))
    writer.release()


def read_here(path: Path) -> dict[str, float]:
    started_s, used_s = time.perf_counter(), time.process_time()
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    pictures, first_s = 0, 0.0
    while (answer := capture.read())[0]:
        np.ascontiguousarray(answer[1][..., ::-1], np.uint8)
        pictures += 1
        first_s = first_s or time.perf_counter() - started_s
    return _figures(pictures, first_s, started_s, time.process_time() - used_s)


def read_in_a_process(path: Path) -> dict[str, float]:
    started_s, used_s = time.perf_counter(), time.process_time()
    process = CaptureProcess(lambda: [Attempt("stream", str(path))], environment_of(None, None))
    if process.open() is None:
        raise RuntimeError(f"{path} cannot be opened")
    pictures, left_out, first_s = 0, 0, 0.0
    begun_s = _used_s(process.pid)  # without that of starting it
    while process.read() is not None:
        pictures += 1 + process.skipped
        left_out += process.skipped
        first_s = first_s or time.perf_counter() - started_s
    figures = _figures(
        pictures, first_s, started_s, time.process_time() - used_s + _used_s(process.pid) - begun_s
    )
    process.stop()
    return figures | {"left_out": left_out}


def _used_s(pid: int | None) -> float:
    """Processor time of a process so far (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _figures(pictures: int, first_s: float, started_s: float, used_s: float) -> dict[str, float]:
    if pictures < FRAMES - 2:  # the last ones may not have been taken out of the shared memory
        raise RuntimeError(f"{pictures} pictures were read, expected {FRAMES}")
    return {
        "first_picture_s": round(first_s, 3),
        "frames_per_s": round((pictures - 1) / (time.perf_counter() - started_s - first_s), 1),
        "processor_ms_a_frame": round(used_s / pictures * 1e3, 2),
    }


def best(rounds: list[dict[str, float]]) -> dict[str, float]:
    most = ("frames_per_s",)
    return {name: (max if name in most else min)(each[name] for each in rounds) for name in rounds[0]}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(out: Path) -> None:
    """Read the film both ways."""
    readers: dict[str, Callable[[Path], dict[str, float]]] = {
        "here": read_here,
        "process": read_in_a_process,
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in readers}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "film.avi"
        film(path)
        for _ in range(ROUNDS):
            for name, read in readers.items():
                found[name].append(read(path))
    result: dict[str, Any] = {
        "machine": describe() | {"opencv": cv2.__version__},
        "frames": FRAMES,
        "size": [HEIGHT, WIDTH],
        "rounds": ROUNDS,
        **{name: best(rounds) for name, rounds in found.items()},
    }
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
