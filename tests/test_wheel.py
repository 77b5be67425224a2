"""A wheel holds what runs, and runs where there is no clone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.examples import check_batch, check_camera, check_photo
from tests.test_isolation import PYPROJECT
from tests.test_library import another

ROOT = Path(__file__).parent.parent
BUILDS = ("pyproject.toml", "README.md", "LICENSE")
WITHOUT_CLONE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def tracked(*folders: str) -> list[str]:
    """Files of the repository, by git."""
    line = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *folders]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=ROOT)
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def packages() -> list[str]:
    return [pattern.rstrip("*") for pattern in PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]


def pip(*arguments: str | Path, python: Path | None = None) -> None:
    where = ["--python", str(python)] if python else []
    line = [sys.executable, "-m", "pip", *where, *map(str, arguments), "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=WITHOUT_CLONE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since setuptools leaves folders where it builds."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in tracked(*packages(), *BUILDS):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    pip("wheel", "--no-build-isolation", "--wheel-dir", out, copy)
    (built,) = out.iterdir()
    return built


def test_it_holds_every_module_and_what_they_read(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if ".dist-info/" not in name}
        info = {name.split("/")[-1] for name in file.namelist() if ".dist-info/" in name}
    assert held == set(tracked(*packages())) - {"runtime/preview/PROTOCOL.md"}
    assert {"stages/mini/bundle.json", "stages/mini/window/model.onnx.data", "pedsam/py.typed"} <= held
    assert {"entry_points.txt", "LICENSE", "METADATA"} <= info
    assert wheel.stat().st_size < 35e6


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that has pedsam from the wheel alone; what it needs is this
    environment's."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    pip("install", wheel, python=python)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    others = folder / "lib" / version / "site-packages/others.pth"  # it runs no .pth that lies there
    others.write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    return folder / "bin"


def test_it_is_what_runs(installed: Path, tmp_path: Path) -> None:
    code = "import pedsam, runtime; from stages.bundle import shipped_bundle as bundle\n"
    code += "print(pedsam.__file__, runtime.__file__, bundle())"
    line = [str(installed / "python"), "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=tmp_path, env=WITHOUT_CLONE)
    assert all(path.startswith(str(installed.parent)) for path in done.stdout.split())


def test_the_demo_runs(installed: Path, tmp_path: Path) -> None:
    line = [str(installed / "pedsam"), "demo", "--frames", "2", "--out", "out"]
    done = subprocess.run(
        line, capture_output=True, text=True, check=False, cwd=tmp_path, env=WITHOUT_CLONE, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    summary = json.loads((tmp_path / "out/summary.json").read_text(encoding="utf-8"))
    assert (summary["model"], summary["frames"], summary["frames_lost"]) == ("mini", 2, 0)
    assert len(summary["sites"]) == 3


@pytest.mark.parametrize("check", [check_photo, check_camera, check_batch])
def test_the_examples_run(installed: Path, tmp_path: Path, check: object) -> None:
    assert callable(check)
    check(tmp_path / "example", (str(installed / "python"),), WITHOUT_CLONE)


@pytest.mark.parametrize("name", ["stages", "runtime"])
def test_another_package_in_its_way_is_a_sentence(installed: Path, tmp_path: Path, name: str) -> None:
    before = another(tmp_path / "before", name)
    line = [str(installed / "pedsam"), "run", "--source", "x.png", "--point", "1,1"]
    variables = {**WITHOUT_CLONE, "PYTHONPATH": str(before)}
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path, env=variables)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: Python finds the package {name} in {before / name}, which is not ")
    assert done.stderr.count("\n") == 1
