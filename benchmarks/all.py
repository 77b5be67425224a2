"""The measurements that a CPU can make of the page of results, one after the other, and the page.

    python -m benchmarks.all [--full]      # make bench, make bench-full

What is measured has to be committed: a working tree with changes, or new files, is refused; only what
measurements write themselves (benchmarks/results, docs/results.md) may differ. Each step is a process of its
own. One that fails is told and the others go on; the exit code is then 1. A step that was done is noted in
out/bench and left out when the same commit is measured again, so that an interrupted run goes on where it
was; after a run without failures the notes are gone.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.cpu_time import cpu_times
from benchmarks.machine import IDLE_CORES, OTHERS, ROOT, commit, uncommitted
from benchmarks.report import PAGE, RESULTS, ReportError, rendered

NOTES = ROOT / "out/bench"
BUNDLES = NOTES / "bundles"  # with weights as they were trained, or random
LOOK_S = 1.0  # for which it is looked whether something else is busy
STOPS_S = 20.0  # in which a step that is interrupted has to end


@dataclass(frozen=True)
class Step:
    """A module, its arguments and the file of results it writes, in `limit_s` at most.

    One without a file makes what later steps need.
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    file: str = ""
    limit_s: float = 600.0

    def command(self, results: Path) -> list[str]:
        written = ["--out", str(results / self.file)] if self.file else []
        return [sys.executable, "-m", self.module, *self.arguments, *written]


def export(model: str, *weights: str) -> Step:
    arguments = ("export", "--model", model, *weights, "--out", f"{BUNDLES}/{model}")
    return Step(f"bundle of {model}", "pedsam", arguments, limit_s=1800.0)


def three_sites(model: str) -> Step:
    arguments = ("--bundle", f"{BUNDLES}/{model}")
    return Step(
        f"three_sites {model}", "benchmarks.three_sites", arguments, f"three_sites_{model}.json", 900.0
    )


def streaming(model: str, runs: int, frames: int = 0) -> Step:
    arguments = ("--model", model, "--runs", str(runs), "--frames", str(frames))
    return Step(f"streaming {model}", "benchmarks.streaming", arguments, f"streaming_{model}.json", 3600.0)


def peers(model: str, limit_s: float = 600.0) -> Step:
    arguments = ("--model", model, "--bundle", f"{BUNDLES}/{model}")
    return Step(f"peers {model}", "benchmarks.peers", arguments, f"peers_{model}.json", limit_s)


# To add one: a line here, and one in SECTIONS of benchmarks/report.py. mini is exported, since its shipped
# bundle has no unsplit model for three_sites to compare masks with.
STEPS = (
    export("mini", "--checkpoint", "assets/mini.safetensors"),
    three_sites("mini"),
    Step(
        "throughput",
        "benchmarks.throughput",
        ("--rows", "fixed", "--rows", "straggler", "--rows", "loopback", "--rows", "live"),
        "throughput_mini.json",
    ),
    Step("site_requests", "benchmarks.site_requests", ("--seconds", "1"), "site_requests.json"),
    streaming("mini", runs=60),
    Step("overlays", "benchmarks.overlays", (), "overlays.json"),
    Step("stills", "benchmarks.stills", (), "stills_mini.json"),
    Step("growth", "benchmarks.growth", ("--picture", f"{RESULTS}/growth.png"), "growth.json"),
    peers("mini"),
    Step("triton mini", "benchmarks.triton", ("--model", "mini"), "triton_mini.json"),
)
FULL = (
    export("vit_b", "--random-weights"),
    peers("vit_b", 1200.0),
    Step(
        "triton vit_b",
        "benchmarks.triton",
        ("--model", "vit_b", "--vit-b", f"{BUNDLES}/vit_b"),
        "triton_vit_b.json",
        1200.0,
    ),
    three_sites("vit_b"),
    streaming("vit_b", runs=5, frames=3),
    export("vit_h", "--random-weights"),
    peers("vit_h", 3600.0),
    three_sites("vit_h"),
    streaming("vit_h", runs=3),
)


