"""`pedsam demo`: three sites on loopback and a camera pan over a photograph, of some frames or endless.

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

from media.pictures import write_picture
from runtime.frames.live_source import Capture, LiveSource
from runtime.frames.sources import PictureSource
from runtime.objects.prompts import Prompts, read_prompts
from runtime.results.run_folder import locked_folder
from runtime.run_options import RunOptions
from runtime.session import Watcher, run_session
from stages.bundle import Bundle
from stages.errors import InputError, PedsamError
from stages.files import refuse_file, writing
from stages.tensors import Pixels

PEDSAM = (sys.executable, "-c", "import pedsam; pedsam.main()")  # this installation's own command line
PROMPTS = "prompts.json"
MARKER = ".pedsam-demo"  # in a folder whose MADE are a demo's, so that the next one may replace them
MADE = (
    "frames",
    "overlay",
    "record",
    "masks.jsonl",
    "summary.json",
    PROMPTS,
    "sites.toml",
    "sites.ledger.*",
    "site-?.log",
)
SITE_NAMES = "abc"
SITE_NICENESS = ("nice", "-n", "5")  # sites share the edge's machine, whose engine thread is the bottleneck
BACKEND = "onnxruntime-cpu"  # the same on every machine, also where a GPU has no libraries yet
ANY_PORT = ("--port", "0")
FRAME = (640, 360)  # pixels, width and height: 16:9, so ten of 25 windows are padding
PAN_FPS = 10.0
PAN_STEPS = 100  # frames from one end of the endless pan to the other


@dataclass(frozen=True)
class DemoScene:
    """The upper left `region` of a photograph of scikit-image, crops of it, and what to segment on it.

    All in the photograph's own pixels, x before y.
    """

    photo: str
    region: tuple[int, int]
    crop: tuple[int, int]
    box: tuple[int, int, int, int]
    point: tuple[int, int]


SCENES = (
    DemoScene("astronaut", (512, 288), (448, 252), (45, 12, 350, 288), (395, 150)),
    DemoScene("coffee", (600, 400), (480, 270), (79, 17, 479, 388), (270, 150)),
)


async def run_demo(
    bundle: Bundle, out: Path, frames: int, wire: str | None, console: Console
) -> dict[str, Any]:
    """Run the whole line on loopback and return the summary (also written to `out`).

    Masks are compared with the unsplit model's where the bundle has it.
    """
    with _alone_in(out):
        pictures, prompts = await to_thread.run_sync(write_frames, out, frames)
        return await _run_on(pictures, prompts, bundle, out, wire, console)


async def _run_on(
    pictures: list[Path], prompts: Path, bundle: Bundle, out: Path, wire: str | None, console: Console
) -> dict[str, Any]:
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
    source = LiveSource("the built-in picture", lambda: Pan(photo(SCENES[0].photo), SCENES[0]), fps=PAN_FPS)
    with _alone_in(out):
        await to_thread.run_sync(_clear, out)
        return await _run_live(source, bundle, out, wire, console, watchers)


async def _run_live(
    source: LiveSource,
    bundle: Bundle,
    out: Path,
    wire: str | None,
    console: Console,
    watchers: Sequence[Watcher],
) -> dict[str, Any]:
    with three_sites(bundle.path, out) as running:
        console.print("three sites are up; nothing is sent to them until you click on an object")
        options = RunOptions(
            out=out, sites=running.toml, wire=wire, threads=1, allow_undistilled=True, new_session=True
        )
        return await run_session(bundle, source, Prompts(()), options, console, watchers)


class Pan(Capture):
    """Its crop pans back and forth over a photograph, RGB uint8 [H, W, 3], endlessly."""

    def __init__(self, picture: npt.NDArray[np.uint8], scene: DemoScene, fps: float = PAN_FPS) -> None:
        self._picture = picture
        self._scene = scene
        self._interval_s = 1 / fps
        self._step = 0

    def read(self) -> Pixels:
        self.due_s = max(self.due_s + self._interval_s, time.perf_counter())
        there_and_back = self._step % (2 * PAN_STEPS)
        left, top = _pan(self._scene, min(there_and_back, 2 * PAN_STEPS - there_and_back), PAN_STEPS + 1)
        self._step += 1
        return np.ascontiguousarray(_crop(self._picture, self._scene, left, top))

    def release(self) -> None:
        pass


def write_frames(out: Path, frames: int) -> tuple[list[Path], Path]:
    """Clear `out`, write the frames of all scenes and a prompts file that says what to segment on each."""
    _clear(out)
    folder = out / "frames"
    with writing(folder):
        folder.mkdir()
    paths: list[Path] = []
    objects: list[dict[str, Any]] = []
    for scene in SCENES:
        picture = photo(scene.photo)
        for step in range(frames // len(SCENES)):
            left, top = _pan(scene, step, frames // len(SCENES))
            path = folder / f"{len(paths):03}_{scene.photo}.png"
            with writing(path):
                write_picture(path, _crop(picture, scene, left, top))
            objects += _prompts(scene, left, top, len(paths))
            paths.append(path)
    prompts = out / PROMPTS
    with writing(prompts):
        prompts.write_text(json.dumps({"objects": objects}, indent=1), encoding="utf-8")
    return paths, prompts


@contextlib.contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Keeps other demos out of the folder. Raises InputError as _check_folder does, and when one is in it."""
    _check_folder(out)
    with locked_folder(out, MARKER):
        yield


