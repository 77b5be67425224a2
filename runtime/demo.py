"""`pedsam demo`: three sites on loopback, a camera pan over a photograph, start to finish or without an end.

The photographs ship inside scikit-image: "astronaut" (Eileen Collins, by NASA, public domain) and "coffee"
(by Rachel Michetti, CC0). The pan is a crop that moves over the photograph, so its frames differ as those of
a moving camera do.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from anyio import to_thread
from PIL import Image
from rich.console import Console

from runtime.cameras import LiveSource, as_bgr
from runtime.prompts import Prompts, read_prompts, write_prompts
from runtime.session import RunOptions, Watcher, run_session
from runtime.sources import PictureSource
from stages.bundle import Bundle
from stages.errors import InputError, PedsamError

PEDSAM = (sys.executable, "-c", "import pedsam; pedsam.main()")  # this installation's own command line
PROMPTS = "prompts.json"
YIELDING = ("nice", "-n", "5")  # sites on the edge's own machine: its engine thread is what all wait for
BACKEND = "onnxruntime-cpu"  # the same on every machine, also where a GPU has no libraries yet
ANY_PORT = ("--port", "0")
FRAME = (640, 360)  # pixels, width and height: 16:9, so ten of 25 windows are padding
PAN_FPS = 10.0
PAN_STEPS = 100  # frames from one end of the endless pan to the other


@dataclass(frozen=True)
class Scene:
    """The upper left `region` of a photograph of scikit-image, crops of it, and what to segment on it.

    All in the photograph's own pixels, x before y.
    """

    photo: str
    region: tuple[int, int]
    crop: tuple[int, int]
    box: tuple[int, int, int, int]
    point: tuple[int, int]


SCENES = (
    Scene("astronaut", (512, 288), (448, 252), (45, 10, 370, 288), (240, 110)),
    Scene("coffee", (600, 400), (480, 270), (79, 17, 479, 388), (270, 150)),
)


async def run_demo(
    bundle: Bundle, out: Path, frames: int, wire: str | None, console: Console
) -> dict[str, Any]:
    """Run the whole line on loopback and return the summary (also written to `out`).

    Masks are held against the unsplit model's where the bundle has it.
    """
    pictures, prompts = await to_thread.run_sync(_film, out, frames)
    with three_sites(bundle.path, out) as running:
        console.print(f"three sites are up; sending {len(pictures)} frames")
        options = RunOptions(
            out=out,
            sites=running.toml,
            wire=wire,
            backend=BACKEND,
            threads=1,
            allow_undistilled=True,
            new_session=True,
            verify=bundle.has("whole"),
        )
        return await run_session(
            bundle, PictureSource(pictures), read_prompts((), (), prompts), options, console
        )


async def run_live_demo(
    bundle: Bundle, out: Path, wire: str | None, console: Console, watchers: Sequence[Watcher]
) -> dict[str, Any]:
    """Run the line on loopback on an endless pan, for viewers to click on, until it is interrupted."""
    await to_thread.run_sync(_prepare, out)
    source = LiveSource("the built-in picture", lambda: Pan(photo(SCENES[0].photo), SCENES[0]), fps=PAN_FPS)
    with three_sites(bundle.path, out) as running:
        console.print("three sites are up; nothing is sent to them until you click on an object")
        options = RunOptions(
            out=out, sites=running.toml, wire=wire, threads=1, allow_undistilled=True, new_session=True
        )
        return await run_session(bundle, source, Prompts(()), options, console, watchers)


def _prepare(out: Path) -> None:
    """An empty folder that is known as a demo's."""
    _clear(out)
    out.mkdir(parents=True)
    write_prompts(out / PROMPTS, Prompts(()))


class Pan:
    """A Capture whose crop goes back and forth over a photograph, RGB uint8 [H, W, 3], for ever."""

    def __init__(self, picture: npt.NDArray[np.uint8], scene: Scene, fps: float = PAN_FPS) -> None:
        self._picture = picture
        self._scene = scene
        self._interval_s = 1 / fps
        self._due_s = time.perf_counter()
        self._step = 0

    def read(self) -> tuple[bool, npt.NDArray[Any] | None]:
        """The next frame when it is due, BGR."""
        time.sleep(max(0.0, self._due_s - time.perf_counter()))
        self._due_s = max(self._due_s + self._interval_s, time.perf_counter())
        there_and_back = self._step % (2 * PAN_STEPS)
        left, top = _pan(self._scene, min(there_and_back, 2 * PAN_STEPS - there_and_back), PAN_STEPS + 1)
        self._step += 1
        return True, as_bgr(_crop(self._picture, self._scene, left, top))

    def release(self) -> None:
        pass


