"""Loading, the check of every engine before it serves, and several versions at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import anyio
import numpy as np
import pytest

from server.serve import RunningSite, ServeOptions, running_site
from stages import wire
from stages.bundle import PROBE_FILE, Bundle
from stages.engines.backends import make_engine
from stages.engines.engine import Engine
from stages.errors import BundleError, EngineError, InputError
from stages.tensors import Array
from tests.support.bundles import other_weights
from tests.support.clients import Answer, Client
from tests.support.fakes import STAGE, FakeEngine, Gate, tiles, tiny_bundle, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked_loop")]

HERE = ServeOptions(port=0, threads=1)
OLD = tiny_bundle()
NEW = tiny_bundle(stage=replace(STAGE, files={"window/model.onnx": "1" * 64}))


@asynccontextmanager
async def client_of(
    bundles: Sequence[Bundle], make: Callable[[Bundle], Engine], options: ServeOptions = HERE
) -> AsyncIterator[Client]:
    async with running_site(bundles, options, make) as site, aiohttp.ClientSession() as session:
        yield Client(site, session)


async def infer(client: Client, version: int | None, *windows: int) -> Answer:
    sent = wire.encode_request(tiles(*windows), ["embedding"])
    path = "/v2/models/window" + (f"/versions/{version}" if version else "")
    return await client.ask("POST", f"{path}/infer", data=sent.body, headers=sent.headers)


# Loading


class SlowEngine(FakeEngine):
    """Held in opening until the gate is."""

    def _activate(self) -> None:
        assert self.gate is not None
        self.gate.pass_through()
        super()._activate()


class Loading:
    """A site whose engine is held in loading, and its URL from the log."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "pedsam")
        self._caplog = caplog
        self.gate = Gate()
        self.engine = SlowEngine(self.gate)
        self.ready = asyncio.Event()
        self.stop = asyncio.Event()

    async def __aenter__(self) -> Loading:
        self.task = asyncio.create_task(self._serve())
        await self.gate.entered.wait()
        (self.url,) = (record.__dict__["facts"]["url"] for record in self._caplog.records)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.gate.open()
        self.stop.set()
        await asyncio.wait([self.task])

    async def _serve(self) -> None:
        async with running_site(OLD, HERE, lambda _: self.engine):
            self.ready.set()
            await self.stop.wait()

    async def status(self, path: str, method: str = "GET") -> int:
        async with aiohttp.ClientSession() as session, session.request(method, self.url + path) as answer:
            return answer.status


async def test_a_site_that_loads_is_alive_and_not_ready(caplog: pytest.LogCaptureFixture) -> None:
    async with Loading(caplog) as site:
        assert await site.status("/v2/health/live") == 200
        assert await site.status("/v2") == 200
        assert await site.status("/metrics") == 200
        for path in ("/v2/health/ready", "/v2/models/window/ready", "/v2/models/window/config"):
            assert await site.status(path) == 503
        assert await site.status("/v2/models/window/infer", "POST") == 503
        assert await site.status("/v2/models/window/versions/2/ready") == 404
        site.gate.open()
        await site.ready.wait()
        for path in ("/v2/health/ready", "/v2/models/window/ready", "/v2/models/window/config"):
            assert await site.status(path) == 200


async def test_loading_can_be_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    async with Loading(caplog) as site:
        site.task.cancel()
        site.gate.open()  # a native call cannot be cut off: it is waited for
        with pytest.raises(asyncio.CancelledError):
            await site.task
        assert not site.ready.is_set()
        assert [call.what for call in site.engine.calls] == ["open", "close"]
        with pytest.raises(aiohttp.ClientConnectionError):
            await site.status("/v2/health/live")


# The check


