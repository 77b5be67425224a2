"""A plan, carried out: real processes, and what is left of them to be judged."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos.distortions import pick
from benchmarks.chaos.draw import Plan, SitePlan
from benchmarks.chaos.faults import AT_START, Fault
from benchmarks.chaos.film import FRAMES, PROMPTS, Film
from benchmarks.chaos.proxy import SiteProxy, Traffic
from benchmarks.chaos.sites import PEDSAM, SiteProcess, ended_session
from benchmarks.processes import die_with_starter
from stages.bundle import shipped_bundle

RUN_S = 150.0  # an edge that has not ended then is stuck
PAUSE_S = (1.0, 8.0)  # of a site that is stopped: shorter and longer than a tile may take
LATE_S = (1.0, 20.0)
FULL_BLOCKS = 16  # of 512 bytes that a file may have where the disk is "full"
# A film is too short to be checked at the usual rate.
SPOT_CHECKS = ("--spot-checks", "1000", "--spot-check-share", "1")
DAMAGED = (b'{"format": 1, "session": "2026', b"\0" * 64, b'{"format": 7}', b"not a ledger", b"[]")
_EDGE_ONLY = ("global", "decoder", "edge")  # of a bundle without the window stage


@dataclass
class EdgeEnd:
    """How one edge process ended. `code` None: it had to be killed. `stopped_by` is the signal a fault sent.

    `session` is that of its ledger afterwards, None where the file is gone or no ledger.
    """

    code: int | None
    output: str
    summary: Mapping[str, Any] | None
    masks: Sequence[Mapping[str, Any]]
    session: str | None
    stopped_by: signal.Signals | None
    orphans: Sequence[int] = ()


@dataclass
class Outcome:
    """What a plan came to, for `judge`."""

    plan: Plan
    traffic: Traffic
    edges: list[EdgeEnd] = field(default_factory=list)
    site_faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


async def carry_out(plan: Plan, film: Film, pool: Mapping[str, SiteProcess], folder: Path) -> Outcome:
    """Run a plan in `folder`, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "ledger").mkdir(parents=True)
    await asyncio.gather(*(pool[site.name].start() for site in plan.sites))
    started = time.perf_counter()
    outcome = Outcome(plan, Traffic(film))
    running = _Running(outcome, pool, folder)
    async with contextlib.AsyncExitStack() as stack:
        proxies = []
        for site in plan.sites:
            proxies.append(_proxy(site, outcome, pool[site.name]))
            await stack.enter_async_context(proxies[-1].running())
        _write_sites(folder / "sites.toml", plan.sites, [proxy.port for proxy in proxies])
        await running.run()
    for name, process in pool.items():
        if name in plan.operators():
            outcome.site_faults += await process.check()
    outcome.seconds = round(time.perf_counter() - started, 2)
    return outcome


def _proxy(site: SitePlan, outcome: Outcome, process: SiteProcess) -> SiteProxy:
    plan = outcome.plan
    return SiteProxy(site.name, site.operator, outcome.traffic, lambda: process.port, plan.faults, plan.seed)


