"""The scripts of examples/, run as a user runs them, on small inputs."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from runtime.objects.masks import decode_mask
from tests.support.edge import write_photo
from tests.support.pictures import photo

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(
    name: str, folder: Path, python: Sequence[str], *arguments: str, variables: Mapping[str, str]
) -> str:
    """What a copy of an example prints, in a folder of its own."""
    done = example_done(name, folder, python, *arguments, variables=variables)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def example_done(
    name: str, folder: Path, python: Sequence[str], *arguments: str, variables: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """A copy of an example, run to its end in a folder of its own."""
    folder.mkdir(exist_ok=True)
    script = shutil.copy(EXAMPLES / name, folder)
    line = [*python, str(script), *arguments]
    return subprocess.run(
        line, capture_output=True, text=True, check=False, cwd=folder, env=dict(variables), timeout=120
    )


def check_photo(folder: Path, python: Sequence[str], variables: Mapping[str, str]) -> None:
    said = run_example("photo.py", folder, python, variables=variables)
    assert said.count("by a point: ") == 3
    assert "photo_results/mask.json are written" in said
    entry = json.loads((folder / "photo_results/mask.json").read_text(encoding="utf-8"))
    with Image.open(folder / "photo_results/cut_out.png") as picture:
        assert (picture.mode, picture.size) == ("RGBA", (600, 400))
        alpha = np.asarray(picture)[..., 3] > 0
    assert np.array_equal(alpha, decode_mask(entry["segmentation"]))
    assert np.count_nonzero(alpha) == entry["area"] > 90_000  # the cup and its saucer


def write_film(path: Path, frames: int) -> None:
    """Of a cup that moves, 640 x 360."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (640, 360))
    for number in range(frames):
        writer.write(np.ascontiguousarray(np.roll(photo("16:9"), 4 * number, axis=1)[..., ::-1]))
    writer.release()


def check_camera(folder: Path, python: Sequence[str], variables: Mapping[str, str], *more: str) -> str:
    """On a short film of a cup that moves."""
    folder.mkdir(exist_ok=True)
    write_film(folder / "clip.mp4", 5)
    line = ["clip.mp4", "--box", "150,20,520,350", "--frames", "4", *more]
    said = run_example("camera.py", folder, python, *line, variables=variables)
    assert said.count("object tracked") == 4
    capture = cv2.VideoCapture(str(folder / "overlay.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    _, frame = capture.read()
    assert frame.shape == (360, 640, 3)
    changed = np.abs(frame.astype(int) - photo("16:9")[..., ::-1]).max(axis=2) > 25
    assert 0.1 < changed.mean() < 0.8  # what is tinted
    return said


def write_turned(path: Path) -> None:
    """A picture of 640 x 360 once it is turned as its EXIF says."""
    turned = Image.fromarray(photo("16:9")).rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(path, exif=exif, quality=95)


def check_batch(folder: Path, python: Sequence[str], variables: Mapping[str, str], *more: str) -> None:
    (folder / "photos").mkdir(parents=True)
    for name, shape in (("a.png", "16:9"), ("b.png", "portrait")):
        write_photo(folder / "photos" / name, shape)
    write_turned(folder / "photos/c.jpg")
    run_example("batch.py", folder, python, "photos", *more, variables=variables)
    results: list[dict[str, Any]] = json.loads((folder / "masks.json").read_text(encoding="utf-8"))
    assert [(each["image"], each["segmentation"]["size"]) for each in results] == [
        ("a.png", [360, 640]),
        ("b.png", [480, 270]),
        ("c.jpg", [360, 640]),
    ]
    for each in results:
        assert np.count_nonzero(decode_mask(each["segmentation"])) == each["area"] > 1000