def refuse_uncommitted(root: Path = ROOT) -> None:
    """Raise ClickException where something is not committed that a measurement does not write itself."""
    if lines := uncommitted(root):
        others = f" and {len(lines) - 1} more" if lines[1:] else ""
        raise click.ClickException(
            f"not committed: {lines[0][3:]}{others}; commit or stash what differs, so that the results name "
            "what was measured (a single one runs as it is: python -m benchmarks.growth)"
        )


def carry_out(steps: Sequence[Step], results: Path = RESULTS, notes: Path = NOTES) -> list[str]:
    """Run every step that was not done yet at this commit; returns those that failed."""
    failed = []
    measured = commit()
    for step in steps:
        note = notes / f"{step.name.replace(' ', '_')}.done"
        if note.exists() and note.read_text(encoding="utf-8") == measured:
            click.echo(f"{step.name}: done before, at this commit")
        elif _run(step, results):
            notes.mkdir(parents=True, exist_ok=True)
            note.write_text(measured, encoding="utf-8")
        else:
            failed.append(step.name)
    if not failed:
        for note in notes.glob("*.done"):
            note.unlink()
    return failed


def _run(step: Step, results: Path) -> bool:
    """Whether a step ended well. Its file then says how long it took and what else was running."""
    click.echo(f"{step.name} ...")
    before, ours_s = cpu_times([os.getpid()]), _children_s()
    code = _wait(subprocess.Popen(step.command(results), cwd=ROOT), step.limit_s)
    after = cpu_times([os.getpid()])
    seconds = after.at_s - before.at_s
    others = max(0.0, after.cores_of_others_since(before) - (_children_s() - ours_s) / seconds)
    click.echo(f"{step.name}: {seconds:.0f} s{f', failed with code {code}' if code else ''}{_busy(others)}")
    if code == 0 and step.file:
        _note(results / step.file, seconds, others)
    return code == 0


def _wait(process: subprocess.Popen[bytes], limit_s: float) -> int:
    """A process's exit code. One over its limit is interrupted as by Ctrl-C, and so ends what it started."""
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        click.echo(f"it takes longer than {limit_s:.0f} s and is stopped")
        process.send_signal(signal.SIGINT)
    try:
        return process.wait(STOPS_S) or 1
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _note(path: Path, seconds: float, others: float) -> None:
    result = json.loads(path.read_text(encoding="utf-8"))
    result["bench"] = {"seconds": round(seconds, 1), OTHERS: round(others, 2)}
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _children_s() -> float:
    """Processor seconds of all processes that this one, or one of them, started and has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _busy(cores: float) -> str:
    return f"; something else kept {cores:.1f} cores busy meanwhile" if cores >= IDLE_CORES else ""


def tell_if_busy() -> None:
    """Look whether something else runs, before anything is measured."""
    before = cpu_times([os.getpid()])
    time.sleep(LOOK_S)
    others = cpu_times([os.getpid()]).cores_of_others_since(before)
    if others >= IDLE_CORES:
        click.echo(
            f"this machine is busy: something else uses {others:.1f} of {len(os.sched_getaffinity(0))} "
            "cores; times will be longer than on a quiet one, and the results say so"
        )


def bench(steps: Sequence[Step], results: Path = RESULTS, notes: Path = NOTES, page: Path = PAGE) -> None:
    """Carry out the steps and render the page; raise ClickException for what failed."""
    started = time.perf_counter()
    failed = carry_out(steps, results, notes)
    try:
        page.write_text(rendered(page.read_text(encoding="utf-8"), results), encoding="utf-8")
    except ReportError as exc:
        raise click.ClickException(str(exc)) from exc
    click.echo(f"{(time.perf_counter() - started) / 60:.1f} minutes; {page.name} is rendered")
    if failed:
        raise click.ClickException(
            f"{', '.join(failed)} failed; the same command tries what is missing again"
        )


@click.command()
@click.option("--full", is_flag=True, help="vit_b and vit_h too, with random weights: hours, and 24 GB.")
def main(full: bool) -> None:
    """Measure everything that a CPU can, and render docs/results.md."""
    refuse_uncommitted()
    tell_if_busy()
    bench((*STEPS, *FULL) if full else STEPS)


if __name__ == "__main__":
    main()
