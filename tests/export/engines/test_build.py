"""Engines built, reused and refused, with TensorRT for RTX, for a board that is not here."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from dataclasses import replace

import pytest

from export.engines.build import (
    Target,
    build_stage,
    memory_warning,
    stages_of,
    target_for,
    workspace_for,
)
from export.engines.builder import RTX
from export.engines.child import _write_cache
from export.engines.memory import LEAST_WORKSPACE, MOST_WORKSPACE, peak_without_workspace, weights_bytes
from stages.bundle import Bundle
from stages.engines.devices import available_bytes
from stages.engines.plans import load_plan, plan_key, plan_path, record_path
from stages.errors import BundleError, EngineError
from stages.files import temporary_path
from tests.support.engines import BOARD, DISCRETE


def ignore(fraction: float) -> None:
    """Progress nobody reads."""


def refuse(fraction: float) -> None:
    raise AssertionError("something was built")


def built_files(bundle: Bundle) -> list[str]:
    return sorted(path.name for path in plan_path(bundle, "global", BOARD).parent.glob("*"))


# Building and reusing


def test_a_stage_is_built_with_its_record_and_then_reused(bundle: Bundle, target: Target) -> None:
    seen: list[float] = []
    row = build_stage(bundle, "global", target, seen.append)
    assert row.reason == "not built yet"
    assert (seen[-1], seen) == (1.0, sorted(seen))
    assert built_files(bundle) == ["global.json", "global.plan"]
    key = plan_key(bundle, "global", BOARD, RTX, target.version)
    assert len(load_plan(plan_path(bundle, "global", BOARD), key)) == row.record.plan_bytes
    assert row.record.key == key
    assert row.record.weights_bytes is not None
    assert row.record.plan_bytes > row.record.weights_bytes > 1_000_000
    assert row.record.build_s > 0
    again = build_stage(bundle, "global", target, refuse)
    assert again.reason is None
    assert again.record == row.record


def test_a_plan_that_was_cut_short_is_built_again(bundle: Bundle, target: Target) -> None:
    plan = plan_path(bundle, "global", BOARD)
    whole = build_stage(bundle, "global", target, ignore).record.plan_bytes
    os.truncate(plan, whole // 2)
    row = build_stage(bundle, "global", target, ignore)
    assert row.reason == f"its {whole // 2} bytes differ from the {whole} that its record describes"
    assert plan.stat().st_size == row.record.plan_bytes


def test_a_plan_of_another_tensorrt_is_built_again(bundle: Bundle, target: Target) -> None:
    build_stage(bundle, "global", target, ignore)
    path = record_path(plan_path(bundle, "global", BOARD))
    record = json.loads(path.read_text())
    record["key"]["library_version"] = "1.0.0"
    path.write_text(json.dumps(record))
    row = build_stage(bundle, "global", target, ignore)
    assert row.reason == f"built for {RTX} 1.0.0, and here is {RTX} {target.version}"
    assert json.loads(path.read_text())["key"]["library_version"] == target.version


def test_parse_only_keeps_nothing(bundle: Bundle) -> None:
    row = build_stage(bundle, "global", target_for(None, "sm_89", None), ignore)
    assert row.record.key.compute_capability == "sm_89"
    assert row.record.peak_bytes > 50_000_000
    assert not (bundle.path / "engines").exists()


def test_a_stage_that_was_changed_is_not_built(bundle: Bundle, target: Target) -> None:
    (bundle.path / "global").unlink()
    (bundle.path / "global").mkdir()
    (bundle.path / "global/model.onnx").write_bytes(b"changed")
    with pytest.raises(BundleError, match=r"differs from what bundle.json records"):
        build_stage(bundle, "global", target, refuse)


# Builds that fail


def signal_the_builder(number: signal.Signals) -> None:
    for child in multiprocessing.active_children():  # none once it is gone and its last fractions are read
        assert child.pid is not None
        os.kill(child.pid, number)


def kill_the_builder(fraction: float) -> None:
    """What Linux does to it when memory runs out."""
    signal_the_builder(signal.SIGKILL)


def test_a_builder_that_is_always_killed_says_what_was_tried_and_what_helps(
    bundle: Bundle, target: Target
) -> None:
    build_stage(bundle, "global", target, ignore)
    given, notes = replace(target, workspace_bytes=200_000_000), list[str]()
    with pytest.raises(EngineError) as killed:
        build_stage(bundle, "window", given, kill_the_builder, notes.append)
    text = str(killed.value)
    assert text.startswith(
        "memory ran out while building stage window, tried with 200.0 MB of workspace, "
        "100.0 MB of workspace, 50.0 MB of workspace, 50.0 MB of workspace at optimisation level 1, "
        "100.0 MB of workspace at optimisation level 0: the builder was killed, as Linux does when memory"
    )
    assert all(words in text for words in ("--headless", "isolate multi-user.target", "swap file", "smaller"))
    assert len(notes) == 4
    assert notes[0].endswith("; trying 100.0 MB of workspace")
    assert built_files(bundle) == ["global.json", "global.plan"]  # what was built before is kept
    assert build_stage(bundle, "global", target, refuse).reason is None


def test_a_builder_that_is_killed_once_builds_with_less(bundle: Bundle, target: Target) -> None:
    killed: list[float] = []

    def kill_once(fraction: float) -> None:
        if not killed:
            killed.append(fraction)
            kill_the_builder(fraction)

    record = build_stage(bundle, "global", replace(target, workspace_bytes=400_000_000), kill_once).record
    assert [(each.workspace_bytes, each.optimization_level) for each in record.attempts] == [
        (400_000_000, None),
        (200_000_000, None),
    ]
    assert record.attempts[0].outcome.startswith("the builder was killed, as Linux does when memory runs out")
    assert record.attempts[1].outcome == "built"
    again = build_stage(bundle, "global", target, refuse)  # how it was built is no part of what it is
    assert again.record == record


def test_a_workspace_that_is_too_small_is_raised_until_it_builds(bundle: Bundle, target: Target) -> None:
    """By TensorRT for RTX itself, which says what it would have wanted."""
    record = build_stage(bundle, "global", replace(target, workspace_bytes=4 << 20), ignore).record
    assert [each.workspace_bytes for each in record.attempts] == [4 << 20, 8 << 20]
    assert ["OutOfMemory" in each.outcome for each in record.attempts] == [True, False]
    assert record.workspace_bytes == 8 << 20


def test_a_build_that_crashes_is_told_apart(bundle: Bundle, target: Target) -> None:
    with pytest.raises(
        EngineError, match="the build of stage global was ended by SIGSEGV, without saying why"
    ):
        build_stage(bundle, "global", target, lambda fraction: signal_the_builder(signal.SIGSEGV))


def test_a_workspace_far_too_small_is_an_error_that_names_all_tries(bundle: Bundle, target: Target) -> None:
    build_stage(bundle, "global", target, ignore)
    small = replace(target, version="other", workspace_bytes=1 << 10)
    with pytest.raises(EngineError, match=r"memory ran out while building stage global, tried with 0\.0 MB"):
        build_stage(bundle, "global", small, ignore)
    with pytest.raises(EngineError, match=rf"was built for {RTX} {target.version}, and here is {RTX} other"):
        load_plan(plan_path(bundle, "global", BOARD), plan_key(bundle, "global", BOARD, RTX, "other"))


def test_what_has_nothing_to_do_with_memory_is_tried_once(bundle: Bundle, target: Target) -> None:
    """TensorRT for RTX multiplies fp32 matrices on Ampere and later only."""
    notes: list[str] = []
    older = replace(target, device=replace(BOARD, compute_capability=(7, 5)))
    with pytest.raises(EngineError, match=r"cannot build stage global: .*FP32 GEMM is not supported"):
        build_stage(bundle, "global", older, ignore, notes.append)
    assert notes == []


def test_parse_only_tries_once(bundle: Bundle) -> None:
    notes: list[str] = []
    small = replace(target_for(None, "sm_86", None), workspace_bytes=4 << 20)
    with pytest.raises(EngineError, match=r"tried with 4\.2 MB of workspace: .*OutOfMemory"):
        build_stage(bundle, "global", small, ignore, notes.append)
    assert notes == []


def test_an_engine_that_cannot_be_written_is_a_sentence(bundle: Bundle, target: Target) -> None:
    (bundle.path / "engines").write_text("a file where the folder should be")
    with pytest.raises(EngineError, match=r"the engine of stage global cannot be kept: .*engines"):
        build_stage(bundle, "global", target, ignore)


def test_a_bundle_that_cannot_be_written_is_told_before_anything_is_built(
    bundle: Bundle, target: Target
) -> None:
    plan_path(bundle, "global", BOARD).mkdir(parents=True)
    with pytest.raises(EngineError, match=r"of stage global cannot be kept: .*; build in a bundle"):
        build_stage(bundle, "global", target, refuse)


def test_a_timing_cache_that_cannot_be_used_is_told_and_the_engine_is_built(
    bundle: Bundle, target: Target
) -> None:
    cache = plan_path(bundle, "global", BOARD).with_name(f"timing-{target.version}.cache")
    cache.mkdir(parents=True)
    notes: list[str] = []
    build_stage(bundle, "global", target, ignore, notes.append)
    assert notes == [f"built without the timing cache {cache}, which cannot be read (Is a directory)"]
    _write_cache(cache, b"cache", notes.append)  # TensorRT for RTX has none to write
    assert notes[1:] == [
        f"the timing cache {cache} cannot be written (Is a directory); the next build takes longer"
    ]


def test_stopping_from_outside_leaves_no_process_and_no_file(bundle: Bundle, target: Target) -> None:
    def interrupt(fraction: float) -> None:
        raise KeyboardInterrupt

    temporary = temporary_path(plan_path(bundle, "global", BOARD))
    temporary.parent.mkdir(parents=True)
    temporary.write_bytes(b"what a build that was killed had written")
    with pytest.raises(KeyboardInterrupt):
        build_stage(bundle, "global", target, interrupt)
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
    assert stages_of(bundle, "available") == ("window", "global", "decoder")
    assert stages_of(bundle, "all") == ("window", "global", "decoder", "whole")


def test_what_a_copy_does_not_hold_is_not_built(bundle: Bundle) -> None:
    without(bundle, "window")
    assert stages_of(bundle, "edge") == ("global", "decoder")
    assert stages_of(bundle, "available") == ("global", "decoder")
    assert stages_of(bundle, "all") == ("global", "decoder", "whole")
    with pytest.raises(BundleError, match="does not hold window, which a site needs; copy the folders"):
        stages_of(bundle, "site")
    without(bundle, "global")
    with pytest.raises(BundleError, match="does not hold global, which an edge needs; copy"):
        stages_of(bundle, "edge")
    without(bundle, "decoder")
    with pytest.raises(BundleError, match="holds no stage; copy the folders from the full bundle"):
        stages_of(bundle, "available")


# Memory before a build


def test_a_build_that_may_not_fit_is_told_before_it_starts(bundle: Bundle, target: Target) -> None:
    assert memory_warning(bundle, "window", replace(target, workspace_bytes=1)) is None
    warning = memory_warning(bundle, "window", replace(target, workspace_bytes=10**15))
    assert warning is not None
    assert warning.startswith("building may take 1000001.6 GB, TensorRT itself included, and ")
    assert memory_warning(bundle, "window", replace(target, workspace_bytes=10**15, present=False)) is None


def test_the_warning_is_noted_only_where_something_is_built(bundle: Bundle, target: Target) -> None:
    def stop(fraction: float) -> None:
        raise KeyboardInterrupt

    notes: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        build_stage(bundle, "global", replace(target, workspace_bytes=10**15), stop, notes.append)
    assert [note.partition(" may")[0] for note in notes] == ["building"]
    build_stage(bundle, "global", target, ignore)
    build_stage(bundle, "global", replace(target, workspace_bytes=10**15), refuse, notes.append)
    assert len(notes) == 1


def test_the_workspace_is_what_was_given_else_by_what_is_free(bundle: Bundle, target: Target) -> None:
    assert workspace_for(bundle, "window", replace(target, workspace_bytes=7)) == 7
    free, besides = available_bytes(), peak_without_workspace(weights_bytes(bundle, "window"))
    expected = min(MOST_WORKSPACE, max(LEAST_WORKSPACE, (free - besides) // 2))
    found = workspace_for(bundle, "window", target)
    assert found is not None
    assert found == pytest.approx(expected, abs=2e9)  # free memory changes from moment to moment
    assert LEAST_WORKSPACE <= found <= MOST_WORKSPACE
    card = replace(target, device=DISCRETE)
    assert workspace_for(bundle, "window", card, first=True) is None
    assert workspace_for(bundle, "window", replace(card, present=False), first=False) is None


def test_without_a_gpu_there_is_nothing_to_build_for() -> None:
    with pytest.raises(
        EngineError, match=r"no NVIDIA GPU is visible here, .* try the graphs with --parse-only"
    ):
        target_for(None, None, None)


def test_on_a_gpu_the_tensorrt_that_is_installed_builds(target: Target) -> None:
    assert target_for(BOARD, None, 1500) == replace(target, workspace_bytes=1500 << 20)
