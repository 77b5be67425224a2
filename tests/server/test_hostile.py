"""A site as a process of its own, ten hostile clients, and one honest one that must not notice."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from runtime.sites.config import SiteConfig
from stages import wire
from stages.bundle import Bundle
from tests.support.clients import INFER
from tests.support.hostile import Hostile
from tests.support.keys import keys_for, site_at
from tests.support.processes import serving

PER_ADDRESS = 16
LIMITS = ["--header-timeout", "1", "--read-timeout", "1", "--write-timeout", "1"]
LIMITS += ["--max-per-address", str(PER_ADDRESS)]
# What the site may hold under attack, by its own count: one client takes all connections of its address,
# each of the others one, and as many again may not be seen to be gone yet.
MAX_CONNECTIONS = 2 * (PER_ADDRESS + 9) + 1
MAX_REQUESTS = 2 * 9 + 1
MAX_HELD_BYTES = 16 << 20  # twice what nine bodies and answers of a whole batch take
# Of the process, far above what an allocator keeps on a busy machine: only what nobody counts gets there.
MAX_GROWTH_MIB = 256
DEADLINE_S = 120.0
HELD = ("connections", "requests_under_way", "held_bytes")
NOTHING_BUT_THE_HONEST_ONE = {"connections": 1.0, "requests_under_way": 0.0, "held_bytes": 0.0}
KINDS = {"drip_head", "drip_body", "endless_body", "wrong_token", "many_connections", "leave_early"}


def resident_mib(pid: int, field: str) -> float:
    """VmRSS, or VmHWM for the largest so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} tells no {field}")


class Counted:
    """The largest connections, requests and bytes that a site says it holds, of all times it was asked."""

    def __init__(self, site: SiteConfig, session: aiohttp.ClientSession) -> None:
        self._tls = site.ssl_context() or True
        self._session = session
        self.largest: dict[str, float] = {}
        self.now: dict[str, float] = {}

    async def ask(self) -> None:
        async with self._session.get("/metrics", ssl=self._tls) as answer:
            lines = (await answer.text()).splitlines()
        values = dict(line.split() for line in lines if line.startswith("pedsam_site_") and "{" not in line)
        self.now = {name: float(values[f"pedsam_site_{name}"]) for name in HELD}
        self.largest = {name: max(value, self.largest.get(name, 0.0)) for name, value in self.now.items()}


class Honest:
    """Sends the probe over and over and knows the answer."""

    def __init__(self, bundle: Bundle, site: SiteConfig, session: aiohttp.ClientSession) -> None:
        self._probe = bundle.probe()
        self._outputs = bundle.stage("window").outputs[:1]
        self._sent = wire.encode_request(self._probe.inputs, ["embedding"])
        self._tls = site.ssl_context()
        self._session = session

    async def ask(self, times: int) -> None:
        for _ in range(times):
            async with self._session.post(
                INFER, data=self._sent.body, headers=self._sent.headers, ssl=self._tls or True
            ) as answer:
                body = await answer.read()
                assert answer.status == 200, body
            got = wire.decode_response(body, answer.headers[wire.HEADER_LENGTH], self._outputs, 1)
            difference = np.abs(got["embedding"] - self._probe.embedding).max()
            assert difference <= 1e-2 * np.abs(self._probe.embedding).max()


def good_request(bundle: Bundle, token: str, tiles: int) -> bytes:
    """The bytes of a whole request for so many tiles."""
    probe = bundle.probe().inputs
    batch = {name: np.repeat(array, tiles, axis=0) for name, array in probe.items()}
    sent = wire.encode_request(batch, ["embedding"])
    fields = {"Authorization": f"Bearer {token}", "Content-Length": str(len(sent.body)), **sent.headers}
    lines = [f"POST {INFER} HTTP/1.1", "Host: site", *(f"{name}: {text}" for name, text in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + sent.body


@pytest.mark.anyio
async def test_an_honest_client_is_served_beside_ten_hostile_ones(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    keys = keys_for(tmp_path)
    with serving(mini_bundle.path, "--keys", str(keys), *LIMITS) as process:
        site = site_at(process.url, keys)
        assert site.token
        request = good_request(mini_bundle, site.token, mini_bundle.geometry.windows)
        hostile = Hostile(process.url, site.ssl_context(), site.token, request)
        headers = {"Authorization": f"Bearer {site.token}"}
        async with aiohttp.ClientSession(process.url, headers=headers) as session:
            honest, counted = Honest(mini_bundle, site, session), Counted(site, session)
            await honest.ask(25)
            before = resident_mib(process.process.pid, "VmRSS")
            attack = asyncio.create_task(hostile.attack())
            until = time.monotonic() + DEADLINE_S
            while (
                hostile.cut_off.keys() < KINDS
                or min(hostile.cut_off.values()) < 3
                or counted.largest.get("connections", 0) <= PER_ADDRESS  # until the attack was seen
            ):
                assert time.monotonic() < until, (hostile.cut_off, counted.largest)
                assert not attack.done()
                await honest.ask(5)
                await counted.ask()
            attack.cancel()
            await asyncio.wait([attack])
            await honest.ask(5)
            assert counted.largest["connections"] <= MAX_CONNECTIONS
            assert counted.largest["requests_under_way"] <= MAX_REQUESTS
            assert 0 < counted.largest["held_bytes"] <= MAX_HELD_BYTES
            while counted.now != NOTHING_BUT_THE_HONEST_ONE:
                assert time.monotonic() < until, counted.now
                await counted.ask()
        peak = resident_mib(process.process.pid, "VmHWM")
        assert peak - before < MAX_GROWTH_MIB
        process.process.terminate()
        code, errors = process.wait()
        assert code == 0, errors