def _film(out: Path, frames: int) -> tuple[list[Path], Path]:
    """Empty `out`, write the frames of all scenes and a prompts file that says what to segment on each."""
    _clear(out)
    folder = out / "frames"
    folder.mkdir(parents=True)
    paths: list[Path] = []
    objects: list[dict[str, Any]] = []
    for scene in SCENES:
        picture = photo(scene.photo)
        for step in range(frames // len(SCENES)):
            left, top = _pan(scene, step, frames // len(SCENES))
            path = folder / f"{len(paths):03}_{scene.photo}.png"
            Image.fromarray(_crop(picture, scene, left, top)).save(path)
            objects += _prompts(scene, left, top, len(paths))
            paths.append(path)
    prompts = out / PROMPTS
    prompts.write_text(json.dumps({"objects": objects}, indent=1))
    return paths, prompts


def _clear(out: Path) -> None:
    """Remove an earlier demo; refuse to remove anything else."""
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / PROMPTS).is_file()):
        raise InputError(f"{out} exists and was not made by pedsam demo; give another --out")
    shutil.rmtree(out)


def photo(name: str) -> npt.NDArray[np.uint8]:
    """A photograph from scikit-image's wheel, RGB uint8 [H, W, 3]."""
    from skimage import data  # only the demo needs scikit-image

    pixels: npt.NDArray[np.uint8] = getattr(data, name)()
    return pixels


def _crop(picture: npt.NDArray[np.uint8], scene: Scene, left: int, top: int) -> npt.NDArray[np.uint8]:
    """The frame, uint8 [360, 640, 3], of a crop with this upper left corner."""
    width, height = scene.crop
    crop = Image.fromarray(picture[top : top + height, left : left + width])
    return np.asarray(crop.resize(FRAME, Image.Resampling.BICUBIC))


def _pan(scene: Scene, step: int, steps: int) -> tuple[int, int]:
    """Left and top of the crop: from the left top to the right bottom of the region."""
    along = step / max(1, steps - 1)
    left, top = (round((whole - part) * along) for whole, part in zip(scene.region, scene.crop, strict=True))
    return left, top


def _prompts(scene: Scene, left: int, top: int, frame: int) -> list[dict[str, Any]]:
    """A box and a point that stay on their object while the crop moves."""
    scale = FRAME[0] / scene.crop[0]
    x0, y0, x1, y1 = ((value - (left, top)[i % 2]) * scale for i, value in enumerate(scene.box))
    box = [max(0.0, x0), max(0.0, y0), min(FRAME[0] - 1.0, x1), min(FRAME[1] - 1.0, y1)]
    x, y = (scene.point[0] - left) * scale, (scene.point[1] - top) * scale
    return [
        {"name": "box", "from_frame": frame, "box": box},
        {"name": "point", "from_frame": frame, "points": [[x, y, 1]]},
    ]


@dataclass(frozen=True)
class RunningSite:
    """A `pedsam serve` process, its address, and the seconds it took to be ready."""

    process: subprocess.Popen[str]
    url: str
    start_s: float


@dataclass(frozen=True)
class RunningSites:
    """Three sites, and the sites.toml that names them."""

    toml: Path
    sites: Sequence[RunningSite]


@contextlib.contextmanager
def three_sites(bundle: Path, folder: Path) -> Iterator[RunningSites]:
    """Three `pedsam serve` processes on loopback, one thread each, while the block runs.

    Each is an operator of its own; their sites.toml and logs are in `folder`. Raises PedsamError when one
    does not start.
    """
    with contextlib.ExitStack() as stack:
        started = time.perf_counter()
        logs = {name: folder / f"site-{name}.log" for name in "abc"}
        processes = {name: stack.enter_context(_site_process(bundle, log)) for name, log in logs.items()}
        sites = {}
        for name, process in processes.items():
            url = _wait_until_ready(process, logs[name])
            sites[name] = RunningSite(process, url, time.perf_counter() - started)
        toml = folder / "sites.toml"
        entries = [
            f'[[site]]\nname = "{name}"\noperator = "operator-{name}"\nurl = "{site.url}"\n'
            for name, site in sites.items()
        ]
        toml.write_text("\n".join(entries))
        yield RunningSites(toml, list(sites.values()))


@contextlib.contextmanager
def running_site_process(
    bundle: Path, log: Path, inside: Sequence[str] = (), address: Sequence[str] = ANY_PORT
) -> Iterator[RunningSite]:
    """A `pedsam serve` process, ready, while the block runs. `inside` is put before its command."""
    started = time.perf_counter()
    with _site_process(bundle, log, inside, address) as process:
        yield RunningSite(process, _wait_until_ready(process, log), time.perf_counter() - started)


@contextlib.contextmanager
def _site_process(
    bundle: Path, log: Path, inside: Sequence[str] = (), address: Sequence[str] = ANY_PORT
) -> Iterator[subprocess.Popen[str]]:
    command = [*inside, *YIELDING, *PEDSAM, "serve", "--bundle", str(bundle), *address, "--threads", "1"]
    command += ["--backend", BACKEND]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _wait_until_ready(process: subprocess.Popen[str], log: Path) -> str:
    """The url a site prints once it serves."""
    for line in process.stdout or ():
        if line.startswith("listening on "):
            return line.split()[-1]
    raise PedsamError(f"a demo site did not start; {log} says why: {log.read_text().strip()[-300:]}")
