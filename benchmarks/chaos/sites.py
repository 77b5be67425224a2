"""Real `pedsam serve` processes that are kept from run to run, and what can be done to a process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import numpy as np

from benchmarks.processes import children_of, die_with_starter, is_alive, session_of
from stages.bundle import Bundle, shipped_bundle
from stages.tile_inputs import blank_canvas, window_inputs
from stages.wire import OIP_NAME

PEDSAM = (sys.executable, "-m", "pedsam")
START_S = 120.0
END_S = 30.0  # for a process to end, and for its own processes
ANSWER_S = 30.0
# A line of the log, which is JSON in a file and holds no traceback, or what Python prints of a crash.
_TROUBLE = re.compile(rb'^.*("level": "(error|critical)"|Traceback)', re.MULTILINE)
_LOOK_S = 0.02
_JSON_REQUESTS = 20  # under way when the process that reads them is killed
_JSON_TILES = 8  # of one request, which is too large to be read in the site's own process
_JSON_TRIES = 3  # after which it must be read again: the first may be the one that finds the process gone
_JSON_S = 1.0  # within which it is killed


class SiteProcess:
    """One site. `port` is None while it is down; `wrong` collects what went wrong with the site itself."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.port: int | None = None
        self.wrong: list[str] = []
        self._log = folder / f"site-{name}.log"
        self._looked_at = 0  # bytes of the log
        self._process: asyncio.subprocess.Process | None = None
        self._stopped = False  # by SIGSTOP

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def start(self, port: int = 0) -> None:
        """Start it unless it runs, and wait until it listens; on any free port, or on this one."""
        if self._process is not None:
            return
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *PEDSAM, "serve", "--port", str(port), "--threads", "1", "--backend", "onnxruntime-cpu",
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1"}, start_new_session=True,
                preexec_fn=die_with_starter,
            )  # fmt: skip
        if self._process.stdout is None:
            raise RuntimeError("a site was started without a pipe")
        while line := await asyncio.wait_for(self._process.stdout.readline(), START_S):
            if line.startswith(b"listening on "):
                self.port = int(line.rsplit(b":", 1)[1])
                return
        raise RuntimeError(f"site {self.name} did not start; see {self._log}")

    def send(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._stopped = number == signal.SIGSTOP

    async def kill(self) -> None:
        await self._end(signal.SIGKILL, -signal.SIGKILL)

    async def terminate(self) -> None:
        await self._end(signal.SIGTERM, 0)

    async def _end(self, number: signal.Signals, expected: int) -> None:
        """Send the signal; no process of it may be left, and it ends as expected."""
        process, self._process, self.port = self._process, None, None
        if process is None:
            return
        children = children_of(process.pid)
        process.send_signal(number)
        if self._stopped:  # or it would never know
            process.send_signal(signal.SIGCONT)
            self._stopped = False
        try:
            code = await asyncio.wait_for(process.wait(), END_S)
        except asyncio.TimeoutError:
            self.wrong.append(f"site {self.name} did not end within {END_S:g} s of {number.name}")
            process.kill()
            code = expected
            await process.wait()
        if code != expected:
            self.wrong.append(f"site {self.name} ended with {code} after {number.name}")
        if left := await ended_session(process.pid, children):
            self.wrong.append(f"site {self.name} left processes {left}")

    async def kill_json_process(self, value: float) -> None:
        """Kill what reads its large JSON, with requests under way; each gets an answer, and so does the next.

        `value`, 0 to 1, says when: in the first half while the process may still be starting. Does nothing to
        a site that is down or stopped.
        """
        process = self._process
        if process is None or self._stopped:
            return
        if value >= 0.5:
            await self._ask_json()
        asked = [asyncio.create_task(self._ask_json()) for _ in range(_JSON_REQUESTS)]
        await asyncio.sleep(value % 0.5 * 2 * _JSON_S)
        killed = await _children(process.pid)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        if not killed:
            self.wrong.append(f"site {self.name} has no JSON process to kill")
        answers = [*await asyncio.gather(*asked), *[await self._ask_json() for _ in range(_JSON_TRIES)]]
        if None in answers or answers[-1] != 200:
            self.wrong.append(f"site {self.name} answered {answers} after its JSON process was killed")
            await self.terminate()  # also where it hangs

    async def _ask_json(self) -> int | None:
        """The status of tiles sent as JSON numbers, None where no answer comes."""
        inputs = _white_tiles(Bundle.load(shipped_bundle()))
        outputs = [{"name": "embedding", "parameters": {"binary_data": True}}]
        url = f"http://127.0.0.1:{self.port}/v2/models/window/infer"
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError):
            async with (
                aiohttp.ClientSession(timeout=timeout) as http,
                http.post(url, json={"inputs": inputs, "outputs": outputs}) as answer,
            ):
                await answer.read()
                return answer.status
        return None

    async def check(self) -> list[str]:
        """What is wrong with it after a run; one that does not answer any more is killed."""
        self.send(signal.SIGCONT)
        if self._process is not None and not await self._is_alive():
            self.wrong.append(f"site {self.name} does not answer any more")
            await self.kill()
        with self._log.open("rb") as log:
            log.seek(self._looked_at)
            logged = log.read()
            self._looked_at = log.tell()
        if found := _TROUBLE.search(logged):
            said = logged[found.start() :].decode("utf-8", "replace")
            self.wrong.append(f"site {self.name} logged {said[:1500]}")
        wrong, self.wrong = self.wrong, []
        return wrong

    async def _is_alive(self) -> bool:
        url = f"http://127.0.0.1:{self.port}/v2/health/ready"
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError):
            async with aiohttp.ClientSession(timeout=timeout) as http, http.get(url) as answer:
                return answer.status == 200
        return False


@contextlib.asynccontextmanager
async def site_pool(folder: Path, names: str) -> AsyncIterator[dict[str, SiteProcess]]:
    """Sites by name, none of them started yet; all are killed with the block."""
    sites = {name: SiteProcess(folder, name) for name in names}
    try:
        yield sites
    finally:
        for site in sites.values():
            await site.kill()


def _white_tiles(bundle: Bundle) -> list[dict[str, object]]:
    """The inputs of a request for windows of a white picture, as JSON numbers."""
    g = bundle.geometry
    white = np.full_like(blank_canvas(g), 255)
    arrays = window_inputs(bundle, white, g.extents(g.image_size, g.image_size), range(_JSON_TILES))
    return [
        {
            "name": name,
            "datatype": OIP_NAME[str(array.dtype)],
            "shape": array.shape,
            "data": array.ravel().tolist(),
        }
        for name, array in arrays.items()
    ]


async def _children(pid: int) -> list[int]:
    """The children of a process, as soon as it has any; none after ANSWER_S."""
    for _ in range(int(ANSWER_S / _LOOK_S)):
        if found := children_of(pid):
            return found
        await asyncio.sleep(_LOOK_S)
    return []


async def ended_session(leader: int, others: Sequence[int] = ()) -> list[int]:
    """Wait until no process of a session is left, and none of these others; those that are after END_S are
    killed and returned."""
    deadline = asyncio.get_running_loop().time() + END_S
    while left := [*session_of(leader), *filter(is_alive, others)]:
        if asyncio.get_running_loop().time() > deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return left
        await asyncio.sleep(0.1)
    return []
