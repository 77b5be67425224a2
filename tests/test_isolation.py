"""Each place of work needs only its own packages, and the packages import each other as the layers say."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# What each place of work may import of this project; stages is the common ground.
PLACES = {"site": ("stages", "server"), "edge": ("stages", "runtime"), "": ("stages",)}
# Engines are built where they run, so the builder needs nothing that a site or an edge does not have.
BUILDER = ("export.builder", "export.build", "export.build_cli")
HEAVY = (
    "torch",
    "torchvision",
    "segment_anything",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "tensorrt",
    "tensorrt_rtx",
    "pycuda",
    "skimage",
)
LAYERS = {
    "stages": set(),
    "server": {"stages"},
    "runtime": {"stages"},
    "export": {"stages"},
    "evaluation": {"stages", "runtime", "export"},
}

IMPORT_ALL = """
import importlib, importlib.util, sys
sys.path.append(sys.argv[1])
sys.dont_write_bytecode = True
for name in sys.argv[3:]:
    importlib.import_module(name)
found = [name for name in sys.argv[2].split(",") if importlib.util.find_spec(name)]
print("could be imported:", *found)
print("were imported:", *sorted(set(sys.modules) & set(sys.argv[2].split(","))))
import pedsam
pedsam.main(["--help"])
"""


def requirements(extra: str) -> Iterator[Requirement]:
    project = PYPROJECT["project"]
    listed = [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else [])]
    yield from map(Requirement, listed)


def closure(wanted: Iterator[Requirement]) -> dict[str, Distribution]:
    """Every installed distribution that these requirements need here, themselves included."""
    found: dict[str, Distribution] = {}
    waiting = [(each, extra) for each in wanted if needed(each, "") for extra in ("", *each.extras)]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        found[name] = distribution(name)
        inner = [each for each in map(Requirement, found[name].requires or ()) if needed(each, extra)]
        waiting += [(each, more) for each in inner for more in ("", *each.extras)]
    return found


def needed(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def environment(extra: str, path: Path) -> Path:
    """A folder that holds what one extra installs, as links, and this project's own packages."""
    for found in closure(requirements(extra)).values():
        for file in found.files or ():
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (path / top).exists():
                (path / top).symlink_to(Path(str(found.locate_file(top))))
    for name in ("pedsam.py", "export", *PLACES[extra]):
        (path / name).symlink_to(ROOT / name)
    return path


def modules_of(package: str) -> list[str]:
    files = sorted((ROOT / package).rglob("*.py"))
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]


@pytest.mark.parametrize("extra", ["site", "edge", ""])
def test_a_place_of_work_needs_only_its_own_extra(extra: str, tmp_path: Path) -> None:
    folder = environment(extra, tmp_path)
    modules = [*BUILDER, *(name for package in PLACES[extra] for name in modules_of(package))]
    line = [sys.executable, "-I", "-S", "-c", IMPORT_ALL, str(folder), ",".join(HEAVY), *modules]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "could be imported:\nwere imported:\n" in done.stdout
    assert all(command in done.stdout for command in ("export", "keys", "serve", "run", "demo"))


def test_what_is_missing_is_told_in_a_sentence(tmp_path: Path) -> None:
    folder = environment("", tmp_path)
    line = [sys.executable, "-I", "-S", "-c", IMPORT_ALL.replace('"--help"', '"serve"'), str(folder), "x"]
    (folder / "server").symlink_to(ROOT / "server")
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith("Error: pedsam serve needs the package a")  # anyio or aiohttp, whichever is first
    assert "Traceback" not in done.stderr


def test_the_environment_would_show_torch(tmp_path: Path) -> None:
    """With what an exporter installs in the folder as well, the check above finds it."""
    folder = environment("site", tmp_path)
    torch = distribution("torch")
    (folder / "torch").symlink_to(Path(str(torch.locate_file("torch"))))
    line = [sys.executable, "-I", "-S", "-c", IMPORT_ALL, str(folder), ",".join(HEAVY)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "could be imported: torch\n" in done.stdout


def imports(path: Path) -> set[str]:
    """Top-level names of everything a file imports, at its top or later."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("package", LAYERS)
def test_packages_import_each_other_as_the_layers_say(package: str) -> None:
    ours = {*LAYERS, "jetson", "benchmarks", "tests", "pedsam"}
    for path in sorted((ROOT / package).rglob("*.py")):
        assert imports(path) & ours <= LAYERS[package] | {package}, path


def test_who_may_import_what_is_heavy() -> None:
    for package in LAYERS:
        for path in sorted((ROOT / package).rglob("*.py")):
            found = imports(path)
            if package != "export" and path != ROOT / "evaluation/checkpoint.py":
                assert not found & {"torch", "torchvision", "onnx", "onnx_ir", "onnxscript"}, path
            if path != ROOT / "export/sam.py":
                assert "segment_anything" not in found, path
            assert not found & {"tensorrt", "tensorrt_rtx", "pycuda"}, path
    # These are imported by name, when they are used, in one place; everyone else asks it for them.
    sources = (path for package in LAYERS for path in (ROOT / package).rglob("*.py"))
    by_name = [path.name for path in sources if "import_module(" in path.read_text(encoding="utf-8")]
    assert by_name == ["tensorrt_engine.py"]


def test_every_folder_of_code_is_shipped_with_what_it_reads() -> None:
    shipped = PYPROJECT["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for package in LAYERS for path in (ROOT / package).rglob("*.py")}
    assert {".".join(folder.parts) for folder in folders} == set(shipped["packages"])
    assert shipped["package-data"] == {"runtime.preview": ["static/*"]}
