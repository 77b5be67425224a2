"""Each place of work needs only its own packages, and the packages import each other as the layers say."""

from __future__ import annotations

import ast
import graphlib
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
# What each place of work may import of this project. Engines are built where they run.
COMMON = ("stages", "export/engines")
PLACES = {"site": (*COMMON, "server"), "edge": (*COMMON, "media", "runtime"), "": (*COMMON, "jetson")}
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
# Which packages a package may import besides itself. A subpackage named here has arrows of its own.
LAYERS: dict[str, set[str]] = {
    "pedsam": {"runtime", "stages"},
    "stages": set(),
    "media": {"stages"},
    "export": {"media", "stages"},
    "export.engines": {"stages"},
    "training": {"export", "media", "stages"},
    "server": {"stages"},
    "runtime": {"media", "stages"},
    "jetson": {"stages", "export.engines"},
    "evaluation": {"runtime", "training", "export", "media", "stages"},
}
TORCH = {"torch", "torchvision", "onnx", "onnx_ir", "onnxscript"}
MAY_TORCH = ("export", "training", "evaluation")

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
    for name in ("pedsam", *PLACES[extra]):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).symlink_to(ROOT / name)
    return path


def modules_of(package: str) -> list[str]:
    files = sorted((ROOT / package).rglob("*.py"))
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]


@pytest.mark.parametrize("extra", ["site", "edge", ""])
def test_a_place_of_work_needs_only_its_own_extra(extra: str, tmp_path: Path) -> None:
    folder = environment(extra, tmp_path)
    modules = [name for package in PLACES[extra] for name in modules_of(package)]
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


def sources() -> Iterator[tuple[str, Path]]:
    """Every source file with the package of LAYERS it belongs to."""
    for folder in sorted({name.partition(".")[0] for name in LAYERS}):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield package_of(".".join(path.relative_to(ROOT).with_suffix("").parts)), path


def package_of(module: str) -> str:
    """The longest package of LAYERS that holds a module; its top-level name where none does."""
    holding = [name for name in LAYERS if f"{module}.".startswith(f"{name}.")]
    return max(holding, key=len, default=module.partition(".")[0])


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, at its top or later."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_packages_import_each_other_as_the_layers_say() -> None:
    ours = {*LAYERS, "benchmarks", "examples", "tests"}
    for package, path in sources():
        found = {package_of(name) for name in imports(path)} & ours
        assert found <= LAYERS[package] | {package}, path


def test_modules_import_without_circles() -> None:
    """Modules import each other without a circle, so that each can be read before what uses it."""
    graph = {
        module_name(path): {imported for name in imports(path) if (imported := existing(name))}
        for _, path in sources()
    }
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def existing(name: str) -> str | None:
    """The module of this project that `name` is or lies in, packages themselves left out."""
    parts = name.split(".")
    for end in (len(parts), len(parts) - 1):
        if end and ROOT.joinpath(*parts[:end]).with_suffix(".py").is_file():
            return ".".join(parts[:end])
    return None


def test_who_may_import_what_is_heavy() -> None:
    for package, path in sources():
        found = {name.partition(".")[0] for name in imports(path)}
        if package not in MAY_TORCH:
            assert not found & TORCH, path
        if path != ROOT / "export/sam.py":
            assert "segment_anything" not in found, path
        assert not found & {"tensorrt", "tensorrt_rtx", "pycuda"}, path
    # These are imported by name, when they are used, in one place; everyone else asks it for them. So are
    # what a user names as detector, the commands, and what `import pedsam` hands on.
    by_name = {
        str(path.relative_to(ROOT))
        for _, path in sources()
        if "import_module(" in path.read_text(encoding="utf-8")
    }
    assert by_name == {
        "stages/engines/tensorrt_engine.py",
        "runtime/detectors/kinds.py",
        "pedsam/__init__.py",
        "pedsam/command.py",
    }


def test_pictures_as_files_are_opened_and_written_in_one_place() -> None:
    """Other readers differ in bit depth, orientation and limits; OpenCV takes no name that is not UTF-8."""
    others = {
        "Image.open",
        "cv2.imread",
        "cv2.imreadmulti",
        "cv2.imdecode",
        "cv2.imwrite",
        "cv2.imwritemulti",
    }
    files = [path for _, path in sources()] + sorted((ROOT / "benchmarks").glob("*.py"))
    using = {path for path in files if set(attributes(path)) & others}
    assert using == {ROOT / "media/pictures.py"}


def attributes(path: Path) -> Iterator[str]:
    """Every NAME.attribute in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


def test_every_folder_of_code_is_shipped_with_what_it_reads() -> None:
    shipped = PYPROJECT["tool"]["setuptools"]
    for _, path in sources():
        assert (path.parent / "__init__.py").is_file(), path.parent
        assert f"{path.relative_to(ROOT).parts[0]}*" in shipped["packages"]["find"]["include"]
    assert shipped["package-data"] == {
        "pedsam": ["py.typed"],
        "media": ["py.typed"],
        "runtime": ["py.typed"],
        "stages": [
            "py.typed",
            "mini/*.*",
            *(f"mini/{part}/*" for part in ("edge", "window", "global", "decoder")),
        ],
        "runtime.detectors": ["models/*"],
        "runtime.preview": ["static/*"],
        "jetson": ["scripts/*", "files/*"],
    }


def test_git_ignores_no_package() -> None:
    packages = {str(path.parent) for _, path in sources()}
    line = ["git", "check-ignore", "--no-index", *(f"{package}/new.py" for package in sorted(packages))]
    assert subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT).stdout == ""
