"""`pedsam serve` whose JSON process is killed, or stands still: nothing waits for it in vain."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest

from stages import wire
from stages.bundle import Bundle
from tests.support.clients import INFER, Answer
from tests.support.processes import ServeProcess, children, serving, until_gone

pytestmark = pytest.mark.anyio
LOST = "this site has no process left to read JSON with; try again in 1 s"


@dataclass
class Served:
    """A site, and a client that asks it for embeddings in JSON and in binary."""

    site: ServeProcess
    bundle: Bundle
    session: aiohttp.ClientSession

    async def json(self) -> Answer:
        tensors = [
            {
                "name": name,
                "datatype": wire.OIP_NAME[a.dtype.name],
                "shape": list(a.shape),
                "data": a.tolist(),
            }
            for name, a in self.bundle.probe().inputs.items()
        ]
        return await self._post(json={"inputs": tensors, "outputs": [{"name": "embedding_q8"}]})

    def begin_json(self) -> asyncio.Task[Answer]:
        return asyncio.create_task(self.json())

    async def is_serving_binary(self) -> bool:
        sent = wire.encode_request(self.bundle.probe().inputs, ["embedding"])
        return (await self._post(data=sent.body, headers=sent.headers)).status == 200

    async def under_way(self, requests: int) -> None:
        """Until so many requests for inference are in the site."""
        told = f"pedsam_site_requests_under_way {float(requests)}"
        while True:
            async with self.session.get("/metrics") as answer:
                if told in await answer.text():
                    return
            await asyncio.sleep(0.05)

    def process(self) -> int:
        (pid,) = children(self.site.process.pid)
        return pid

    async def _post(self, **request: object) -> Answer:
        async with self.session.post(INFER, **request) as answer:
            return Answer(answer.status, answer.headers, await answer.read())


@asynccontextmanager
async def served(bundle: Bundle, *options: str) -> AsyncIterator[Served]:
    """A site that has a JSON process."""
    timeout = aiohttp.ClientTimeout(total=60)
    with serving(bundle.path, *options) as site:
        async with aiohttp.ClientSession(site.url, timeout=timeout) as session:
            client = Served(site, bundle, session)
            assert (await client.json()).status == 200
            yield client


def assert_unavailable(answers: Sequence[Answer], sentence: str) -> None:
    for answer in answers:
        assert (answer.status, answer.error, answer.headers["Retry-After"]) == (503, sentence, "1")


async def test_a_process_that_was_killed_between_requests_is_replaced(mini_bundle: Bundle) -> None:
    async with served(mini_bundle) as client:
        lost = client.process()
        os.kill(lost, signal.SIGKILL)
        await until_gone(lost)
        assert await client.is_serving_binary()
        answers = [await client.json() for _ in range(2)]
        assert answers[-1].status == 200  # the first one may have found out that it is gone
        assert_unavailable([answer for answer in answers if answer.status != 200], LOST)
        assert client.process() != lost
        client.site.process.terminate()
        assert client.site.wait() == (0, "")


async def test_a_process_that_is_killed_at_work_costs_its_own_request_alone(mini_bundle: Bundle) -> None:
    async with served(mini_bundle) as client:
        lost = client.process()
        os.kill(lost, signal.SIGSTOP)  # so that they are in its midst
        asked = [client.begin_json() for _ in range(3)]
        await client.under_way(3)
        assert await client.is_serving_binary()
        os.kill(lost, signal.SIGKILL)
        answers = await asyncio.gather(*asked)
        assert sorted(answer.status for answer in answers) == [200, 200, 503]
        assert_unavailable([answer for answer in answers if answer.status != 200], LOST)
        client.site.process.terminate()
        assert client.site.wait() == (0, "")


async def test_a_process_that_stands_still_is_killed_and_replaced(mini_bundle: Bundle) -> None:
    async with served(mini_bundle, "--json-timeout", "3") as client:
        lost = client.process()
        os.kill(lost, signal.SIGSTOP)
        asked = client.begin_json()
        await client.under_way(1)
        assert await client.is_serving_binary()
        sentence = "this site has not read or written this JSON within 3 s; try again in 1 s"
        assert_unavailable([await asked], sentence)
        await until_gone(lost)
        assert (await client.json()).status == 200


@pytest.mark.parametrize("state", ["killed", "stopped", "stopped at work", "killed at work"])
async def test_sigterm_ends_a_site_whatever_its_process_does(mini_bundle: Bundle, state: str) -> None:
    async with served(mini_bundle, "--grace", "0.5") as client:
        lost = client.process()
        os.kill(lost, signal.SIGSTOP)
        asked = [client.begin_json() for _ in range(2)] if "at work" in state else []
        await client.under_way(len(asked))
        if "killed" in state:
            os.kill(lost, signal.SIGKILL)
        client.site.process.terminate()
        answers = await asyncio.gather(*asked)
        assert {answer.status for answer in answers} <= ({503} if "stopped" in state else {200, 503})
        code, complaints = await asyncio.to_thread(client.site.wait)
        assert (code, complaints) == (0, "")
        assert client.site.lines[-1].startswith("stopped after ")
        await until_gone(lost)


async def test_a_second_signal_ends_it_at_once_and_leaves_no_process_behind(mini_bundle: Bundle) -> None:
    async with served(mini_bundle, "--grace", "600") as client:
        lost = client.process()
        os.kill(lost, signal.SIGSTOP)
        asked = client.begin_json()
        await client.under_way(1)
        client.site.process.terminate()
        line = await asyncio.to_thread(client.site.read_line)
        assert line == "stopping: requests under way are finished first"
        client.site.process.terminate()
        code, _ = await asyncio.to_thread(client.site.wait)
        assert code == -signal.SIGTERM
        with pytest.raises(aiohttp.ClientConnectionError):
            await asked
        await until_gone(lost)


async def test_a_site_that_is_killed_leaves_no_process_behind(mini_bundle: Bundle) -> None:
    async with served(mini_bundle) as client:
        process = client.process()
        os.kill(process, signal.SIGSTOP)
        client.site.process.kill()
        client.site.wait()
        await until_gone(process)
