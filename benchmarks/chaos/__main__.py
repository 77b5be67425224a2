"""`python -m benchmarks.chaos`: the runs of some seeds, a JSON line each, and their sums."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click

from benchmarks.chaos.draw import Plan, draw
from benchmarks.chaos.faults import DRAWN, KINDS
from benchmarks.chaos.film import Film, make_film
from benchmarks.chaos.judge import INVARIANTS, Masks, judge
from benchmarks.chaos.run import Outcome, carry_out, edge_command, masks_in
from benchmarks.chaos.sites import SiteProcess, site_pool
from benchmarks.machine import commit, describe
from benchmarks.processes import die_with_starter

ROOT = Path(__file__).parents[2]


class Suite:
    """Sites, films and masks that runs share. Made by `opened_suite`."""

    def __init__(self, folder: Path, pool: dict[str, SiteProcess]) -> None:
        self.folder = folder
        self._pool = pool
        self._films: dict[int, Film] = {}
        self._undisturbed: dict[tuple[int, str], Masks] = {}

    async def run(self, plan: Plan) -> tuple[Outcome, dict[str, list[str]]]:
        """Carry out a plan; what broke, by invariant."""
        if plan.film not in self._films:
            self._films[plan.film] = make_film(plan.film, self.folder / f"film-{plan.film}")
        film = self._films[plan.film]
        alike = (plan.film, plan.wire)
        if alike not in self._undisturbed:
            self._undisturbed[alike] = await self._without_sites(plan, film)
        outcome = await carry_out(plan, film, self._pool, self.folder / "run")
        return outcome, judge(outcome, self._undisturbed[alike])

    async def _without_sites(self, plan: Plan, film: Film) -> Masks:
        out = self.folder / f"undisturbed-{plan.film}-{plan.wire}"
        process = await asyncio.create_subprocess_exec(
            *edge_command(film.folder, out), "--wire", plan.wire,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, preexec_fn=die_with_starter,
        )  # fmt: skip
        said, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"the run without sites failed: {said.decode()}")
        return masks_in(out)


@asynccontextmanager
async def opened_suite(folder: Path) -> AsyncIterator[Suite]:
    async with site_pool(folder, "abcde") as pool:
        yield Suite(folder, pool)


@click.command()
@click.option("--seeds", default="0-499", show_default=True, help="As 3 or 0-499 or 1,5,7.")
@click.option("--kinds", default=",".join(DRAWN), help="Kinds of faults to draw from  [default: all]")
@click.option("--out", type=click.Path(path_type=Path), help="A JSON line for each seed.")
@click.option("--resume", is_flag=True, help="Go on with --out: seeds that are in it are not run again.")
@click.option("--summary", type=click.Path(path_type=Path), help="The sums of all lines of --out as JSON.")
@click.option("--keep", type=click.Path(path_type=Path), help="Work in this folder and leave it.")
def main(
    seeds: str, kinds: str, out: Path | None, resume: bool, summary: Path | None, keep: Path | None
) -> None:
    """Run plans of faults against real processes; ends with 1 when an invariant was broken."""
    chosen = _kinds(kinds)
    lines = _lines(out) if out and resume else []
    wanted = sorted(set(_numbers(seeds)) - {line["seed"] for line in lines})
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="pedsam-chaos-") as scratch:
        folder = keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        lines += asyncio.run(_run(wanted, chosen, out, folder))
    result = sums(lines)
    if summary is not None:
        summary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result, indent=1))
    sys.exit(1 if result["runs_with_broken_invariants"] else 0)


async def _run(
    seeds: Sequence[int], kinds: Sequence[str], out: Path | None, folder: Path
) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    measured = commit()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with opened_suite(folder) as suite:
        for seed in seeds:
            if stop.is_set():
                break
            started = time.perf_counter()
            outcome, broken = await suite.run(draw(seed, kinds))
            lines.append(_line(outcome, broken, measured, time.perf_counter() - started))
            _tell(lines[-1], outcome, kinds)
            if out is not None:
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
    return lines


def _line(outcome: Outcome, broken: dict[str, list[str]], measured: str, seconds: float) -> dict[str, Any]:
    return {
        "seed": outcome.plan.seed,
        "commit": measured,
        "broken": broken,
        "done": dict(outcome.traffic.done),
        "tiles": outcome.traffic.tiles_in_all,
        "codes": [edge.code for edge in outcome.edges],
        "frames_doubtful": [(edge.summary or {}).get("frames_doubtful") for edge in outcome.edges],
        "seconds": round(seconds, 1),
        "plan": outcome.plan.as_json(),
    }


def _tell(line: dict[str, Any], outcome: Outcome, kinds: Sequence[str]) -> None:
    """A line a seed, and of one that failed everything needed to look into it."""
    faults = ", ".join(f"{fault.kind} {fault.site}".strip() for fault in outcome.plan.faults)
    verdict = "BROKEN " + " ".join(line["broken"]) if line["broken"] else "good"
    click.echo(f"seed {line['seed']}: {verdict} ({faults}; {line['seconds']} s)", err=True)
    if line["broken"]:
        again = "" if tuple(kinds) == DRAWN else f" --kinds {','.join(kinds)}"
        click.echo(json.dumps(line, indent=1), err=True)
        seed = line["seed"]
        click.echo(
            f"again: python -m benchmarks.chaos --seeds {seed}{again} --keep /tmp/chaos-{seed}", err=True
        )


def sums(lines: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What the lines of a suite come to; `faults` counts runs in which a fault really took place."""
    lines = list(lines)
    seconds = sorted(line["seconds"] for line in lines) or [0.0]
    return {
        "machine": describe(),
        "commits": Counter(line["commit"] for line in lines),
        "runs": len(lines),
        "runs_with_broken_invariants": sum(bool(line["broken"]) for line in lines),
        "broken": {name: sum(name in line["broken"] for line in lines) for name in INVARIANTS},
        "broken_seeds": {line["seed"]: sorted(line["broken"]) for line in lines if line["broken"]},
        "faults": {kind: sum(kind in line["done"] for line in lines) for kind in KINDS},
        "tiles_counted": sum(line["tiles"] for line in lines),
        "seconds": {
            "all": round(sum(seconds)),
            "median": seconds[len(seconds) // 2],
            "p95": seconds[int(len(seconds) * 0.95)],
            "longest": seconds[-1],
        },
    }


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines alone: an interrupted suite may leave a torn one."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _numbers(text: str) -> list[int]:
    """The numbers of a text like 1,3-5."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            numbers += range(int(first), int(last or first) + 1)
        except ValueError:
            raise click.BadParameter(
                f"{part!r} is no number and no range like 0-499", param_hint="--seeds"
            ) from None
    return numbers


def _kinds(text: str) -> list[str]:
    kinds = text.split(",")
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise click.BadParameter(f"{unknown[0]} is none of {', '.join(KINDS)}", param_hint="--kinds")
    return kinds


if __name__ == "__main__":
    main()