def _check_folder(out: Path) -> None:
    """Raise InputError for a file, and for a folder that holds something and is of no demo. Demos before
    MARKER was made are known by their sites."""
    refuse_file(out)
    with writing(out):
        if out.exists() and any(out.iterdir()) and not _made_by_a_demo(out):
            raise InputError(
                f"{out} holds files that pedsam demo did not make; give another --out, or remove it yourself"
            )


def _clear(out: Path) -> None:
    """A folder with MARKER in it and without the files of an earlier demo; what else lies there stays."""
    _check_folder(out)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        for name in MADE:
            for path in out.glob(name):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (out / MARKER).touch()


def _made_by_a_demo(folder: Path) -> bool:
    sites = ("sites.toml", *(f"site-{name}.log" for name in SITE_NAMES))
    return (folder / MARKER).is_file() or all((folder / name).is_file() for name in sites)


def photo(name: str) -> npt.NDArray[np.uint8]:
    """A photograph from scikit-image's wheel, RGB uint8 [H, W, 3]."""
    from skimage import data  # only the demo needs scikit-image

    pixels: npt.NDArray[np.uint8] = getattr(data, name)()
    return pixels


def _crop(picture: npt.NDArray[np.uint8], scene: DemoScene, left: int, top: int) -> npt.NDArray[np.uint8]:
    """The frame, uint8 [360, 640, 3], of a crop with this upper left corner."""
    width, height = scene.crop
    crop = Image.fromarray(picture[top : top + height, left : left + width])
    return np.asarray(crop.resize(FRAME, Image.Resampling.BICUBIC))


def _pan(scene: DemoScene, step: int, steps: int) -> tuple[int, int]:
    """Left and top of the crop: from the left top to the right bottom of the region."""
    along = step / max(1, steps - 1)
    left, top = (round((whole - part) * along) for whole, part in zip(scene.region, scene.crop, strict=True))
    return left, top


def _prompts(scene: DemoScene, left: int, top: int, frame: int) -> list[dict[str, Any]]:
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
class SiteProcess:
    """A `pedsam serve` process, its address, and the seconds it took to be ready."""

    process: subprocess.Popen[str]
    url: str
    start_s: float


@dataclass(frozen=True)
class SiteProcesses:
    """Three sites, and the sites.toml that names them."""

    toml: Path
    sites: Sequence[SiteProcess]


@contextlib.contextmanager
def three_sites(bundle: Path, folder: Path) -> Iterator[SiteProcesses]:
    """Three `pedsam serve` processes on loopback, one thread each, while the block runs.

    Each is an operator of its own; their sites.toml and logs are in `folder`. Raises PedsamError when one
    does not start.
    """
    with contextlib.ExitStack() as stack:
        started = time.perf_counter()
        logs = {name: folder / f"site-{name}.log" for name in SITE_NAMES}
        processes = {name: stack.enter_context(_serve_process(bundle, log)) for name, log in logs.items()}
        sites = {}
        for name, process in processes.items():
            url = _wait_until_ready(process, logs[name])
            sites[name] = SiteProcess(process, url, time.perf_counter() - started)
        toml = folder / "sites.toml"
        entries = [
            f'[[site]]\nname = "{name}"\noperator = "operator-{name}"\nurl = "{site.url}"\n'
            for name, site in sites.items()
        ]
        with writing(toml):
            toml.write_text("\n".join(entries), encoding="utf-8")
        yield SiteProcesses(toml, list(sites.values()))


@contextlib.contextmanager
def site_process(
    bundle: Path, log: Path, prefix: Sequence[str] = (), address: Sequence[str] = ANY_PORT
) -> Iterator[SiteProcess]:
    """A `pedsam serve` process, ready, while the block runs. `prefix` is put before its command."""
    started = time.perf_counter()
    with _serve_process(bundle, log, prefix, address) as process:
        yield SiteProcess(process, _wait_until_ready(process, log), time.perf_counter() - started)


@contextlib.contextmanager
def _serve_process(
    bundle: Path, log: Path, prefix: Sequence[str] = (), address: Sequence[str] = ANY_PORT
) -> Iterator[subprocess.Popen[str]]:
    command = [*prefix, *SITE_NICENESS, *PEDSAM, "serve", "--bundle", str(bundle), *address, "--threads", "1"]
    command += ["--backend", BACKEND]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with writing(log), log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            errors="replace",
            env=environment,
        )
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
    raise PedsamError(
        f"a demo site did not start; {log} says why: {log.read_text(encoding='utf-8').strip()[-300:]}"
    )
