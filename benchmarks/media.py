"""Videos read and written by pedsam beside OpenCV, and the memory of reading very large pictures.

    python -m benchmarks.media --out results.json

Everything is made here: 90 noisy frames of 1280 x 720, and pictures of 20 megapixels, each of which is
read in a process of its own. Times are milliseconds a frame, the best of three rounds; those of the
processor sum all threads.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.machine import describe
from media.video_writer import VideoWriter
from media.videos import VideoReader

FRAMES, HEIGHT, WIDTH, FPS = 90, 720, 1280, 30
ROUNDS = 3
PIXELS = (4000, 5000)
# Prints by how many KiB reading raises the peak of a process (VmHWM, proc(5)).
PEAK = """
import re, sys
from pathlib import Path
from media.pictures import read_picture
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text("ascii"))[1])
before = peak()
read_picture(Path(sys.argv[1]))
print(peak() - before)
"""

Pixels = npt.NDArray[np.uint8]


def frames() -> list[Pixels]:
    """A soft pattern that moves, under a camera's noise: RGB uint8 [720, 1280, 3]."""
    noise = np.random.default_rng(0)
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    made = []
    for number in range(FRAMES):
        soft = 128 + 80 * np.sin((column + 4 * number) / 60) * np.cos(row / 45)
        made.append(
            np.clip(soft[..., None] + noise.normal(0, 4, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)
        )
    return made


def write_here(pictures: list[Pixels], path: Path) -> None:
    writer = VideoWriter(path, FPS)
    for number, picture in enumerate(pictures):
        writer.write(picture, number / FPS)
    writer.close()


def write_opencv(pictures: list[Pixels], path: Path) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (WIDTH, HEIGHT))
    for picture in pictures:
        writer.write(np.ascontiguousarray(picture[..., ::-1]))
    writer.release()


def read_here(path: Path) -> None:
    with VideoReader(path) as reader:
        _check(sum(1 for _ in reader.frames()))


def read_opencv(path: Path) -> None:
    """To RGB, as it is needed."""
    capture, count = cv2.VideoCapture(str(path)), 0
    while True:
        ok, image = capture.read()
        if not ok:
            break
        np.ascontiguousarray(image[..., ::-1])
        count += 1
    _check(count)


def _check(count: int) -> None:
    if count != FRAMES:
        raise RuntimeError(f"{count} frames were read, expected {FRAMES}")


def ms_a_frame(work: Callable[[], None]) -> dict[str, float]:
    """Milliseconds a frame: of the processor, and by the clock."""
    processor, clock = [], []
    for _ in range(ROUNDS):
        started, used = time.perf_counter(), _used_s()
        work()
        processor.append(_used_s() - used)
        clock.append(time.perf_counter() - started)
    return {
        "cpu_ms": round(min(processor) / FRAMES * 1e3, 2),
        "wall_ms": round(min(clock) / FRAMES * 1e3, 2),
    }


def _used_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def bytes_a_pixel(folder: Path) -> dict[str, float]:
    """Peak memory of reading one picture, beyond what its process had before."""
    noise = np.random.default_rng(0)
    kinds = {
        "RGB JPEG": Image.fromarray(noise.integers(0, 256, (*PIXELS, 3), np.uint8)),
        "RGBA PNG": Image.fromarray(noise.integers(0, 256, (*PIXELS, 4), np.uint8)),
        "grey PNG of 16 bits": Image.fromarray(noise.integers(0, 65536, PIXELS, np.uint16)),
    }
    found = {}
    for kind, picture in kinds.items():
        path = folder / f"picture.{'jpg' if 'JPEG' in kind else 'png'}"
        picture.save(path)
        done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True)
        found[kind] = round(int(done.stdout) * 1024 / (PIXELS[0] * PIXELS[1]), 1)
    return found


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(out: Path) -> None:
    """Measure, and write JSON."""
    pictures = frames()
    with tempfile.TemporaryDirectory() as name:
        here, opencv = Path(name) / "here.mp4", Path(name) / "opencv.mp4"
        rows: dict[str, Any] = {
            "write": {
                "pedsam, H.264": ms_a_frame(lambda: write_here(pictures, here)),
                "OpenCV, MPEG-4 part 2": ms_a_frame(lambda: write_opencv(pictures, opencv)),
            },
            "kilobytes_a_frame": {
                "pedsam, H.264": round(here.stat().st_size / FRAMES / 1e3, 1),
                "OpenCV, MPEG-4 part 2": round(opencv.stat().st_size / FRAMES / 1e3, 1),
            },
            "read_h264": {
                "pedsam": ms_a_frame(lambda: read_here(here)),
                "OpenCV": ms_a_frame(lambda: read_opencv(here)),
            },
            "picture_bytes_a_pixel": bytes_a_pixel(Path(name)),
        }
    found = {"machine": describe(), "frames": FRAMES, "size": [HEIGHT, WIDTH], **rows}
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
