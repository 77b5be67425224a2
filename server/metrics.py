"""A site's metrics for Prometheus, with Triton's names where it has them; sums, not single requests."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from server.limits import Quotas
from server.model.statistics import Statistics
from server.model.versions import FAILURES, Version
from server.state import SiteState
from stages import wire

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SIZES = (1, 2, 4, 8, 16, 25)  # upper bounds of the batch size histogram: up to all windows of a frame


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


COUNTERS: dict[str, tuple[str, Callable[[Statistics], float]]] = {
    "nv_inference_request_success": ("Requests answered with embeddings.", lambda s: s.requests),
    "nv_inference_count": ("Tiles run.", lambda s: s.tiles),
    "nv_inference_exec_count": ("Engine calls.", lambda s: s.batches),
    "nv_inference_request_duration_us": (
        "Time of answered requests from their last byte until the answer is ready.",
        lambda s: _us(s.request_s),
    ),
    "nv_inference_queue_duration_us": ("Time requests waited for their turn.", lambda s: _us(s.queue_s)),
    "nv_inference_compute_input_duration_us": ("Time to decode requests.", lambda s: _us(s.input_s)),
    "nv_inference_compute_infer_duration_us": (
        "Time requests spent in engine calls, those of their batch in full.",
        lambda s: _us(s.infer_s),
    ),
    "nv_inference_compute_output_duration_us": ("Time to encode answers.", lambda s: _us(s.output_s)),
}
GAUGES: dict[str, tuple[str, Callable[[Quotas], int]]] = {
    "pedsam_site_connections": (
        "Open connections, TLS handshakes among them.",
        lambda q: q.connections.taken,
    ),
    "pedsam_site_requests_under_way": (
        "Requests for inference from before their body is read until their answer is sent.",
        lambda q: q.requests.taken,
    ),
    "pedsam_site_held_bytes": ("Bodies and answers of requests under way.", lambda q: q.memory.taken),
}


def registry_of(state: SiteState) -> CollectorRegistry:
    """A registry of this site alone; it reads `state` whenever it is asked."""
    registry = CollectorRegistry()
    registry.register(_SiteCollector(state))
    return registry


def exposition(registry: CollectorRegistry) -> bytes:
    """Prometheus text, in which Triton's counters have Triton's names."""
    return _SUFFIXED.sub(rb"\1 ", generate_latest(registry))


_SUFFIXED = re.compile(
    rb"^(# (?:HELP|TYPE) nv_\w+)_total ", re.MULTILINE
)  # the library appends it to counters


class _SiteCollector(Collector):
    def __init__(self, state: SiteState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        versions = list(self._state.versions.values())
        yield from _triton(versions)
        yield from _engines(versions)
        yield from self._site()

    def _site(self) -> Iterator[Metric]:
        refused = CounterMetricFamily("pedsam_site_refused", "Requests refused.", labels=["reason"])
        for reason, count in sorted(self._state.refusals.counts.items()):
            refused.add_metric([reason], count)
        yield refused
        for name, (text, taken) in GAUGES.items():
            yield GaugeMetricFamily(name, text, value=taken(self._state.quotas))
        yield GaugeMetricFamily(
            "pedsam_site_ready", "1 when all versions are loaded and served.", value=self._state.ready
        )
        if keys := self._state.keys:
            yield GaugeMetricFamily(
                "pedsam_site_certificate_expiry_timestamp_seconds",
                "When the first of this site's certificates expires.",
                value=keys.until.timestamp(),
            )


def _triton(versions: list[Version]) -> Iterator[Metric]:
    for name, (text, value) in COUNTERS.items():
        counter = Metric(name, text, "counter")
        for version in versions:
            counter.add_sample(name, _labels(version), value(version.statistics))
        yield counter
    name = "nv_inference_request_failure"
    failures = Metric(name, "Requests not answered with embeddings.", "counter")
    for version in versions:
        for reason in FAILURES:
            labels = {**_labels(version), "reason": reason}
            failures.add_sample(name, labels, version.statistics.failures[reason])
    yield failures
    name = "nv_inference_pending_request_count"
    pending = Metric(name, "Requests in the queue.", "gauge")
    for version in versions:
        pending.add_sample(name, _labels(version), version.batcher.pending)
    yield pending


def _labels(version: Version) -> dict[str, str]:
    return {"model": wire.MODEL, "version": version.number}


def _engines(versions: list[Version]) -> Iterator[Metric]:
    sizes = HistogramMetricFamily("pedsam_site_batch_size", "Tiles in an engine call.", labels=["version"])
    seconds = CounterMetricFamily("pedsam_site_engine_seconds", "Time in the engine.", labels=["version"])
    builds = InfoMetricFamily("pedsam_site_version", "What is served.", labels=["version"])
    for version in versions:
        sizes.add_metric([version.number], _buckets(version.statistics), version.statistics.tiles)
        seconds.add_metric([version.number], version.statistics.engine_s)
        about = {
            "digest": version.bundle.site_digest,
            "model": version.bundle.geometry.name,
            "weights": version.bundle.weights,
            "backend": version.backend,
        }
        builds.add_metric([version.number], about)
    yield from (sizes, seconds, builds)


def _buckets(statistics: Statistics) -> list[tuple[str, float]]:
    """Cumulative counts of engine calls by their largest size, as Prometheus has histograms."""
    counts = [
        sum(calls for size, calls in statistics.batch_sizes.items() if low < size <= high)
        for low, high in zip((0, *SIZES), (*SIZES, float("inf")), strict=True)
    ]
    bounds = [*(str(float(size)) for size in SIZES), "+Inf"]
    return list(zip(bounds, accumulate(counts), strict=True))
