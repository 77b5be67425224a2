"""The examples run, alone and through sites, and draw what they should."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support.edge import sites_file, write_photo
from tests.support.examples import (
    EXAMPLES,
    check_batch,
    check_camera,
    check_photo,
    example_done,
    run_example,
    write_film,
    write_turned,
)
from tests.support.processes import serving

PYTHON = (sys.executable,)
VARIABLES = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}


def test_a_photograph(tmp_path: Path) -> None:
    check_photo(tmp_path, PYTHON, VARIABLES)


def test_a_photograph_that_its_exif_turns(tmp_path: Path) -> None:
    write_turned(tmp_path / "turned.jpg")
    run_example("photo.py", tmp_path, PYTHON, variables={**VARIABLES, "PHOTO": "turned.jpg"})
    with Image.open(tmp_path / "photo_results/cut_out.png") as picture:
        assert picture.size == (640, 360)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--box", "a"], "argument --box: 'a' is not left,top,right,bottom in pixels"),
        (["--box", "1,2,3"], "argument --box: '1,2,3' is not left,top,right,bottom in pixels"),
        (["--out", "gone/x.mp4"], "Error: gone/x.mp4 cannot be written; give the path of an .mp4 file"),
        (["--out", "x.webm"], "Error: x.webm cannot be written; give the path of an .mp4 file"),
    ],
)
def test_a_camera_whose_arguments_cannot_be_right(tmp_path: Path, arguments: list[str], words: str) -> None:
    write_film(tmp_path / "clip.mp4", 2)
    line = ["clip.mp4", "--box", "150,20,520,350", *arguments]
    done = example_done("camera.py", tmp_path, PYTHON, *line, variables=VARIABLES)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_camera(tmp_path: Path) -> None:
    check_camera(tmp_path, PYTHON, VARIABLES)


def test_a_folder(tmp_path: Path) -> None:
    check_batch(tmp_path, PYTHON, VARIABLES)


def test_a_folder_with_what_cannot_be_read(tmp_path: Path) -> None:
    """The other pictures have their masks, and each that has none is named."""
    (tmp_path / "photos").mkdir()
    for name in ("a", "d"):
        write_photo(tmp_path / f"photos/{name}.png")
    whole = (tmp_path / "photos/a.png").read_bytes()
    (tmp_path / "photos/b.jpg").write_text("no picture", encoding="utf-8")
    (tmp_path / "photos/c.png").write_bytes(whole[: len(whole) // 2])
    done = example_done("batch.py", tmp_path, PYTHON, "photos", variables=VARIABLES)
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.startswith("left out: b.jpg cannot be read (")
    assert second.startswith("left out: c.png cannot be read (")
    assert written(tmp_path / "masks.json") == ["a.png", "d.png"]


def test_a_folder_that_is_interrupted(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(300):
        (tmp_path / f"photos/{number:03}.png").symlink_to(write_photo(tmp_path / "a.png"))
    line = [sys.executable, "-u", str(EXAMPLES / "batch.py"), "photos"]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=VARIABLES
    ) as batch:
        assert batch.stdout is not None
        assert batch.stdout.readline().startswith("000.png: ")
        batch.send_signal(signal.SIGINT)
        _, said = batch.communicate(timeout=60)
    names = written(tmp_path / "masks.json")
    assert (batch.returncode, said) == (1, f"interrupted after {len(names)} pictures\n")
    assert names
    assert names == [f"{number:03}.png" for number in range(len(names))]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["gone"], "gone is no folder; give one of pictures"),
        (["a.png"], "a.png is no folder; give one of pictures"),
        (["empty"], "empty holds no picture (.jpeg, .jpg, .png, .webp)"),
        (
            ["photos", "--out", "gone/masks.json"],
            "gone/masks.json cannot be written (No such file or directory)",
        ),
    ],
)
def test_a_folder_that_is_none(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    write_photo(tmp_path / "a.png")
    write_photo(tmp_path / "photos/a.png")
    done = example_done("batch.py", tmp_path, PYTHON, *arguments, variables=VARIABLES)
    assert (done.returncode, done.stderr, done.stdout) == (1, f"Error: {sentence}\n", "")


def written(path: Path) -> list[str]:
    """The pictures that a results file has masks of."""
    return [entry["image"] for entry in json.loads(path.read_text(encoding="utf-8"))]


def test_through_sites(tmp_path: Path) -> None:
    with serving(None) as first, serving(None) as second:
        sites = sites_file(tmp_path / "sites.toml", ("a", first.url), ("b", second.url))
        said = check_camera(tmp_path / "camera", PYTHON, VARIABLES, "--sites", str(sites), "--in-flight", "3")
        assert "operator-a has seen 8 windows" in said or "operator-a has seen 7 windows" in said
        (tmp_path / "sites.ledger.json").unlink()
        check_batch(tmp_path / "batch", PYTHON, VARIABLES, "--sites", str(sites))


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_every_example_is_run_here(path: Path) -> None:
    assert path.name in {"photo.py", "camera.py", "batch.py", "__pycache__"}
