"""What the container takes from NVIDIA's image, and what must hold of the result. Runs while it is built.

NVIDIA's image for JetPack is 14 GB with a project in it; the edge needs TensorRT with its builder, OpenCV,
their Python modules and the libraries behind them. `collect` finds these by asking the loader (`ldd`), and
sorts them: what apt can install onto the small base is listed, what only NVIDIA has is copied. `check` looks
at the finished container. Both print what they found. Only the standard library is used: the system's Python
runs this before anything is installed.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

# Libraries of the board's driver: NVIDIA's container runtime puts the board's own into a container as it
# starts, so that none is there while the image is built. Named in the lists of L4T 36's container runtime.
BOARD = re.compile(
    r"lib(cuda|nvcudla|nvcucompat|nvdla_runtime|nvidia-[\w-]+|nvos|nvrm_\w+|nvsci\w+|nvsocsys|nvtegrahv)\.so[.\d]*"
)
LOADER_CONF = "etc/ld.so.conf.d/zz-pedsam.conf"


class ImageError(Exception):
    """What is missing in the image, in a sentence."""


def run(*line: str | Path) -> str:
    """A program's output. Raises ImageError with its last words where it fails."""
    done = subprocess.run(line, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        raise ImageError(f"{Path(line[0]).name}: {words[-1]}")
    return done.stdout


def module_path(name: str) -> Path:
    """The package's folder or the module's file, as the system's Python finds it."""
    code = f"import importlib.util as u; s = u.find_spec({name!r}); print(s.origin if s else '')"
    origin = Path(run("/usr/bin/python3", "-c", code).strip())
    if origin == Path():
        raise ImageError(f"the base has no Python module {name}")
    return origin.parent if origin.name == "__init__.py" else origin


def libraries(start: str) -> list[Path]:
    """The base's libraries whose file name starts so, in folders that the loader knows; links resolved."""
    entries = [line.partition(" => ")[2] for line in run("/sbin/ldconfig", "-p").splitlines()]
    folders = {Path(entry).parent for entry in entries if entry}
    found = {path.resolve() for folder in folders for path in folder.glob(f"{start}*")}
    if not found:
        raise ImageError(f"the base has no library {start}*")
    return sorted(found)


def binaries(path: Path) -> list[Path]:
    """The shared libraries that a folder holds, or the one that a file is."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sorted(file for file in files if re.search(r"\.so(\.|$)", file.name) and file.is_file())


def needed(path: Path) -> Iterator[tuple[str, Path | None]]:
    """What the loader would load with a library: its name, and where it is, None where it is not found."""
    for line in run("ldd", path).splitlines():
        if match := re.fullmatch(r"\s*(\S+) => (not found|/\S+)(?: \(0x[0-9a-f]+\))?", line):
            yield match[1], None if match[2] == "not found" else Path(match[2])


def closure(roots: Iterable[Path]) -> tuple[dict[str, Path], set[str]]:
    """Every library behind the binaries of `roots`, by name, and the names of those that the image lacks."""
    return split(each for root in roots for binary in binaries(root) for each in needed(binary))


def split(libraries: Iterable[tuple[str, Path | None]]) -> tuple[dict[str, Path], set[str]]:
    """As `closure`. The board's driver counts as lacking even where it is: it is of the board built on."""
    found: dict[str, Path] = {}
    absent: set[str] = set()
    for name, path in libraries:
        if path is None or BOARD.fullmatch(name):
            absent.add(name)
        else:
            found[name] = path
    return found, absent


def owners(paths: Iterable[Path]) -> dict[Path, str]:
    """The Debian package of each file that belongs to one."""
    places: dict[str, Path] = {}
    for path in paths:
        real = str(path.resolve())
        # dpkg may know a file by its place before /lib became a link to /usr/lib.
        places |= dict.fromkeys((str(path), real, real.removeprefix("/usr")), path)
    # One call for all: each reads the lists of every package. It fails where any file belongs to none.
    done = subprocess.run(
        ["/usr/bin/dpkg", "-S", *places], capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    found = {}
    for line in done.stdout.splitlines():
        packages, _, place = line.rpartition(": ")
        if place in places and not line.startswith("diversion "):
            found[places[place]] = packages.partition(":")[0]
    return found


def copy(path: Path, root: Path) -> Path:
    """Puts a file or folder under `root` at its own resolved place. Returns that place, seen from `root`."""
    real = path.resolve()
    target = root / real.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if real.is_dir():
        shutil.copytree(real, target, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copy2(real, target)
    return target


def copy_library(name: str, path: Path, root: Path) -> Path:
    """A library with the link by whose name it is loaded. Returns the folder it lies in, from /."""
    target = copy(path, root)
    link = target.with_name(name)
    if not link.exists():
        link.symlink_to(target.name)
    return Path("/") / target.parent.relative_to(root)


def collect(roots: list[Path], users: list[Path], installable: set[str], out: Path) -> None:
    """Sorts `roots` and all libraries behind them and `users` into `out`/root and `out`/packages.txt."""
    found, absent = closure([*roots, *users])
    wanting(absent)
    packages, folders = set[str](), set[Path]()
    known = owners([*roots, *found.values()])
    for name, path in [*((path.name, path) for path in roots), *sorted(found.items())]:
        package = known.get(path, "(no package)")
        if package in installable:
            packages.add(package)
        elif path.is_dir():
            copy(path, out / "root")
        else:
            folders.add(copy_library(name, path, out / "root"))
        print("apt " if package in installable else "copy", package, path)
    write_lines(out / "root" / LOADER_CONF, map(str, folders))
    write_lines(out / "packages.txt", packages)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in sorted(lines)), encoding="utf-8")


def wanting(absent: Iterable[str]) -> None:
    """Raises ImageError for libraries not found, but for those that come from the board."""
    if lacking := sorted(name for name in absent if not BOARD.fullmatch(name)):
        raise ImageError(f"libraries are missing: {', '.join(lacking)}")
    if board := sorted(absent):
        print("from the board, as the container starts:", *board)


def check(roots: list[Path]) -> None:
    """Raises ImageError where the finished container lacks what the edge needs."""
    wanting(closure(roots)[1])
    numpy = run(sys.executable, "-c", "import numpy; print(numpy.__version__)").strip()
    check_numpy(numpy)
    check_gstreamer(run(sys.executable, "-c", "import cv2; print(cv2.getBuildInformation())"))
    print(f"numpy {numpy}; OpenCV with GStreamer; TensorRT {tensorrt()}")


def check_numpy(version: str) -> None:
    if not version.startswith("1."):
        raise ImageError(
            f"numpy is {version}, and NVIDIA's OpenCV needs 1.x: pin it in constraints-jetson.txt"
        )


def check_gstreamer(build: str) -> None:
    """`build` is what OpenCV tells of how it was built."""
    answers = re.findall(r"GStreamer: +(\w+)", build)
    if answers != ["YES"]:
        raise ImageError(
            f"OpenCV says of GStreamer: {', '.join(answers) or 'nothing'}, expected YES; "
            "another one than the base's is in the way"
        )


def tensorrt() -> str:
    """TensorRT's version as its module tells it, or that only the board's driver is missing for that."""
    try:
        return run(sys.executable, "-c", "import tensorrt; print(tensorrt.__version__)").strip()
    except ImageError as exc:
        if missing := re.search(r"(lib\S+): cannot open shared object file", str(exc)):
            wanting([missing[1]])
            return f"not imported here, for want of {missing[1]}"
        raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["collect", "check"])
    parser.add_argument("--modules", default="", help="Python modules of the base, with blanks between")
    parser.add_argument(
        "--libraries", default="", help="how file names of libraries start that code loads by name"
    )
    parser.add_argument(
        "--users", nargs="*", default=[], type=Path, help="files that need libraries of the base"
    )
    parser.add_argument("--installable", type=Path, help="file with the packages that apt has, one a line")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    try:
        roots = [module_path(name) for name in given.modules.split()]
        roots += [path for start in given.libraries.split() for path in libraries(start)]
        if given.task == "check":
            check([*roots, *given.users])
        else:
            installable = set(given.installable.read_text(encoding="utf-8").split())
            collect(roots, given.users, installable, given.out)
    except ImageError as exc:
        sys.exit(f"{given.task}: {exc}")


if __name__ == "__main__":
    main()
