"""What a site tells Prometheus: Triton's names, and exact counts after known requests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.metrics import exposition, registry_of
from stages.errors import EngineError
from tests.support.clients import INFER, Answer, Client, connected
from tests.support.fakes import FakeEngine, Gate, fake_site, until
from tests.support.keys import keys_for

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked_loop")]

ONE = {"model": "window", "version": "1"}
REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
TRITON = {
    "nv_inference_request_success": "counter",
    "nv_inference_request_failure": "counter",
    "nv_inference_count": "counter",
    "nv_inference_exec_count": "counter",
    "nv_inference_request_duration_us": "counter",
    "nv_inference_queue_duration_us": "counter",
    "nv_inference_compute_input_duration_us": "counter",
    "nv_inference_compute_infer_duration_us": "counter",
    "nv_inference_compute_output_duration_us": "counter",
    "nv_inference_pending_request_count": "gauge",
}


class Scraped:
    """One answer of /metrics, as Prometheus' own parser reads it."""

    def __init__(self, answer: Answer) -> None:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        self.text = answer.body.decode()
        families = list(text_string_to_metric_families(self.text))
        self.types = {family.name: family.type for family in families}
        self._samples = [sample for family in families for sample in family.samples]

    def __call__(self, name: str, labels: Mapping[str, str] = ONE) -> float:
        """A sample's value; the parser gives every counter the suffix _total."""
        names = (name, f"{name}_total")
        (value,) = (s.value for s in self._samples if s.name in names and s.labels == labels)
        return float(value)

    def labels(self, name: str) -> list[dict[str, str]]:
        return [sample.labels for sample in self._samples if sample.name == name]

    def failures(self) -> dict[str, float]:
        """Requests that failed, by reason, without those that never happened."""
        name = "nv_inference_request_failure"
        counts = {reason: self(name, {**ONE, "reason": reason}) for reason in REASONS}
        return {reason: count for reason, count in counts.items() if count}

    def refusals(self) -> dict[str, float]:
        reasons = [labels["reason"] for labels in self.labels("pedsam_site_refused_total")]
        return {reason: self("pedsam_site_refused", {"reason": reason}) for reason in reasons}


async def scrape(client: Client) -> Scraped:
    return Scraped(await client.ask("GET", "/metrics"))


async def test_the_names_and_types_are_tritons() -> None:
    async with connected() as client:
        scraped = await scrape(client)
    lines = scraped.text.splitlines()
    for name, kind in TRITON.items():
        assert f"# TYPE {name} {kind}" in lines
        assert any(line.startswith(name + "{") for line in lines)
        assert scraped.types[name] == kind
    assert "nv_" not in "".join(line for line in lines if "_total" in line)
    assert scraped("nv_inference_request_success") == 0


async def test_requests_tiles_and_engine_calls_are_counted() -> None:
    async with connected(max_batch=8) as client:
        for windows in ((1,), (2, 3), range(20)):
            assert (await client.infer(*windows)).status == 200
        scraped = await scrape(client)
    assert scraped("nv_inference_request_success") == 3
    assert scraped("nv_inference_count") == 23
    assert scraped("nv_inference_exec_count") == 5  # 20 tiles take 8 + 8 + 4
    assert scraped.failures() == scraped.refusals() == {}
    sizes = {
        bound: scraped("pedsam_site_batch_size_bucket", {"version": "1", "le": bound})
        for bound in ("1.0", "2.0", "4.0", "8.0", "16.0", "25.0", "+Inf")
    }
    assert sizes == {"1.0": 1, "2.0": 2, "4.0": 3, "8.0": 5, "16.0": 5, "25.0": 5, "+Inf": 5}
    assert scraped("pedsam_site_batch_size_sum", {"version": "1"}) == 23
    assert scraped("pedsam_site_batch_size_count", {"version": "1"}) == 5


async def test_times_are_sums_that_fit_together() -> None:
    gate = Gate()
    async with connected(FakeEngine(gate), max_batch=8) as client:
        before = await scrape(client)
        first = client.begin(0)
        await gate.entered.wait()
        others = [client.begin(window) for window in (1, 2)]
        await until(lambda: client.site.batcher.pending == 2)
        waiting = await scrape(client)
        gate.open()
        for request in (first, *others):
            assert (await request).status == 200
        after = await scrape(client)
    parts = [f"nv_inference_{part}_duration_us" for part in ("queue", "compute_input", "compute_infer")]
    parts.append("nv_inference_compute_output_duration_us")
    assert all(before(part) == 0 < after(part) for part in parts)
    assert sum(map(after, parts)) <= after("nv_inference_request_duration_us")
    assert waiting("nv_inference_pending_request_count") == 2
    assert after("nv_inference_pending_request_count") == 0
    engine_us = after("pedsam_site_engine_seconds", {"version": "1"}) * 1e6
    assert engine_us < after("nv_inference_compute_infer_duration_us")  # two requests shared a call


