"""The hooks of every run do what they say, in runs of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.session import RUN_BY

ROOT = Path(__file__).parents[2]
CONFTEST = """
import pytest
from tests.support import session
from tests.support.session import *

session.MEMORY_LIMIT = 300e6
"""
TESTS = """
import subprocess, sys
import pytest

LARGE = "bytearray(400_000_000)"

def test_small():
    pass

def test_large():
    eval(LARGE)

def test_small_after_large():
    pass

def test_large_child():
    subprocess.run([sys.executable, "-c", LARGE], check=True)

def test_small_after_large_child():
    pass

@pytest.mark.full
def test_large_in_full():
    eval(LARGE)

@pytest.mark.gpu
def test_on_a_gpu():
    pass
"""


def run(folder: Path, *options: str) -> list[str]:
    """What a run of TESTS prints."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_memory.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    full\n    gpu\n")
    line = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-ra",
        "--tb=short",
        f"--rootdir={folder}",
        *options,
        str(folder),
    ]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout.splitlines()


def test_what_takes_too_much_memory_fails_by_itself(tmp_path: Path) -> None:
    lines = run(tmp_path)
    failures = [line for line in lines if line.startswith("ERROR")]
    assert [line.split("::")[1].split(" - ")[0] for line in failures] == ["test_large", "test_large_child"]
    told = [line for line in lines if "GB of memory, more than 0.3 GB: " in line]
    said = [
        line.split(" of memory")[0] for line in told if line not in failures
    ]  # where CI is set, these hold it too
    assert said == ["the test process took 0.4 GB", "a process it started took 0.4 GB"]
    assert lines[-1].startswith("7 passed, 2 errors")


@pytest.mark.parametrize("processes", ["0", "2"])
def test_what_is_left_out_is_said(tmp_path: Path, processes: str) -> None:
    lines = run(tmp_path, "-n", processes, "-m", "not full and not gpu", "-k", "small")
    assert "NOT TESTED: what is marked full, 1 in all; make test-full tests it" in lines
    assert "NOT TESTED: what is marked gpu, 1 in all; make test-gpu tests it" in lines
    assert lines[-1].startswith("3 passed")


def test_every_marker_that_leaves_tests_out_has_a_command_that_runs_them(pytestconfig: pytest.Config) -> None:
    assert set(RUN_BY) <= {line.split(":")[0] for line in pytestconfig.getini("markers")}
    targets = (ROOT / "Makefile").read_text("utf-8").splitlines()
    for command in RUN_BY.values():
        assert any(line.startswith(f"{command.split()[1]}:") for line in targets), command
    assert (ROOT / ".ci/run").read_text("utf-8").splitlines()[-3:] == [
        "make lint",
        "make test",
        "make test-full",
    ]
