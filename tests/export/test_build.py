"""`pedsam build`: for real, with TensorRT for RTX, for a board that is not here."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from export.build import Target, build_stage, expected_peak, stages_of, target_for
from export.build_cli import build_stages
from export.builder import RTX
from pedsam import main
from stages.bundle import Bundle
from stages.errors import BundleError, EngineError
from stages.plans import load_plan, plan_key, plan_path, record_path, temporary_path
from stages.tensorrt_engine import tensorrt_library
from tests.engines import BOARD, linked

TARGET = Target(BOARD, RTX, tensorrt_library(RTX).__version__)


@pytest.fixture
def bundle(mini_bundle: Bundle, tmp_path: Path) -> Bundle:
    return linked(mini_bundle, tmp_path / "bundle")


def ignore(fraction: float) -> None:
    pass


def refuse(fraction: float) -> None:
    raise AssertionError("something was built")


def built_files(bundle: Bundle) -> list[str]:
    return sorted(path.name for path in plan_path(bundle, "global", BOARD).parent.glob("*"))


# Building and reusing


def test_a_stage_is_built_with_its_record_and_then_reused(bundle: Bundle) -> None:
    seen: list[float] = []
    row = build_stage(bundle, "global", TARGET, seen.append)
    assert row.reason == "not built yet"
    assert (seen[-1], seen) == (1.0, sorted(seen))
    assert built_files(bundle) == ["global.json", "global.plan"]
    key = plan_key(bundle, "global", BOARD, RTX, TARGET.version)
    assert len(load_plan(plan_path(bundle, "global", BOARD), key)) == row.record.plan_bytes
    assert row.record.key == key
    assert row.record.weights_bytes is not None
    assert row.record.plan_bytes > row.record.weights_bytes > 1_000_000
    assert row.record.build_s > 0
    again = build_stage(bundle, "global", TARGET, refuse)
    assert again.reason is None
    assert again.record == row.record


def test_a_plan_that_was_cut_short_is_built_again(bundle: Bundle) -> None:
    plan = plan_path(bundle, "global", BOARD)
    whole = build_stage(bundle, "global", TARGET, ignore).record.plan_bytes
    os.truncate(plan, whole // 2)
    row = build_stage(bundle, "global", TARGET, ignore)
    assert row.reason == f"its {whole // 2} bytes differ from the {whole} that its record describes"
    assert plan.stat().st_size == row.record.plan_bytes


def test_a_plan_of_another_tensorrt_is_built_again(bundle: Bundle) -> None:
    build_stage(bundle, "global", TARGET, ignore)
    path = record_path(plan_path(bundle, "global", BOARD))
    record = json.loads(path.read_text())
    record["key"]["library_version"] = "1.0.0"
    path.write_text(json.dumps(record))
    row = build_stage(bundle, "global", TARGET, ignore)
    assert row.reason == f"built for {RTX} 1.0.0, and here is {RTX} {TARGET.version}"
    assert json.loads(path.read_text())["key"]["library_version"] == TARGET.version


def test_parse_only_keeps_nothing(bundle: Bundle) -> None:
    row = build_stage(bundle, "global", target_for(None, "sm_89", None), ignore)
    assert row.record.key.compute_capability == "sm_89"
    assert row.record.peak_bytes > 50_000_000
    assert not (bundle.path / "engines").exists()


def test_a_stage_that_was_changed_is_not_built(bundle: Bundle) -> None:
    (bundle.path / "global").unlink()
    (bundle.path / "global").mkdir()
    (bundle.path / "global/model.onnx").write_bytes(b"changed")
    with pytest.raises(BundleError, match=r"differs from what bundle.json records"):
        build_stage(bundle, "global", TARGET, refuse)


# Builds that fail


def kill_the_builder(fraction: float) -> None:
    """What Linux does to it when memory runs out."""
    (child,) = multiprocessing.active_children()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)


def test_a_build_that_is_killed_says_what_helps_and_leaves_no_plan(bundle: Bundle) -> None:
    build_stage(bundle, "global", TARGET, ignore)
    with pytest.raises(EngineError) as killed:
        build_stage(bundle, "window", TARGET, kill_the_builder)
    text = str(killed.value)
    assert text.startswith("the build of stage window was killed, as Linux does when memory runs out (")
    assert all(words in text for words in ("swap file", "desktop off", "--workspace-mb", "smaller model"))
    assert built_files(bundle) == ["global.json", "global.plan"]  # what was built before is kept
    assert build_stage(bundle, "global", TARGET, refuse).reason is None


def test_a_build_that_crashes_is_told_apart(bundle: Bundle) -> None:
    def crash(fraction: float) -> None:
        (child,) = multiprocessing.active_children()
        assert child.pid is not None
        os.kill(child.pid, signal.SIGSEGV)

    with pytest.raises(
        EngineError, match="the build of stage global was ended by SIGSEGV without saying why"
    ):
        build_stage(bundle, "global", TARGET, crash)


def test_an_error_of_the_builder_arrives_as_itself(bundle: Bundle) -> None:
    build_stage(bundle, "global", TARGET, ignore)
    small = replace(TARGET, version="other", workspace_bytes=1 << 16)
    with pytest.raises(EngineError, match=r"memory ran out while building stage global: .*OutOfMemory"):
        build_stage(bundle, "global", small, ignore)
    with pytest.raises(EngineError, match=rf"was built for {RTX} {TARGET.version}, and here is {RTX} other"):
        load_plan(plan_path(bundle, "global", BOARD), plan_key(bundle, "global", BOARD, RTX, "other"))


def test_an_engine_that_cannot_be_written_is_a_sentence(bundle: Bundle) -> None:
    (bundle.path / "engines").write_text("a file where the folder should be")
    with pytest.raises(EngineError, match=r"the engine of stage global cannot be kept: .*engines"):
        build_stage(bundle, "global", TARGET, ignore)


def test_stopping_from_outside_leaves_no_process_and_no_file(bundle: Bundle) -> None:
    def interrupt(fraction: float) -> None:
        raise KeyboardInterrupt

    temporary = temporary_path(plan_path(bundle, "global", BOARD))
    temporary.parent.mkdir(parents=True)
    temporary.write_bytes(b"what a build that was killed had written")
    with pytest.raises(KeyboardInterrupt):
        build_stage(bundle, "global", TARGET, interrupt)
    assert not multiprocessing.active_children()
    assert built_files(bundle) == []


# What is built where


def without(bundle: Bundle, *names: str) -> Bundle:
    for name in names:
        (bundle.path / name).unlink()
    return bundle


def test_each_place_gets_its_stages(bundle: Bundle) -> None:
    assert stages_of(bundle, "site") == ("window",)
    assert stages_of(bundle, "edge") == ("global", "decoder", "window")
    assert stages_of(bundle, "held") == ("window", "global", "decoder")
    assert stages_of(bundle, "all") == ("window", "global", "decoder", "whole")


def test_what_a_copy_does_not_hold_is_not_built(bundle: Bundle) -> None:
    without(bundle, "window")
    assert stages_of(bundle, "edge") == ("global", "decoder")
    assert stages_of(bundle, "held") == ("global", "decoder")
    assert stages_of(bundle, "all") == ("global", "decoder", "whole")
    with pytest.raises(EngineError, match="does not hold window; copy the folders from the full bundle"):
        stages_of(bundle, "site")
    without(bundle, "global")
    with pytest.raises(EngineError, match="does not hold global; copy"):
        stages_of(bundle, "edge")
    without(bundle, "decoder")
    with pytest.raises(EngineError, match="does not hold window and global and decoder; copy"):
        stages_of(bundle, "held")


def test_the_memory_of_a_build_is_told_before(bundle: Bundle) -> None:
    files = sum((bundle.path / name).stat().st_size for name in bundle.stage("window").files)
    assert expected_peak(bundle, "window", TARGET) == 1_600_000_000 + 2 * files
    limited = replace(TARGET, workspace_bytes=10**9)
    assert expected_peak(bundle, "window", limited) == 2_600_000_000 + 2 * files


def test_without_a_gpu_there_is_nothing_to_build_for() -> None:
    with pytest.raises(
        EngineError, match=r"no NVIDIA GPU is visible here, .* try the graphs with --parse-only"
    ):
        target_for(None, None, None)


def test_on_a_gpu_the_tensorrt_that_is_installed_builds() -> None:
    assert target_for(BOARD, None, 1500) == replace(TARGET, workspace_bytes=1500 << 20)


# The command


def command(*arguments: str) -> tuple[int, Sequence[str]]:
    result = CliRunner().invoke(main, ["build", *arguments])
    return result.exit_code, result.output.splitlines()


def test_the_command_shows_what_parses(bundle: Bundle) -> None:
    without(bundle, "decoder")  # it takes longest
    code, lines = command("--bundle", str(bundle.path), "--parse-only")
    assert code == 0
    assert lines[0].startswith("mini (untrained weights) for sm_86, nothing is kept, with tensorrt_rtx 1.")
    assert [line.split(":")[0] for line in lines[1:3]] == ["window", "global"]
    rows = [line.split("│")[1:-1] for line in lines if line.startswith("│")]
    assert [[cell.strip() for cell in row][:2] for row in rows] == [
        ["window", "fp32"],
        ["global", "fp32"],
    ]
    assert all(cell.strip().endswith(" MB") for row in rows for cell in row[3:])
    assert lines[-1].startswith("running them together takes about 0.")


def shown(bundle: Bundle, target: Target) -> list[str]:
    """What the command prints on the machine that `target` is on."""
    console = Console(file=StringIO(), width=120, soft_wrap=True)
    build_stages(console, bundle, ("global",), target)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def test_the_command_builds_then_reuses_and_says_whether_it_fits(bundle: Bundle) -> None:
    lines = shown(bundle, TARGET)
    assert lines[0] == f"mini (untrained weights) for Test Board (sm_86), with {RTX} {TARGET.version}"
    assert re.fullmatch(r"global: built in [\d.]+ s \(not built yet\)", lines[1])
    assert re.fullmatch(
        r"running them together takes about 0\.\d GB, CUDA and TensorRT included; [\d.]+ GB are free: fits",
        lines[-2],
    )
    assert lines[-1] == f"engines in {bundle.path}/engines/test-board-sm_86"
    again = shown(bundle, TARGET)
    assert again[1] == "global: reused, built for this bundle, device and TensorRT"
    assert "reused" in next(line for line in again if line.startswith("│ global"))


def test_a_build_that_may_not_fit_is_told_before_it_starts(bundle: Bundle) -> None:
    build_stage(bundle, "global", TARGET, ignore)
    lines = shown(bundle, replace(TARGET, workspace_bytes=10**15))
    assert lines[1].startswith("global: building may take 1000001.6 GB, TensorRT itself included, and ")
    assert "add swap, turn the desktop off or give a lower --workspace-mb" in lines[1]


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
        for _ in range(2):  # until one stage is built, and the process for the next one is starting
            process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.strip().splitlines()[-1] == "Aborted!"
    assert "Traceback" not in errors


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


@pytest.fixture
def run() -> Callable[[list[str]], subprocess.CompletedProcess[str]]:
    def call(arguments: list[str]) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "pedsam", *arguments]
        return subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)

    return call
