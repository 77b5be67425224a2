"""What the image takes from its base, found by this machine's own loader and packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jetson.image import (
    LOADER_CONF,
    ImageError,
    check_gstreamer,
    check_numpy,
    closure,
    collect,
    copy_library,
    libraries,
    module_path,
    needed,
    owners,
    split,
    wanting,
)
from tests.support.bundles import ROOT

debian = pytest.mark.skipif(shutil.which("dpkg") is None, reason="image.collect NOT TESTED: no dpkg here")
NUMPY = next((Path(np.__file__).parent).rglob("_multiarray_umath.*.so"))


def test_a_library_needs_others_where_the_loader_finds_them() -> None:
    found = dict(needed(NUMPY))
    assert "libc.so.6" in found
    assert all(path is not None and path.is_file() for path in found.values())


def test_a_library_that_is_missing_is_told(tmp_path: Path) -> None:
    """A copy of numpy's extension away from its own libraries lacks them."""
    alone = Path(shutil.copy(NUMPY, tmp_path))
    found, absent = closure([tmp_path])
    assert "libc.so.6" in found
    assert absent == {name for name, path in needed(alone) if path is None}
    assert any("openblas" in name for name in absent)
    with pytest.raises(ImageError, match=r"libraries are missing: .*openblas"):
        wanting(absent)


def test_the_boards_driver_is_not_taken_into_the_image() -> None:
    """It is there while an image is built on a board whose docker runs everything with NVIDIA's runtime."""
    driver, other = Path("/usr/lib/libcuda.so.1.1"), Path("/usr/lib/libz.so.1.2")
    assert split([("libcuda.so.1", driver), ("libz.so.1", other)]) == ({"libz.so.1": other}, {"libcuda.so.1"})


@pytest.mark.parametrize("name", ["libcuda.so.1", "libnvrm_gpu.so", "libnvcudla.so", "libnvidia-ml.so.1"])
def test_the_boards_driver_may_be_missing(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    wanting([name])
    assert name in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["libnvinfer.so.10", "libnvonnxparser.so.10", "libnvdla_compiler.so", "libc.so.6"]
)
def test_what_the_image_brings_may_not_be_missing(name: str) -> None:
    with pytest.raises(ImageError, match=name):
        wanting([name])


@debian
def test_apt_installs_what_it_has_and_the_rest_is_copied(tmp_path: Path) -> None:
    own = tmp_path / "base/opt/lib/libmine.so.1.0"
    own.parent.mkdir(parents=True)
    shutil.copy(shutil.which("true") or "", own)
    library = Path(str(dict(needed(own))["libc.so.6"]))
    package = owners([library])[library]
    collect([own], [], {package}, tmp_path / "out")
    assert (tmp_path / "out/packages.txt").read_text() == f"{package}\n"
    copied = tmp_path / "out/root" / own.relative_to("/")
    assert copied.read_bytes() == own.read_bytes()
    assert (tmp_path / "out/root" / LOADER_CONF).read_text() == f"{own.parent}\n"
    collect([own], [], set(), tmp_path / "all")
    assert (tmp_path / "all/root" / library.resolve().relative_to("/")).is_file()
    assert (tmp_path / "all/packages.txt").read_text() == ""


@debian
def test_the_owner_is_found_by_either_name_of_a_folder() -> None:
    """/lib is a link to /usr/lib, and dpkg knows a file by one of the two."""
    library = Path(str(dict(needed(NUMPY))["libc.so.6"]))
    env = Path("/usr/bin/env")
    assert owners([library, NUMPY, env]) == {library: "libc6", env: "coreutils"}
    assert owners([library.resolve()]) == {library.resolve(): "libc6"}


def test_a_module_of_python_is_copied_whole(tmp_path: Path) -> None:
    """As tensorrt is, a folder of no package."""
    package = tmp_path / "site/made"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("VERSION = 1\n")
    collect([package], [], set(), tmp_path / "out")
    copied = tmp_path / "out/root" / package.relative_to("/")
    assert (copied / "__init__.py").read_text() == "VERSION = 1\n"
    assert (tmp_path / "out/root" / LOADER_CONF).read_text() == ""  # no folder of libraries


def test_a_library_keeps_the_name_it_is_loaded_by(tmp_path: Path) -> None:
    real = tmp_path / "lib/libmine.so.10.3.0"
    real.parent.mkdir()
    real.write_bytes(b"library")
    (tmp_path / "lib/libmine.so.10").symlink_to(real.name)
    folder = copy_library("libmine.so.10", tmp_path / "lib/libmine.so.10", tmp_path / "root")
    assert folder == tmp_path / "lib"
    link = tmp_path / "root" / folder.relative_to("/") / "libmine.so.10"
    assert link.is_symlink()
    assert link.read_bytes() == b"library"


@debian
def test_libraries_loaded_by_name_are_found_by_how_they_start() -> None:
    assert [path.name.partition(".")[0] for path in libraries("libc.so.")] == ["libc"]
    with pytest.raises(ImageError, match=r"the base has no library libnvinfer_builder_resource\*"):
        libraries("libnvinfer_builder_resource")


@pytest.mark.skipif(
    not Path("/usr/bin/python3").exists(), reason="module_path NOT TESTED: no system Python here"
)
def test_modules_are_those_of_the_systems_python() -> None:
    assert module_path("json").name == "json"
    assert module_path("this").name == "this.py"
    with pytest.raises(ImageError, match="the base has no Python module tensorrt_of_nobody"):
        module_path("tensorrt_of_nobody")


def test_numpy_is_of_the_first_series() -> None:
    check_numpy("1.26.4")
    with pytest.raises(ImageError, match=r"numpy is 2\.2\.6, and NVIDIA's OpenCV needs 1\.x"):
        check_numpy("2.2.6")


@pytest.mark.parametrize(("build", "said"), [("    GStreamer:     NO\n", "NO"), ("Video I/O:\n", "nothing")])
def test_opencv_has_gstreamer(build: str, said: str) -> None:
    check_gstreamer("  Video I/O:\n    GStreamer:                   YES (1.20.3)\n")
    with pytest.raises(ImageError, match=f"OpenCV says of GStreamer: {said}, expected YES"):
        check_gstreamer(build)


def test_opencv_from_pypi_would_be_found() -> None:
    """The one of these tests has no GStreamer."""
    import cv2

    with pytest.raises(ImageError, match="says of GStreamer: NO"):
        check_gstreamer(cv2.getBuildInformation())


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("__version__ = '10.3.0'", "10.3.0"),
        ("raise ImportError('libcuda.so.1: cannot open shared object file: No such file or directory')",
         "not imported here, for want of libcuda.so.1"),
        ("raise ImportError('libnvinfer.so.10: cannot open shared object file: No such file or directory')",
         "libraries are missing: libnvinfer.so.10"),
        ("raise ImportError('no such symbol')", "ImportError: no such symbol"),
    ],
)  # fmt: skip
def test_tensorrt_is_imported_where_the_driver_is(module: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text(module)
    code = "import jetson.image as i\ntry: print(i.tensorrt())\nexcept i.ImageError as exc: print(exc)"
    path = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **path}
    )
    assert said in done.stdout


def test_a_base_that_does_not_fit_is_refused_in_a_sentence() -> None:
    line = [sys.executable, str(ROOT / "jetson/image.py"), "check"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("check: numpy is 2.")
    assert "Traceback" not in done.stderr