class NotFinite(FakeEngine):
    def _infer(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        return {name: np.full_like(array, np.nan) for name, array in super()._infer(feeds, outputs).items()}


async def enter(bundles: Bundle | Sequence[Bundle], make: Callable[[Bundle], Engine] | None = None) -> None:
    async with running_site(bundles, HERE, make):
        pytest.fail("the site must not start")


async def test_an_engine_that_is_not_finite_is_not_served() -> None:
    engine = NotFinite()
    with pytest.raises(EngineError, match=r"not finite; this backend cannot serve it: choose another --back"):
        await enter(OLD, lambda _: engine)
    assert [call.what for call in engine.calls] == ["open", "close"]


async def test_an_engine_that_computes_something_else_is_not_served(
    mini_bundle: Bundle, other: Bundle
) -> None:
    with pytest.raises(EngineError, match=r"answers the probe with a difference of 0\.\d+, allowed 0\.01"):
        await enter(mini_bundle, lambda _: make_engine(other, "window", threads=1))


async def test_one_bad_version_keeps_the_others_from_being_served(mini_bundle: Bundle, other: Bundle) -> None:
    with pytest.raises(EngineError, match=f"the engine of {other.path} answers the probe with a difference"):
        await enter([mini_bundle, other], lambda _: make_engine(mini_bundle, "window", threads=1))


async def test_a_damaged_probe_is_named(mini_bundle: Bundle, other: Bundle) -> None:
    wrong = replace(other, edge_files=mini_bundle.edge_files)
    with pytest.raises(BundleError, match=r"edge/probe\.npz differs from what bundle\.json records"):
        await enter(wrong)


async def test_a_copy_without_the_probe_says_what_was_not_checked(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "window").symlink_to(mini_bundle.path / "window")
    replace(mini_bundle, path=tmp_path).save()
    async with running_site(Bundle.load(tmp_path), HERE) as site:
        (version,) = site.state.versions.values()
    assert version.check == f"runs, probe not checked: this copy holds no {PROBE_FILE}"


async def test_the_check_is_in_no_statistics(mini_bundle: Bundle) -> None:
    async with running_site(mini_bundle, HERE) as site:
        (version,) = site.state.versions.values()
        assert version.check == "probe reproduced"
        assert (version.statistics.tiles, version.statistics.engine_s) == (0, 0)


# Several versions


@pytest.fixture(scope="module")
def other(mini_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return other_weights(mini_bundle, tmp_path_factory.mktemp("other"))


async def test_versions_are_numbered_in_their_order_and_the_last_is_the_default() -> None:
    engines = {OLD.site_digest: FakeEngine(), NEW.site_digest: FakeEngine()}
    async with client_of([OLD, NEW], lambda bundle: engines[bundle.site_digest]) as client:
        for version, bundle in ((1, OLD), (2, NEW), (None, NEW)):
            path = "/v2/models/window" + (f"/versions/{version}" if version else "")
            assert (await client.ask("GET", path)).json["versions"] == ["1", "2"]
            assert (await client.ask("GET", f"{path}/ready")).status == 200
            config = (await client.ask("GET", f"{path}/config")).json
            assert config["parameters"]["site_digest"]["string_value"] == bundle.site_digest
            answer = await infer(client, version, 3, version or 4)
            assert answer.holds(3, version or 4)
            header = answer.body[: int(answer.headers[wire.HEADER_LENGTH])]
            assert f'"model_version":"{version or 2}"'.encode() in header
        missing = await infer(client, 3, 1)
        assert missing.status == 404
        assert missing.error.endswith("this site has model window, versions 1, 2")
    assert engines[OLD.site_digest].batches == [(3, 1)]
    assert engines[NEW.site_digest].batches == [(3, 2), (3, 4)]


@pytest.mark.parametrize("number", ["0", "01", "1 ", "-1", "x", "1/2", "%31%00"])
async def test_what_is_no_version_is_not_found(number: str) -> None:
    async with client_of([OLD], lambda _: FakeEngine()) as client:
        assert (await client.ask("GET", f"/v2/models/window/versions/{number}/config")).status == 404


async def test_all_versions_run_on_one_thread_and_take_turns() -> None:
    """With work waiting for both, engine calls alternate: neither version holds up the other."""
    gate = Gate()
    calls = FakeEngine().calls
    first, second = FakeEngine(gate, calls=calls), FakeEngine(calls=calls)
    engines = {OLD.site_digest: first, NEW.site_digest: second}
    few = replace(HERE, max_batch=1)
    async with client_of([OLD, NEW], lambda bundle: engines[bundle.site_digest], few) as client:
        requests = [asyncio.create_task(infer(client, 1, 0))]
        await gate.entered.wait()
        requests += [asyncio.create_task(infer(client, 1, window)) for window in (1, 2, 3)]
        requests += [asyncio.create_task(infer(client, 2, window)) for window in (11, 12, 13)]
        batchers = [version.batcher for version in client.site.state.versions.values()]
        await until(lambda: [batcher.pending for batcher in batchers] == [3, 3])
        gate.open()
        assert [(await request).status for request in requests] == [200] * 7
    ran = [call for call in calls if call.what == "infer"]
    assert [call.windows[0] // 10 for call in ran] == [0, 1, 0, 1, 0, 1, 0]
    assert len({call.thread for call in ran}) == 1


async def test_versions_have_statistics_of_their_own() -> None:
    async with client_of([OLD, NEW], lambda _: FakeEngine()) as client:
        await infer(client, 1, 1, 2)
        await infer(client, None, 3)
        text = (await client.ask("GET", "/metrics")).body.decode()
    assert 'nv_inference_count{model="window",version="1"} 2.0' in text
    assert 'nv_inference_count{model="window",version="2"} 1.0' in text


async def test_a_stopped_version_makes_the_site_not_ready() -> None:
    async with client_of([OLD, NEW], lambda _: FakeEngine()) as client:
        client.site.state.versions["1"].batcher.stop()
        assert (await client.ask("GET", "/v2/health/ready")).status == 503


async def test_shutting_down_finishes_requests_of_every_version() -> None:
    gate = Gate()
    engine = FakeEngine(gate)
    stop = asyncio.Event()

    async def serve(started: asyncio.Future[RunningSite]) -> None:
        async with running_site(
            [OLD, NEW], replace(HERE, grace_s=60), lambda _: engine_of[_.site_digest]
        ) as s:
            started.set_result(s)
            await stop.wait()

    engine_of = {OLD.site_digest: engine, NEW.site_digest: FakeEngine()}
    started: asyncio.Future[RunningSite] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(started))
    async with aiohttp.ClientSession() as session:
        client = Client(await started, session)
        requests = [asyncio.create_task(infer(client, 1, 1))]
        await gate.entered.wait()
        requests.append(asyncio.create_task(infer(client, 2, 2)))
        await until(lambda: client.site.batcher.pending == 1)
        stop.set()
        gate.open()
        assert [(await request).status for request in requests] == [200, 200]
    with anyio.fail_after(10):
        await task


async def test_the_same_weights_twice_are_refused() -> None:
    with pytest.raises(InputError, match="nowhere and nowhere have the same weights; give --bundle one of"):
        await enter([OLD, NEW, tiny_bundle()])


async def test_more_versions_than_an_edge_looks_at_are_refused() -> None:
    with pytest.raises(InputError, match="9 bundles are too many; a site serves 8 versions at most"):
        await enter([OLD] * 9)


@pytest.mark.parametrize(("asked", "status"), [("OLD", 412), ("NEW", 200), ("*", 200), (None, 200)])
async def test_a_request_for_other_weights_is_refused(asked: str | None, status: int) -> None:
    tags = {"OLD": f'"{OLD.site_digest}"', "NEW": f'"{NEW.site_digest}"', "*": "*"}
    sent = wire.encode_request(tiles(1), ["embedding"])
    headers = {**sent.headers, **({"If-Match": tags[asked]} if asked else {})}
    engine = FakeEngine()
    async with client_of([NEW], lambda _: engine) as client:
        answer = await client.ask("POST", "/v2/models/window/infer", data=sent.body, headers=headers)
        assert answer.status == status
        if status == 412:
            assert answer.error.startswith("this version has other weights than If-Match asks for")
    assert engine.batches == [(1,)] * (status == 200)