async def test_failures_have_tritons_reasons() -> None:
    gate = Gate()
    engine = FakeEngine(gate)
    async with connected(engine, max_waiting=1) as client:
        running = client.begin(1)
        await gate.entered.wait()
        waiting = client.begin(2)
        await until(lambda: client.site.batcher.pending == 1)
        assert (await client.infer(3)).status == 503
        waiting.cancel()
        await until(lambda: client.site.batcher.pending == 0)
        assert (await client.ask("POST", INFER, data=b"{}")).status == 400
        gate.open()
        assert (await running).status == 200
        engine.failures["infer"] = EngineError("no")
        assert (await client.infer(4)).status == 500
        await until(lambda: sum(client.site.batcher.statistics.failures.values()) == 4)
        scraped = await scrape(client)
    assert scraped.failures() == {"REJECTED": 1, "CANCELED": 1, "BACKEND": 1, "OTHER": 1}
    assert scraped("nv_inference_request_success") == 1
    assert scraped.refusals() == {"queue_full": 1, "malformed": 1}


async def test_refusals_are_counted_by_reason_and_hold_nothing_of_the_sender() -> None:
    async with connected() as client:
        for path in ("/SECRET", "/v2/models/SECRET/infer", "/v2/models/window/versions/SECRET"):
            assert (await client.ask("GET", path)).status == 404
        assert (await client.ask("DELETE", INFER)).status == 405
        assert (await client.ask("SECRET", INFER)).status == 400
        assert (await client.ask("POST", INFER, data=bytes(100_000))).status == 413
        assert (await client.ask("POST", INFER, headers={"If-Match": '"SECRET"'})).status == 412
        client.site.batcher.stop()
        assert (await client.infer(1)).status == 503
        scraped = await scrape(client)
    assert scraped.refusals() == {
        "unknown_path": 3,
        "method": 1,
        "no_http": 1,
        "too_large": 1,
        "other_weights": 1,
        "stopping": 1,
    }
    assert "SECRET" not in scraped.text


async def test_what_is_served_and_whether_it_is_ready() -> None:
    async with connected() as client:
        scraped = await scrape(client)
        digest = client.site.state.bundles["1"].site_digest
        client.site.batcher.stop()
        stopped = await scrape(client)
    (labels,) = scraped.labels("pedsam_site_version_info")
    assert labels == {
        "version": "1",
        "digest": digest,
        "model": "tiny",
        "weights": "untrained",
        "backend": "fake 1.0 on nothing",
    }
    assert (scraped("pedsam_site_ready", {}), stopped("pedsam_site_ready", {})) == (1, 0)
    assert "certificate" not in scraped.text


async def test_what_is_taken_of_the_limits() -> None:
    gate = Gate()
    async with connected(FakeEngine(gate)) as client:
        running = client.begin(1)
        await gate.entered.wait()
        during = await scrape(client)
        gate.open()
        assert (await running).holds(1)
        await until(lambda: client.site.state.quotas.requests.taken == 0)
        after = await scrape(client)
    names = [f"pedsam_site_{name}" for name in ("connections", "requests_under_way", "held_bytes")]
    assert [during.types[name] for name in names] == ["gauge"] * 3
    connections, requests, held = (during(name, {}) for name in names)
    assert (connections, requests) == (2, 1)
    assert held > 4 * 4 * 3
    assert [after(name, {}) for name in names[1:]] == [0, 0]


async def test_when_the_certificate_expires(tmp_path: Path) -> None:
    async with fake_site(keys=keys_for(tmp_path)) as site:
        keys = site.state.keys
        assert keys is not None
        text = exposition(registry_of(site.state)).decode()
    (family,) = (f for f in text_string_to_metric_families(text) if "certificate" in f.name)
    assert family.name == "pedsam_site_certificate_expiry_timestamp_seconds"
    assert family.samples[0].value == keys.until.timestamp()


async def test_sites_of_one_process_count_apart() -> None:
    async with connected() as a, connected() as b:
        assert (await a.infer(1)).status == 200
        assert (await scrape(a))("nv_inference_count") == 1
        assert (await scrape(b))("nv_inference_count") == 0
