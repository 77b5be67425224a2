"""How fast a site is: the arithmetic by hand, and that measuring shows no engine any noise."""

from __future__ import annotations

import json

import pytest
from aiohttp import web

from runtime.check import site_speed
from runtime.check.site_speed import (
    BURSTS,
    DOWNLOAD_TILES,
    Rate,
    measure_alone,
    measure_together,
    rate,
    steady_rate,
)
from runtime.sites.client import CONNECTIONS, WIRE_OUTPUTS, SiteClient
from runtime.sites.traffic import Traffic, message_bytes
from server.serve import ServeOptions, running_site
from stages.bundle import Bundle
from stages.errors import SiteUnavailable
from stages.tensors import Array
from tests.support.edge import Impostor, config
from tests.support.failing_sites import WAITS


def test_a_rate_is_bytes_over_the_time_they_took() -> None:
    assert shown(rate(1_000_000, 0.5, 0.1)) == (20.0, False)  # 8 Mbit in 0.4 s


def test_a_difference_too_small_to_measure_bounds_the_rate() -> None:
    assert shown(rate(1_000_000, 0.401, 0.4)) == (400.0, True)  # 8 Mbit in a twentieth of 0.4 s
    assert shown(rate(1_000_000, 0.001, 0.002)) == (8000.0, True)  # in 0.001 s


def shown(found: Rate) -> tuple[float, bool]:
    return round(found.mbit_s, 6), found.at_least


def test_a_steady_rate_leaves_out_the_first_round() -> None:
    # Two under way: the first round is done at 0.5 and 1, then two more each half second.
    assert steady_rate([0.5, 1.0, 1.5, 1.5, 2.0, 2.0], 2) == pytest.approx(4.0)


@pytest.mark.anyio
async def test_noise_reaches_no_engine_and_every_probe_does(mini_bundle: Bundle) -> None:
    probe = mini_bundle.probe()
    async with (
        running_site(mini_bundle, ServeOptions(port=0, threads=1)) as site,
        SiteClient(config("a", site.url), mini_bundle, "fp16", WAITS) as client,
    ):
        await client.send_noise(10_000)
        assert client.traffic.body_up > 10_000
        assert site.batcher.statistics.tiles == 0
        await client.run_probe(probe, ("scale",), DOWNLOAD_TILES)
        assert site.batcher.statistics.tiles == DOWNLOAD_TILES
        before = client.traffic.body_down
        await client.run_probe(probe)
        assert client.traffic.body_down - before > probe.embedding.size * 2  # two bytes a value


@pytest.mark.anyio
async def test_a_site_that_takes_noise_for_something_has_no_way_up_measured(mini_bundle: Bundle) -> None:
    """The Impostor fails at noise instead of refusing it; its tiles are measured all the same."""
    async with (
        Impostor(mini_bundle).running() as url,
        SiteClient(config("a", url), mini_bundle, "fp16", WAITS) as client,
    ):
        speed = await measure_alone(client, mini_bundle.probe())
    assert speed.up is None
    assert speed.tiles_per_s > 0


