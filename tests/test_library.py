"""`import pedsam`: what it does not do, what it hands on, and what is said where it cannot."""

from __future__ import annotations

import importlib
import inspect
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import pytest

import pedsam
from pedsam.own_packages import NEEDED
from tests.support.processes import MODULE
from tests.test_isolation import LAYERS, PYPROJECT, environment

ROOT = Path(__file__).parent.parent
UNTOUCHED = """
import signal, sys, os, threading
before, loaded, environment = [signal.getsignal(n) for n in range(1, 30)], set(sys.modules), dict(os.environ)
import pedsam
assert [signal.getsignal(n) for n in range(1, 30)] == before
assert dict(os.environ) == environment
assert threading.active_count() == 1
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - loaded} - sys.stdlib_module_names))
"""


def python(code: str, *options: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, *options, "-c", code]
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=cwd, env=variables or None)


def test_importing_it_does_nothing_else() -> None:
    done = python(UNTOUCHED)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "pedsam\n")


def test_using_it_imports_no_command_line_and_handles_no_signal() -> None:
    code = "import pedsam, signal, sys; pedsam.open_async()\n"
    code += "print('click' in sys.modules, signal.getsignal(15) == signal.SIG_DFL)"
    assert python(code).stdout == "False True\n"


def test_a_program_keeps_pillows_own_limits() -> None:
    code = "from PIL import Image; before = Image.MAX_IMAGE_PIXELS; import pedsam; s = pedsam.open_async\n"
    code += "import media.pictures, runtime.session; print(Image.MAX_IMAGE_PIXELS == before)"
    assert python(code).stdout == "True\n"


@pytest.mark.parametrize("name", [*pedsam.__all__, "main", "__version__"])
def test_every_name_is_handed_on(name: str) -> None:
    value = getattr(pedsam, name)
    assert name in dir(pedsam)
    if name in pedsam.__all__ and name != "TrackState":
        assert value.__doc__, f"pedsam.{name} has no docstring"


def test_a_name_that_there_is_not_is_pythons_own_error() -> None:
    with pytest.raises(AttributeError, match="module 'pedsam' has no attribute 'opened'"):
        _ = pedsam.opened  # type: ignore[attr-defined]


def methods() -> Iterator[tuple[str, object]]:
    for name in ("Session", "AsyncSession", "Predictor", "AsyncPredictor", "Tracker", "AsyncTracker"):
        for own, value in vars(getattr(pedsam, name)).items():
            if not own.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                yield f"{name}.{own}", value


@pytest.mark.parametrize(("name", "method"), list(methods()), ids=[name for name, _ in methods()])
def test_every_method_has_types_and_says_what_it_does(name: str, method: object) -> None:
    function = method.fget if isinstance(method, property) else method
    assert callable(function)
    hints = get_type_hints(function)  # none of them names what is not there
    assert hints.keys() >= {*inspect.signature(function).parameters, "return"} - {"self"}
    assert function.__doc__ or name.endswith((".closed", ".is_image_set"))


def test_both_kinds_of_session_have_the_same_methods() -> None:
    for one, other in (
        ("Session", "AsyncSession"),
        ("Predictor", "AsyncPredictor"),
        ("Tracker", "AsyncTracker"),
    ):
        names = [
            {own for own in vars(getattr(pedsam, name)) if not own.startswith("_")} - {"close", "aclose"}
            for name in (one, other)
        ]
        assert names[0] == names[1] - {"following"}
        for own in names[0]:
            mine, theirs = (vars(getattr(pedsam, name))[own] for name in (one, other))
            if inspect.isfunction(mine):
                assert [*inspect.signature(mine).parameters] == [*inspect.signature(theirs).parameters], own


def test_types_are_shipped_with_what_they_come_from() -> None:
    for package in ("pedsam", *LAYERS["pedsam"], *LAYERS["runtime"]):
        assert (ROOT / package / "py.typed").is_file()
        assert "py.typed" in PYPROJECT["tool"]["setuptools"]["package-data"][package]


def test_without_its_libraries_a_sentence_says_what_installs_them(tmp_path: Path) -> None:
    folder = environment("", tmp_path)
    for name in ("runtime", "media"):
        (folder / name).symlink_to(ROOT / name)
    code = f"import sys; sys.path.append({str(folder)!r}); import pedsam; print(pedsam); pedsam.open"
    done = python(code, "-I", "-S", cwd=tmp_path)
    assert done.stdout.startswith("<module 'pedsam'")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: pedsam in Python needs the package ")
    assert last.endswith(', which is not here: pip install "pedsam[edge]"')


# Other distributions' packages of the same names


def test_what_each_package_needs_is_what_the_layers_say() -> None:
    def with_others(layer: str) -> set[str]:
        return {layer.split(".")[0]}.union(*map(with_others, LAYERS[layer]))

    assert {name: set(needed) for name, needed in NEEDED.items()} == {
        name: with_others(name) for name in LAYERS if "." not in name and name != "pedsam"
    }


