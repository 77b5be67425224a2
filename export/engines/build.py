"""Build a bundle's engines: what is missing or no longer fits, one stage at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from export.engines.builder import RTX, BuildJob
from export.engines.child import Task, build_in_child
from export.engines.ladder import RUNGS, climb
from export.engines.memory import peak_without_workspace, weights_bytes, workspace_from_free
from stages.bundle import Bundle
from stages.engines.devices import Device, free_bytes
from stages.engines.plans import Attempt, PlanRecord, plan_key, plan_path, read_record, why_not_reusable
from stages.engines.tensorrt_engine import tensorrt_library
from stages.errors import BundleError, EngineError
from stages.files import check_folder, check_replaceable
from stages.hidden import HEAD
from stages.places import PLACES, stages_for

# What --for takes besides the places: whatever of these stages the bundle holds.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "available": (HEAD, "window", "global", "decoder"),
    "all": (HEAD, "window", "global", "decoder", "whole"),
}


@dataclass(frozen=True)
class Target:
    """What to build for. `present` is false for a device that is not on this machine: only TensorRT for RTX
    builds for one, and its plan is discarded, since nothing here can run it."""

    device: Device
    library: str
    version: str
    present: bool = True
    workspace_bytes: int | None = None


@dataclass(frozen=True)
class Row:
    """One stage after `build_stage`: its record, and why it was built, or None when it was reused."""

    stage: str
    record: PlanRecord
    reason: str | None


def target_for(device: Device | None, parse_only: str | None, workspace_mb: int | None) -> Target:
    """What `pedsam build` builds for: `device`, the GPU of this machine, or a compute capability to try.

    Raises EngineError when there is no GPU to build for or no TensorRT to build with.
    """
    workspace = workspace_mb * 2**20 if workspace_mb is not None else None
    if parse_only is not None:
        trt = tensorrt_library(RTX)
        capability = (int(parse_only[3:-1]), int(parse_only[-1]))
        declared = Device("parse only", capability, 0, integrated=False)
        return Target(declared, RTX, trt.__version__, present=False, workspace_bytes=workspace)
    if device is None:
        raise EngineError(
            "no NVIDIA GPU is visible here, and engines are built on the device they run on; build there, or "
            "try the graphs with --parse-only"
        )
    trt = tensorrt_library()
    return Target(device, trt.__name__, trt.__version__, workspace_bytes=workspace)


def stages_of(bundle: Bundle, choice: str) -> tuple[str, ...]:
    """Stages to build for a place or a key of CHOICES.

    Raises BundleError when this copy lacks one that the place needs, or holds none of the choice.
    """
    if choice in PLACES:
        return stages_for(bundle, choice)
    held = tuple(name for name in CHOICES[choice] if bundle.has(name))
    if not held:
        raise BundleError(f"{bundle.path} holds no stage; copy the folders from the full bundle")
    return held


def workspace_for(bundle: Bundle, name: str, target: Target, first: bool = True) -> int | None:
    """Workspace in bytes for a build that starts now: what was given, else by the memory that is free.

    A GPU with memory of its own has no limit (None) at the `first` try, later what is free; one that is not
    here has none.
    """
    if target.workspace_bytes is not None or not target.present:
        return target.workspace_bytes
    if target.device.integrated:
        return workspace_from_free(free_bytes(target.device), weights_bytes(bundle, name))
    return None if first else free_bytes(target.device)


def memory_warning(bundle: Bundle, name: str, target: Target) -> str | None:
    """A clause where building a stage is expected to take more memory than is free now."""
    if not target.present:
        return None
    workspace, free = workspace_for(bundle, name, target) or 0, free_bytes(target.device)
    expected = peak_without_workspace(weights_bytes(bundle, name)) + workspace
    if expected <= free:
        return None
    return (
        f"building may take {expected / 1e9:.1f} GB, TensorRT itself included, and {free / 1e9:.1f} GB are "
        "free; swap and the desktop off help"
    )


def build_stage(
    bundle: Bundle,
    name: str,
    target: Target,
    progress: Callable[[float], None],
    note: Callable[[str], None] = lambda sentence: None,
) -> Row:
    """Build one stage, or reuse the plan that is there and still fits.

    `progress` gets the fraction done, of each try from the start; `note` gets a clause when memory may not
    suffice, and when it ran out and there is another try. Raises EngineError or BundleError; a plan that did
    not fit then stays, still refused, and those of other stages are untouched.
    """
    plan = plan_path(bundle, name, target.device)
    key = plan_key(bundle, name, target.device, target.library, target.version)
    reason = why_not_reusable(plan, key) if target.present else "parse only"
    if reason is None:
        return Row(name, read_record(plan), None)
    if target.present:
        _check_keepable(name, plan)
    job = BuildJob(name, bundle.verified_file(name), key.shapes, target.device.sm)
    if warning := memory_warning(bundle, name, target):
        note(warning)
    task = Task(job, key, target.device, target.present, plan if target.present else None)
    return Row(name, _climb(bundle, task, target, progress, note), reason)


def _check_keepable(name: str, plan: Path) -> None:
    """Raise EngineError, before minutes of building, where a plan could not be kept."""
    try:
        check_folder(plan.parent)
        if plan.parent.exists():
            check_replaceable(plan)
    except OSError as exc:
        raise EngineError(
            f"the engine of stage {name} cannot be kept: {exc}; build in a bundle whose folder can be written"
        ) from exc


def _climb(
    bundle: Bundle,
    task: Task,
    target: Target,
    progress: Callable[[float], None],
    note: Callable[[str], None],
) -> PlanRecord:
    """Try until memory suffices; once only for a device that is not here, whose memory nobody knows."""
    stage = task.job.stage
    tried: list[int | None] = []

    def workspace() -> int | None:
        return workspace_for(bundle, stage, target, first=not tried)

    def attempt(size: int | None, level: int | None, failed: tuple[Attempt, ...]) -> PlanRecord:
        tried.append(size)
        job = replace(task.job, workspace_bytes=size, optimization_level=level)
        return build_in_child(replace(task, job=job, failed=failed), progress, note)

    return climb(stage, RUNGS if target.present else RUNGS[:1], workspace, attempt, note)
