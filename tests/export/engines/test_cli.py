"""`pedsam build`, for real, with TensorRT for RTX, for a board that is not here."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from export.engines.build import Target, build_stage
from export.engines.builder import RTX
from export.engines.cli import build_stages
from pedsam.command import main
from stages.bundle import Bundle, sha256
from stages.errors import BundleError, InputError


def command(*arguments: str) -> tuple[int, Sequence[str]]:
    wide = {"COLUMNS": "200"}  # no cell of a table is broken
    result = CliRunner().invoke(main, ["build", *arguments], env=wide)
    return result.exit_code, result.output.splitlines()


def test_the_command_shows_what_parses(bundle: Bundle) -> None:
    (bundle.path / "decoder").unlink()  # it takes longest
    code, lines = command("--bundle", str(bundle.path), "--parse-only")
    assert code == 0
    assert lines[0].startswith("mini (untrained weights) for sm_86, nothing is kept, with tensorrt_rtx 1.")
    built = [line.split(":")[0] for line in lines if ": built in" in line]
    assert built == ["window", "global"]
    assert [line for line in lines if line.endswith(" 0 %")] == [
        "window: building, 0 %",
        "global: building, 0 %",
    ]
    rows = [line.split("│")[1:-1] for line in lines if line.startswith("│")]
    assert [[cell.strip() for cell in row][:2] for row in rows] == [
        ["window", "fp32"],
        ["global", "fp32"],
    ]
    assert [row[6].strip() for row in rows] == ["all", "all"]
    assert all(cell.strip().endswith(" MB") for row in rows for cell in (*row[3:6], row[7]))
    assert lines[-1].startswith("running them together takes about 0.")


def shown(bundle: Bundle, target: Target) -> list[str]:
    """What the command prints on the machine that `target` is on."""
    console = Console(file=StringIO(), width=120, soft_wrap=True)
    build_stages(console, bundle, ("global",), target)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def test_the_command_builds_then_reuses_and_says_whether_it_fits(bundle: Bundle, target: Target) -> None:
    lines = shown(bundle, target)
    assert lines[0] == f"mini (untrained weights) for Test Board (sm_86), with {RTX} {target.version}"
    assert lines[1] == "global: building, 0 %"
    assert any(re.fullmatch(r"global: built in [\d.]+ s \(not built yet\)", line) for line in lines)
    assert re.fullmatch(
        r"running them together takes about 0\.\d GB, CUDA and TensorRT included; [\d.]+ GB are free: fits",
        lines[-2],
    )
    assert lines[-1] == f"engines in {bundle.path}/engines/test-board-sm_86"
    again = shown(bundle, target)
    assert again[1] == "global: reused, built for this bundle, device and TensorRT"
    assert "reused" in next(line for line in again if line.startswith("│ global"))


def report_of(bundle: Bundle, target: Target, path: Path) -> dict[str, Any]:
    console = Console(file=StringIO(), width=120)
    build_stages(console, bundle, ("global",), target, path)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_programs_read_the_table_as_json(bundle: Bundle, target: Target, tmp_path: Path) -> None:
    found = report_of(bundle, target, tmp_path / "report.json")
    (stage,) = found["stages"]
    plan = bundle.path / stage["plan"]
    assert (plan.stat().st_size, sha256(plan)) == (stage["plan_bytes"], stage["plan_sha256"])
    assert (stage["stage"], stage["reason"], found["failed"]) == ("global", "not built yet", None)
    assert (found["device"], found["library"]) == ("Test Board", RTX)
    assert found["together_bytes"] == 600_000_000 + stage["weights_bytes"] + stage["activation_bytes"]
    assert [each["outcome"] for each in stage["attempts"]] == ["built"]
    again = report_of(bundle, target, tmp_path / "report.json")["stages"]
    assert again == [{**stage, "reason": None}]


def test_a_build_that_fails_is_in_the_json_too(bundle: Bundle, target: Target, tmp_path: Path) -> None:
    build_stage(bundle, "global", target, lambda fraction: None)
    (bundle.path / "window").unlink()
    console, path = Console(file=StringIO()), tmp_path / "report.json"
    with pytest.raises(BundleError):
        build_stages(console, bundle, ("global", "window", "decoder"), target, path)
    found = json.loads(path.read_text())
    assert [stage["stage"] for stage in found["stages"]] == ["global"]
    assert found["failed"]["stage"] == "window"
    assert "window/model.onnx" in found["failed"]["error"]


def test_json_on_standard_output_is_alone_there(bundle: Bundle) -> None:
    (bundle.path / "decoder").unlink()
    (bundle.path / "window").unlink()
    line = [
        sys.executable,
        "-m",
        "pedsam",
        "build",
        "--bundle",
        str(bundle.path),
        "--parse-only",
        "--json",
        "-",
    ]
    image = {**os.environ, "PEDSAM_IMAGE": "sha256:ab"}
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=120, env=image)
    found = json.loads(done.stdout)
    assert [stage["stage"] for stage in found["stages"]] == ["global"]
    assert found["image"] == "sha256:ab"
    assert "global: building, 0 %\n" in done.stderr
    assert "│ global" in done.stderr


def test_json_that_cannot_be_written_is_a_sentence(bundle: Bundle, target: Target, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--json .*nowhere/report.json cannot be written \(No such file"):
        report_of(bundle, target, tmp_path / "nowhere/report.json")


def test_an_engine_that_took_several_tries_says_so_in_the_table(bundle: Bundle, target: Target) -> None:
    console = Console(file=StringIO(), width=160, soft_wrap=True)
    build_stages(console, bundle, ("global",), replace(target, workspace_bytes=4 << 20))
    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().splitlines()
    assert "8.4 MB, try 2" in next(line for line in lines if line.startswith("│ global"))
    tried = r"global: .*OutOfMemory \(Requested size was \d+ bytes\.\); trying 8\.4 MB of workspace"
    assert any(re.fullmatch(tried, line) for line in lines)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no NVIDIA GPU is visible here"),
        (["--for", "moon"], "'moon' is not one of 'site', 'edge'"),
        (["--parse-only", "--target", "sm_87"], "'sm_87' is not one of"),
        (["--workspace-mb", "0"], "0 is not in the range x>=1"),
    ],
)
def test_what_the_command_refuses(bundle: Bundle, arguments: list[str], words: str) -> None:
    code, lines = command("--bundle", str(bundle.path), *arguments)
    assert code != 0
    assert words in lines[-1]


def test_ctrl_c_ends_the_command_and_its_builder(bundle: Bundle) -> None:
    line = [sys.executable, "-m", "pedsam", "build", "--bundle", str(bundle.path), "--parse-only"]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        while ": built in" not in process.stdout.readline():
            pass  # one stage is built, and the process for the next one is starting
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.strip().splitlines()[-1] == "Aborted!"
    assert "Traceback" not in errors


@pytest.fixture
def run() -> Callable[[list[str]], subprocess.CompletedProcess[str]]:
    def call(arguments: list[str]) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "pedsam", *arguments]
        return subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)

    return call


def test_a_site_that_is_told_to_build_does_not_start_without(
    bundle: Bundle, run: Callable[[list[str]], subprocess.CompletedProcess[str]]
) -> None:
    done = run(["serve", "--bundle", str(bundle.path), "--port", "0", "--build"])
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Error: no NVIDIA GPU is visible here, and engines are built on the device they run on; build there, "
        "or try the graphs with --parse-only",
        "Error: the engine was not built, so this site does not start; without --build it runs without "
        "TensorRT",
    ]