class _Running:
    """The edge of a run, started again after it was killed; faults that are done to processes and files."""

    def __init__(self, outcome: Outcome, pool: Mapping[str, SiteProcess], folder: Path) -> None:
        self._outcome = outcome
        self._plan = outcome.plan
        self._traffic = outcome.traffic
        self._pool = pool
        self._folder = folder
        self._ledger = folder / "ledger/ledger.json"
        self._edge: asyncio.subprocess.Process | None = None
        self._stopped_by: signal.Signals | None = None
        self._begun: set[asyncio.Task[None]] = set()  # faults whose time has come
        self._over = asyncio.Event()  # set once no edge runs any more
        # One fault at a time is done to a site.
        self._turns = {site.name: asyncio.Lock() for site in self._plan.sites}

    async def run(self) -> None:
        faults = [fault for fault in self._plan.faults if not fault.distorts]
        before = [fault for fault in faults if fault.after == AT_START]
        later = [asyncio.create_task(task) for fault in before if (task := await self._begin(fault))]
        later += [asyncio.create_task(self._do(fault)) for fault in faults if fault.after != AT_START]
        await self._run_edge()
        if self._stopped_by == signal.SIGKILL:
            await self._run_edge()
        self._over.set()
        for task in set(later) - self._begun:
            task.cancel()
        failed = [each for each in await asyncio.gather(*later, return_exceptions=True) if each is not None]
        for error in failed:
            if not isinstance(error, asyncio.CancelledError):
                raise error
        for site in self._plan.sites:
            self._pool[site.name].send(signal.SIGCONT)

    async def _begin(self, fault: Fault) -> Any:
        """Do a fault before the edge starts; what is left to do later."""
        self._traffic.done[fault.kind] += 1
        if fault.kind == "ledger_damaged":
            self._ledger.write_bytes(pick(DAMAGED, fault.value))
        elif fault.kind == "absent":
            await self._pool[fault.site].kill()
        elif fault.kind == "late":
            self._pool[fault.site].send(signal.SIGSTOP)
            return self._continue(fault, LATE_S)
        return None

    async def _do(self, fault: Fault) -> None:
        """Wait until it is time for a fault, and do it."""
        await self._traffic.reached(fault.site, fault.after)
        if task := asyncio.current_task():
            self._begun.add(task)
        self._traffic.done[fault.kind] += 1
        if fault.site:
            async with self._turns[fault.site]:
                await self._do_to_site(fault, self._pool[fault.site])
        elif fault.kind == "ledger_deleted":
            self._ledger.unlink(missing_ok=True)
        elif fault.kind == "ledger_replaced":
            other = self._folder / "other.json"
            other.write_text(
                '{"format": 1, "session": "2001-01-01T00:00:00+00:00", "exposure": {}}\n', encoding="utf-8"
            )
            other.replace(self._ledger)
        elif fault.kind == "ledger_unwritable":
            self._ledger.parent.rename(self._folder / "gone")
            self._ledger.parent.touch()  # a folder would be made again
        elif fault.kind == "edge_killed":
            self._stop_edge(signal.SIGKILL)
        elif fault.kind == "sigterm":
            self._stop_edge(signal.SIGTERM)

    async def _do_to_site(self, fault: Fault, site: SiteProcess) -> None:
        if fault.kind == "stop":
            site.send(signal.SIGSTOP)
        elif fault.kind == "pause":
            site.send(signal.SIGSTOP)
            await self._continue(fault, PAUSE_S)
        elif fault.kind == "json_process":
            await site.kill_json_process(fault.value)
        elif fault.kind == "terminate":
            await site.terminate()
        else:
            await site.kill()
        if fault.kind in ("restart", "terminate"):
            await site.start()

    async def _continue(self, fault: Fault, between_s: tuple[float, float]) -> None:
        """After a while, or once the run is over."""
        shortest, longest = between_s
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._over.wait(), shortest + fault.value * (longest - shortest))
        self._pool[fault.site].send(signal.SIGCONT)

    def _stop_edge(self, number: signal.Signals) -> None:
        if self._edge is not None and self._edge.returncode is None and self._stopped_by is None:
            self._stopped_by = number
            self._edge.send_signal(number)

    async def _run_edge(self) -> None:
        number = len(self._outcome.edges)
        self._traffic.edge = number
        out = self._folder / f"out-{number}"
        log = self._folder / f"edge-{number}.log"
        sent_before = self._stopped_by
        with log.open("wb") as output:
            self._edge = await asyncio.create_subprocess_exec(
                *self._command(out), stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, preexec_fn=die_with_starter,
            )  # fmt: skip
        code = await _ended(self._edge)
        stopped_by = self._stopped_by if self._stopped_by != sent_before else None
        self._outcome.edges.append(
            EdgeEnd(
                code, log.read_text(encoding="utf-8", errors="surrogateescape"), _summary(out), masks_in(out),
                _session(self._ledger), stopped_by, await ended_session(self._edge.pid),
            )
        )  # fmt: skip

    def _command(self, out: Path) -> list[str]:
        film = _again_and_again(self._traffic.film.folder, self._folder / "film", self._plan.times)
        command = edge_command(film, out)
        command += ["--sites", str(self._folder / "sites.toml"), "--ledger", str(self._ledger)]
        command += ["--wire", self._plan.wire, *(SPOT_CHECKS if not self._plan.honest else ())]
        if not self._plan.edge_windows:
            command += ["--bundle", str(_without_windows(self._folder / "bundle"))]
        if "disk_full" in self._plan.kinds:
            return ["sh", "-c", f'ulimit -f {FULL_BLOCKS}; exec "$@"', "sh", *command]
        return command


async def _ended(edge: asyncio.subprocess.Process) -> int | None:
    """Its exit code, None for one that had to be killed."""
    try:
        return await asyncio.wait_for(edge.wait(), RUN_S)
    except asyncio.TimeoutError:
        return None
    finally:
        if edge.returncode is None:
            edge.kill()
            await edge.wait()


def edge_command(frames: Path, out: Path) -> list[str]:
    """`pedsam run` on a folder of frames, with nothing said of sites."""
    command = [*PEDSAM, "run", "--source", str(frames), "--out", str(out), *PROMPTS]
    return [*command, "--threads", "1", "--backend", "onnxruntime-cpu"]


def _again_and_again(film: Path, folder: Path, times: int) -> Path:
    """A film that is shown so many times."""
    folder.mkdir(exist_ok=True)
    for number in range(FRAMES * times):
        link = folder / f"{number:03}.png"
        if not link.exists():
            link.symlink_to(film.resolve() / f"{number % FRAMES:03}.png")
    return folder


def _write_sites(path: Path, sites: Sequence[SitePlan], ports: Sequence[int]) -> None:
    tables = []
    for site, port in zip(sites, ports, strict=True):
        cap = "" if site.cap is None else f"cap = {site.cap}\n"
        tables.append(
            f'[[site]]\nname = "{site.name}"\noperator = "{site.operator}"\nurl = "http://127.0.0.1:{port}"\n'
            f"spare = {str(site.spare).lower()}\n{cap}"
        )
    path.write_text("\n".join(tables), encoding="utf-8")


def _without_windows(folder: Path) -> Path:
    """The shipped bundle without its window stage."""
    folder.mkdir(exist_ok=True)
    shipped = shipped_bundle()
    shutil.copy(shipped / "bundle.json", folder)
    for name in _EDGE_ONLY:
        with contextlib.suppress(FileExistsError):
            os.symlink(shipped / name, folder / name)
    return folder


def _summary(out: Path) -> Mapping[str, Any] | None:
    try:
        summary: Mapping[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return summary


def masks_in(out: Path) -> list[Mapping[str, Any]]:
    """Whole lines alone: a killed edge may leave a torn one."""
    try:
        text = (out / "masks.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _session(ledger: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        session: str = json.loads(ledger.read_text(encoding="utf-8"))["session"]
        return session
    return None