def another(folder: Path, name: str) -> Path:
    """A package of this name that is not pedsam's."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text("answer = 42\n", encoding="utf-8")
    return folder


ASKED = "import pedsam; pedsam.open"
RUN = "import sys, pedsam; sys.argv[1:] = ['run', '--source', 'x.png', '--point', '1,1']; pedsam.main()"
SERVE = "import sys, pedsam; sys.argv[1:] = ['serve']; pedsam.main()"


@pytest.mark.parametrize("name", ["stages", "media", "runtime"])
@pytest.mark.parametrize("code", [ASKED, RUN])
def test_a_package_before_pedsams_is_a_sentence(tmp_path: Path, name: str, code: str) -> None:
    before = another(tmp_path / "before", name)
    done = python(code, cwd=tmp_path, PYTHONPATH=f"{before}:{ROOT}")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    sentence = (
        f"Python finds the package {name} in {before / name}, which is not the one of pedsam in {ROOT}: "
        "install pedsam into an environment of its own (python3 -m venv), and use it where no folder of that "
        "name comes first, as by PYTHONPATH"
    )
    assert last.partition(": ")[2] == sentence
    assert last.partition(": ")[0] in ("Error", "ImportError", "pedsam.own_packages.Shadowed")
    if code is RUN:
        assert done.stderr == f"Error: {sentence}\n"


def test_a_package_that_is_not_needed_is_in_nobodys_way(tmp_path: Path) -> None:
    before = another(tmp_path / "before", "export")
    done = python("import pedsam; print(pedsam.open)", cwd=tmp_path, PYTHONPATH=f"{before}:{ROOT}")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_of_the_same_name_where_one_works_is_in_nobodys_way(tmp_path: Path) -> None:
    """Python takes a folder without __init__.py for a package only where there is no other."""
    (tmp_path / "runtime").mkdir()
    done = python("import pedsam; print(pedsam.open)", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def site_packages(tmp_path: Path) -> Path:
    """pedsam in a folder where another distribution was installed later, over its files."""
    folder = tmp_path / "site-packages"
    for name in (*NEEDED, "pedsam"):
        (folder / name).mkdir(parents=True)
        for path in (ROOT / name).iterdir():
            (folder / name / path.name).symlink_to(path)
    for name, packages in (("pedsam", (*NEEDED, "pedsam")), ("Servitor", ("server", "runtime"))):
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8"
        )
        (info / "RECORD").write_text(
            "".join(f"{package}/cli.py,,\n" for package in packages), encoding="utf-8"
        )
    for name in ("server/cli.py", "runtime/edge.py"):
        (folder / name).unlink()
        (folder / name).write_text("answer = 42\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("code", "name"), [(ASKED, "runtime"), (SERVE, "server")], ids=["in Python", "as a command"]
)
def test_files_over_pedsams_are_a_sentence(site_packages: Path, tmp_path: Path, code: str, name: str) -> None:
    done = python(code, "-s", cwd=tmp_path, PYTHONPATH=str(site_packages))
    assert done.returncode == 1
    sentence = (
        f"Servitor has files in the package {{}} too, of which pedsam's are in {site_packages}/{{}}: "
        "install pedsam into an environment of its own (python3 -m venv)"
    )
    last = done.stderr.splitlines()[-1].partition(": ")[2]
    assert last in [sentence.format(each, each) for each in ("server", "runtime")]
    if code is SERVE:
        assert done.stderr.count("\n") == 1


@pytest.fixture
def unlisted(site_packages: Path) -> Path:
    """pedsam in a folder, in which files can be put that no distribution tells of."""
    shutil.rmtree(site_packages / "Servitor-1.0.dist-info")
    for name in ("server/cli.py", "runtime/edge.py"):
        (site_packages / name).unlink()
        (site_packages / name).symlink_to(ROOT / name)
    return site_packages


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("runtime/__init__.py", "from .core import Engine\n", "runtime.core"),
        ("runtime/cli.py", "answer = 42\n", "'command'"),
        ("runtime/api/opening.py", "answer = 42\n", "'open'"),
        ("stages/stops.py", "answer = 42\n", "'end_at_once'"),
        ("stages/errors.py", "answer = 42\n", "stages.errors"),
    ],
)
def test_files_that_no_distribution_tells_of_are_a_sentence(
    unlisted: Path, tmp_path: Path, path: str, text: str, words: str
) -> None:
    code = ASKED if path.startswith("runtime/api") else RUN
    if path.startswith("runtime/api"):
        (unlisted / "runtime/api").unlink()
        shutil.copytree(ROOT / "runtime/api", unlisted / "runtime/api")
    (unlisted / path).unlink()
    (unlisted / path).write_text(text, encoding="utf-8")
    done = python(ALONE + code, "-s", cwd=tmp_path, PYTHONPATH=str(unlisted))
    check_not_as_pedsam_has_it(done, unlisted, path.partition("/")[0], words)


@pytest.mark.parametrize("code", [ASKED, RUN])
@pytest.mark.parametrize("name", ["stages", "runtime"])
def test_a_package_in_the_place_of_pedsams_is_a_sentence(
    unlisted: Path, tmp_path: Path, name: str, code: str
) -> None:
    shutil.rmtree(unlisted / name)
    another(unlisted, name)
    done = python(ALONE + code, "-s", cwd=tmp_path, PYTHONPATH=str(unlisted))
    check_not_as_pedsam_has_it(done, unlisted, name, f"No module named '{name}.")


# The finder of an editable install would find there what a package in another place lacks.
ALONE = "import sys; sys.meta_path[:] = [each for each in sys.meta_path if 'Editable' not in str(each)]\n"


def check_not_as_pedsam_has_it(
    done: subprocess.CompletedProcess[str], folder: Path, name: str, words: str
) -> None:
    assert done.returncode == 1
    kind, _, last = done.stderr.splitlines()[-1].partition(": ")
    assert last.startswith(f"the package {name} in {folder / name} is not as pedsam has it (")
    assert words in last
    assert last.endswith(": install pedsam into an environment of its own (python3 -m venv)")
    assert kind == "ImportError" or done.stderr.count("\n") == 1


def test_the_command_runs_as_a_module_and_as_a_function() -> None:
    version = pedsam.__version__
    for line in ([*MODULE, "--version"], [sys.executable, "-c", "import pedsam; pedsam.main(['--version'])"]):
        done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith(f"version {version}\n")
    assert importlib.import_module("pedsam.command").main is pedsam.main