@pytest.mark.anyio
async def test_the_way_up_counts_all_that_was_sent(
    mini_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON and heads too, which are half as much again as a small tile."""
    sizes = []

    def noted(size: int, seconds: float, without_s: float) -> Rate:
        sizes.append(size)
        return rate(size, seconds, without_s)

    monkeypatch.setattr(site_speed, "rate", noted)
    probe = mini_bundle.probe()
    async with (
        running_site(mini_bundle, ServeOptions(port=0, threads=1)) as site,
        SiteClient(config("a", site.url), mini_bundle, "fp16", WAITS) as client,
    ):
        await client.send_noise(sum(array.nbytes for array in probe.inputs.values()))
        once = client.traffic.up
        await measure_alone(client, probe)
    assert sizes[0] == CONNECTIONS * once


@pytest.mark.anyio
@pytest.mark.parametrize(("taken", "shared"), [(25, 5), (2, 2), (1, 1)])
async def test_tiles_are_timed_in_requests_as_a_run_sends_them(
    mini_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, taken: int, shared: int
) -> None:
    monkeypatch.setattr(site_speed, "MEASURE_S", 1e-9)  # one round of noise, two of tiles
    timed: list[tuple[int, int]] = []

    def noted(ended_s: list[float], under_way: int) -> float:
        timed.append((len(ended_s), under_way))
        return steady_rate(ended_s, under_way)

    noise: list[int] = []

    async def sent(client: SiteClient, size: int) -> None:
        noise.append(size)

    monkeypatch.setattr(site_speed, "steady_rate", noted)
    monkeypatch.setattr(SiteClient, "send_noise", sent)
    site = Counting(mini_bundle, max_batch=taken)
    async with (
        site.running() as url,
        SiteClient(config("a", url), mini_bundle, "fp16", WAITS, request_bytes=1 << 20) as client,
    ):
        await client.check_digest()
        await measure_alone(client, mini_bundle.probe())
    assert timed == [(2 * CONNECTIONS * shared, CONNECTIONS * shared)]
    assert site.probes[-2 * CONNECTIONS :] == [shared] * 2 * CONNECTIONS
    assert set(noise) == {shared * sum(array.nbytes for array in mini_bundle.probe().inputs.values())}
    assert site.tiles == []


class Counting(Impostor):
    """It counts requests under way at the same time, and the tiles of those it answers."""

    now = most = total = 0

    def __init__(self, bundle: Bundle, max_batch: int | None = None) -> None:
        super().__init__(bundle, max_batch=max_batch)
        self.probes: list[int] = []

    async def right_answer(self, inputs: dict[str, Array]) -> Array:
        self.probes.append(len(inputs["tile"]))
        return await super().right_answer(inputs)

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        self.total += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await super()._infer(request)
        finally:
            self.now -= 1


@pytest.mark.anyio
async def test_together_sends_each_site_its_share_of_every_frame(mini_bundle: Bundle) -> None:
    first, second, third = Counting(mini_bundle), Counting(mini_bundle), Counting(mini_bundle)
    async with (
        first.running() as a,
        second.running() as b,
        third.running() as c,
        SiteClient(config("a", a), mini_bundle, "fp16", WAITS) as to_a,
        SiteClient(config("b", b), mini_bundle, "fp16", WAITS) as to_b,
        SiteClient(config("c", c), mini_bundle, "fp16", WAITS) as to_c,
    ):
        clients = {"a": to_a, "b": to_b, "c": to_c}
        found = await measure_together(clients, {"a": 5, "b": 3, "c": 0}, mini_bundle.probe())
    assert set(found.sites_s) == {"a", "b"}
    assert (first.total, second.total, third.total) == (5 * BURSTS, 3 * BURSTS, 0)
    assert first.most <= CONNECTIONS
    assert first.tiles == second.tiles == []  # probes, and nothing of a picture
    assert found.processor_s >= 0


@pytest.mark.anyio
async def test_a_site_that_fails_together_is_named(mini_bundle: Bundle) -> None:
    async def refuse(site: Impostor, request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": json.dumps("no")}, status=404)

    async with (
        Impostor(mini_bundle, always=refuse).running() as url,
        SiteClient(config("a", url), mini_bundle, "fp16", WAITS) as client,
    ):
        with pytest.raises(SiteUnavailable, match="site a: answered 404"):
            await measure_together({"a": client}, {"a": 2}, mini_bundle.probe())


@pytest.mark.anyio
async def test_windows_of_a_frame_travel_as_a_run_sends_them(mini_bundle: Bundle) -> None:
    """Together in one request where they are small enough and the site takes them; heads count by request."""
    site = Impostor(mini_bundle, max_batch=25)
    async with (
        site.running() as url,
        SiteClient(config("a", url), mini_bundle, "fp16", WAITS, request_bytes=1 << 20) as client,
    ):
        await client.check_digest()
        before = client.traffic + Traffic()
        found = await measure_together({"a": client}, {"a": 5}, mini_bundle.probe())
        sent = client.traffic - before
    size = message_bytes(mini_bundle.stage("window"), WIRE_OUTPUTS["fp16"], 5)
    assert (sent.requests, sent.body_up) == (BURSTS, BURSTS * size.up)
    assert 200 < found.heads[0] < 500
    assert 100 < found.heads[1] < found.heads[0]
