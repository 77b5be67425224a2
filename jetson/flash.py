"""`pedsam flash`: every step in order, each looked at first and done where something is to be done.

Nothing of the version that runs is touched before the last step, and that goes back to it when the new one
does not get healthy. So a flash that fails or is cut off leaves running what ran, and the same command goes
on from there.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from jetson import last_options
from jetson.board.checks import CLOCK_S, check
from jetson.board.facts import BoardFacts, look
from jetson.board.findings import Wanted, refused, sentence, size
from jetson.board.releases import name_of
from jetson.budget import BoardMemory, require_fit
from jetson.connection import Board, BoardError, ConnectionLost
from jetson.steps.bundle import BundleStep, SecretsStep
from jetson.steps.desktop import DesktopStep
from jetson.steps.engines import EnginesStep
from jetson.steps.image import ImageStep
from jetson.steps.power import PowerStep
from jetson.steps.service import ServiceStep, service_status
from jetson.steps.smoke import SmokeStep
from jetson.steps.step import FlashOptions, Job, Step
from jetson.tell import tell
from jetson.versions import Edge, read_edge
from stages.bundle import Bundle
from stages.errors import InputError, PedsamError, printable

STEPS: Sequence[type[Step]] = (
    ImageStep,
    BundleStep,
    SecretsStep,
    DesktopStep,
    PowerStep,  # before engines, which are tuned by timing in the mode they will run in
    EnginesStep,
    SmokeStep,
    ServiceStep,
)
_NAME_WIDTH = 11
_SAID = 20  # lines
Confirm = Callable[[str], bool]


@dataclass(frozen=True)
class Prepared:
    """What this machine knows before a board is asked."""

    bundle: Bundle
    edge: Edge


def prepare(options: FlashOptions) -> Prepared:
    """Read bundle, edge.toml and sites.toml. Raises a PedsamError for what is wrong."""
    if options.no_root and (options.power or options.headless):
        raise InputError("--power and --headless need root on the board; leave them or --no-root away")
    bundle = Bundle.load(options.bundle)
    if bundle.weights != "distilled" and not options.allow_undistilled:
        raise InputError(
            f"{bundle.path} has {bundle.weights} weights, whose masks are not meaningful; use a distilled "
            "bundle, or --allow-undistilled to try the rest (every overlay is then marked)"
        )
    edge = read_edge(options.config, options.sites)
    _check_run(options)
    return Prepared(bundle, edge)


def _check_run(options: FlashOptions) -> None:
    """Have `pedsam run` read what it will run with: it knows every key of edge.toml and sites.toml."""
    line = [
        *(sys.executable, "-m", "pedsam", "run", "--config", str(options.config), "--dry-run", "--elsewhere"),
        *("--bundle", str(options.bundle), "--sites", str(options.sites)),
        *(["--allow-undistilled"] if options.allow_undistilled else []),
    ]
    done = subprocess.run(
        line, capture_output=True, encoding="utf-8", errors="replace", check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        said = (done.stderr.strip() or "pedsam run does not start here").splitlines()[-1]
        raise InputError(said.removeprefix("Error: "))


def flash(options: FlashOptions, console: Console, *, dry_run: bool, confirm: Confirm) -> None:
    """Flash a board; with `dry_run` say what that would do. `confirm` asks a person a question.

    Raises a PedsamError, in one sentence that names the step; what failed on the board has its last lines
    shown before.
    """
    prepared = prepare(options)
    try:
        with _step_named("connect"), Board(options.address, options.ssh_config) as board:
            show(console, "connect", f"{board.address}, with your OpenSSH settings")
            job = _looked_at(board, options, prepared, console, None if dry_run else confirm)
            _run_steps(job, console, dry_run)
    except StepFailed as exc:
        said = exc.__cause__.tail if isinstance(exc.__cause__, BoardError) else ""
        for line in said.splitlines()[-_SAID:]:
            console.print(printable(line))
        raise


def _looked_at(
    board: Board, options: FlashOptions, prepared: Prepared, console: Console, confirm: Confirm | None
) -> Job:
    """The job for a board that is fit for it. Raises StepFailed for one that is not."""
    with _step_named("look"):
        wanted = wanted_of(options, prepared)
        facts = examine(board, console, wanted, confirm)
        require_fit(prepared.bundle, _memory(board, facts, options))
    job = Job(options, board, facts, wanted, prepared.edge, prepared.bundle)
    with _step_named("power"):
        PowerStep().look(job)  # a mode that the board lacks is told before minutes of other steps
    return job


def _run_steps(job: Job, console: Console, dry_run: bool) -> None:
    if not dry_run:
        last_options.save(job.options)
    with contextlib.nullcontext() if dry_run else job.board.locked():
        for step in [kind() for kind in STEPS]:
            with _step_named(step.name):
                _take(step, job, console, dry_run)
    if dry_run:
        console.print("nothing was changed: --dry-run")
    else:
        tell(job, console)


def _take(step: Step, job: Job, console: Console, dry_run: bool) -> None:
    """Look, and do what is to be done."""
    plan = step.look(job)
    show(console, step.name, plan.found)
    if not plan.todo:
        return
    if dry_run:
        show(console, "", f"would {plan.todo}")
        return
    started = time.monotonic()
    with _showing(console, plan.todo) as say:
        done = step.do(job, say)
    show(console, "", f"{done} ({time.monotonic() - started:.0f} s)")


def examine(board: Board, console: Console, wanted: Wanted, confirm: Confirm | None) -> BoardFacts:
    """Look at the board and print what there is to say. With `confirm`, a wrong clock can be set.

    Raises BoardError for the first thing that makes it unfit.
    """
    facts = look(board)
    if confirm is not None and _set_clock(board, facts, console, confirm):
        facts = look(board)
    show(console, "look", describe(facts))
    findings = check(facts, wanted)
    for finding in findings:
        if finding.level == "warning":
            show(console, "", f"warning: {sentence(finding)}")
    if hindrance := refused(findings):
        raise BoardError(sentence(hindrance))
    return facts


def describe(facts: BoardFacts) -> str:
    """The board in one line."""
    memory, parts = facts.memory, [facts.hardware.name]
    if facts.l4t:
        parts.append(name_of(facts.l4t))
    if memory.total_bytes and memory.available_bytes:
        parts.append(f"{size(memory.available_bytes)} of {size(memory.total_bytes)} of memory free")
    if facts.docker_disk:
        parts.append(f"{size(facts.docker_disk.free_bytes)} of disk free")
    cameras = [f"{camera.device} ({camera.name})" for camera in facts.cameras]
    return ", ".join([*parts, f"cameras: {' '.join(cameras) or 'none'}"])


def wanted_of(options: FlashOptions, prepared: Prepared) -> Wanted:
    """What a flash needs of a board."""
    edge = prepared.edge
    return Wanted(
        address=options.address,
        sources=() if edge.source_file else (edge.source,),
        no_root=options.no_root,
        headless=options.headless,
    )


def _memory(board: Board, facts: BoardFacts, options: FlashOptions) -> BoardMemory:
    """What the board has for an edge. While one runs there, what is free says nothing."""
    total, free = facts.memory.total_bytes, facts.memory.available_bytes
    if total is None:
        raise BoardError("the board does not say how much memory it has (/proc/meminfo)")
    running = service_status(board).get("container") == "running"
    memory = BoardMemory(total, facts.desktop is not False, None if running else free)
    return memory.headless() if options.headless else memory


def _set_clock(board: Board, facts: BoardFacts, console: Console, confirm: Confirm) -> bool:
    """Offer to set a clock that is wrong; whether it was set."""
    offset_s = facts.clock_offset_s
    if offset_s is None or abs(offset_s) <= CLOCK_S or facts.sudo not in ("root", "passwordless"):
        return False
    if not confirm(f"the clock of {board.address} is off by {offset_s:.0f} s; set it to this machine's?"):
        return False
    ran = board.run('sudo -n date -u -s "@$1" && (sudo -n hwclock --systohc || true)', f"{time.time():.0f}")
    if ran.status:
        raise BoardError(f"the clock cannot be set: {ran.last_line}")
    show(console, "", "the clock was set")
    return True


@contextlib.contextmanager
def _step_named(name: str) -> Iterator[None]:
    """Errors of the block say in which step they came; those of an inner block keep its name."""
    try:
        yield
    except StepFailed:
        raise
    except KeyboardInterrupt as exc:
        raise StepFailed(
            f"{name}: stopped; a change of services that has begun goes on, else what ran runs on; the same "
            "command goes on from there"
        ) from exc
    except ConnectionLost as exc:
        raise StepFailed(f"{name}: {exc}; give the same command again, it goes on from there") from exc
    except PedsamError as exc:
        raise StepFailed(f"{name}: {exc}") from exc


class StepFailed(PedsamError):
    """A step of a flash failed; what ran on the board before runs on."""


@contextlib.contextmanager
def _showing(console: Console, what: str) -> Iterator[Callable[[str], None]]:
    """The newest line of a step while it works."""
    with console.status(Text(f"{what} ...")) as status:

        def say(line: str) -> None:
            if line:
                status.update(Text(f"{what}: {line}", overflow="ellipsis", no_wrap=True))

        yield say


def show(console: Console, name: str, text: str) -> None:
    console.print(f"{name:{_NAME_WIDTH}} {text}")
