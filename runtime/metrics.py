"""The edge's numbers for Prometheus, read from a running loop when they are asked for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from runtime.live import Live
from stages.errors import InputError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_COUNTERS = {
    "frames": ("pedsam_frames", "Frames finished."),
    "dropped": ("pedsam_frames_dropped", "Frames left out for newer ones."),
    "lost": ("pedsam_frames_lost", "Frames that could not be completed."),
    "windows_sent": ("pedsam_windows_sent", "Windows sent to sites or run at the edge."),
    "windows_reused": ("pedsam_windows_reused", "Windows that had not changed and were not sent again."),
    "windows_hedged": ("pedsam_windows_hedged", "Windows asked of a second site for being late."),
    "windows_redispatched": ("pedsam_windows_redispatched", "Windows sent elsewhere after a failure."),
    "windows_run_at_edge": ("pedsam_windows_run_at_edge", "Windows run here."),
}
_OF_SITES = {
    "tiles": ("pedsam_site_tiles", "Tiles a site answered."),
    "bytes_up": ("pedsam_site_bytes_up", "Bytes of message bodies sent to a site."),
    "bytes_down": ("pedsam_site_bytes_down", "Bytes of message bodies a site sent."),
}


class LiveCollector(Collector):
    """Metrics of one loop. Collecting asks the loop on its event loop's thread."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def collect(self) -> Iterator[Metric]:
        status = self._live.status()
        yield _gauge("pedsam_fps", "Frames a second, of the last frames.", status["fps"])
        latency = "Seconds from capture to result, median of the last frames."
        yield _gauge("pedsam_latency_seconds", latency, status["latency_ms"] / 1e3)
        yield _gauge("pedsam_paused", "1 while sending is paused.", float(status["paused"]))
        for key, (name, text) in _COUNTERS.items():
            yield CounterMetricFamily(name, text, value=status[key])
        steps = GaugeMetricFamily("pedsam_step_seconds", "Seconds a frame spends in a step.", labels=["step"])
        for step, ms in status["steps"].items():
            steps.add_metric([step], ms / 1e3)
        yield steps
        yield from _site_metrics(status)


def _site_metrics(status: Mapping[str, Any]) -> Iterator[Metric]:
    labels = ["site", "operator"]
    for key, (name, text) in _OF_SITES.items():
        counter = CounterMetricFamily(name, text, labels=labels)
        for site in status["sites"]:
            counter.add_metric([site["name"], site["operator"]], site[key])
        yield counter
    up = GaugeMetricFamily("pedsam_site_up", "1 while a site is ready.", labels=labels)
    for site in status["sites"]:
        up.add_metric([site["name"], site["operator"]], float(site["state"] == "ready"))
    yield up
    seen = GaugeMetricFamily(
        "pedsam_operator_windows_seen", "Window positions an operator has seen.", labels=["operator"]
    )
    for operator in status["caps"]:
        seen.add_metric([operator], sum(operator in window["operators"] for window in status["windows"]))
    yield seen


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


@contextlib.asynccontextmanager
async def serve_metrics(live: Live, host: str, port: int) -> AsyncIterator[str]:
    """`GET /metrics` while the block runs; gives a line that says where.

    They tell how busy the edge is and who its sites are, nothing of any picture. Raises InputError when the
    port cannot be had.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(LiveCollector(live))

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as exc:
            raise InputError(
                f"metrics cannot be served on {host}:{port} ({exc.strerror}); choose another --metrics-port"
            ) from exc
        yield f"metrics at http://{host}:{runner.addresses[0][1]}/metrics"
    finally:
        await runner.cleanup()
