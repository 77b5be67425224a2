"""The edge's numbers for Prometheus, read from a running pipeline when they are asked for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from runtime.live.access import Access, Identity, check_exposed, load_identity
from runtime.live.endpoint import base_url, checking_host, listen
from runtime.live.interface import Live
from runtime.live.status import BoardStatus, Status
from stages.tls import TOKEN

WHAT = "metrics endpoint"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_COUNTERS = {
    "frames": ("pedsam_frames", "Frames finished."),
    "dropped": ("pedsam_frames_dropped", "Frames left out for newer ones."),
    "lost": ("pedsam_frames_lost", "Frames that could not be completed."),
    "doubtful": ("pedsam_frames_doubtful", "Frames in which a site that lied had a part."),
    "windows_sent": ("pedsam_windows_sent", "Windows sent to sites."),
    "windows_reused": ("pedsam_windows_reused", "Windows that had not changed and were not sent again."),
    "windows_hedged": ("pedsam_windows_hedged", "Windows sent to a second site for being late."),
    "windows_redispatched": ("pedsam_windows_redispatched", "Windows sent elsewhere after a failure."),
    "windows_run_at_edge": ("pedsam_windows_run_at_edge", "Windows run here for want of a site."),
    "kept_windows_run": ("pedsam_kept_windows_run", "Windows run here since they never leave."),
}
_SITE_COUNTERS = {
    "tiles": ("pedsam_site_tiles", "Tiles a site answered."),
    "bytes_up": ("pedsam_site_bytes_up", "Bytes of message bodies sent to a site."),
    "bytes_down": ("pedsam_site_bytes_down", "Bytes of message bodies a site sent."),
    "head_bytes_up": ("pedsam_site_head_bytes_up", "Bytes of HTTP heads sent to a site."),
    "head_bytes_down": ("pedsam_site_head_bytes_down", "Bytes of HTTP heads a site sent."),
    "checks": ("pedsam_site_checks", "Tiles of a site that this edge computed again, to compare."),
}


class LiveCollector(Collector):
    """Metrics of one pipeline. Collect on its event loop."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def collect(self) -> Iterator[Metric]:
        status = self._live.status()
        yield _gauge("pedsam_fps", "Frames a second, of the last frames.", status.fps)
        latency = "Seconds from capture to result, median of the last frames."
        yield _gauge("pedsam_latency_seconds", latency, status.latency_ms / 1e3)
        yield _gauge("pedsam_paused", "1 while sending is paused.", float(status.paused))
        for key, (name, text) in _COUNTERS.items():
            yield CounterMetricFamily(name, text, value=getattr(status, key))
        steps = GaugeMetricFamily("pedsam_step_seconds", "Seconds a frame spends in a step.", labels=["step"])
        for step, ms in status.steps.items():
            steps.add_metric([step], ms / 1e3)
        yield steps
        yield from _site_metrics(status)
        if status.board is not None:
            yield from _board_metrics(status.board)


def _site_metrics(status: Status) -> Iterator[Metric]:
    labels = ["site", "operator"]
    for key, (name, text) in _SITE_COUNTERS.items():
        counter = CounterMetricFamily(name, text, labels=labels)
        for site in status.sites:
            counter.add_metric([site.name, site.operator], getattr(site, key))
        yield counter
    up = GaugeMetricFamily("pedsam_site_up", "1 while a site is ready.", labels=labels)
    for site in status.sites:
        up.add_metric([site.name, site.operator], float(site.state == "ready"))
    yield up
    failing = GaugeMetricFamily(
        "pedsam_site_failures",
        "How often a site was taken out for a failed tile; 0 again after many good ones.",
        labels=labels,
    )
    for site in status.sites:
        failing.add_metric([site.name, site.operator], site.failures)
    yield failing
    seen = GaugeMetricFamily(
        "pedsam_operator_windows_seen", "Window positions an operator has seen.", labels=["operator"]
    )
    for operator in status.caps:
        seen.add_metric([operator], sum(operator in window.operators for window in status.windows))
    yield seen
    share = "What part of the picture is in the windows that an operator has seen, 0 to 1."
    shares = {operator: each.seen for operator, each in status.shares.items()}
    yield _labelled("pedsam_operator_picture_share", share, "operator", shares)


_MB = 2**20


def _board_metrics(board: BoardStatus) -> Iterator[Metric]:
    """What the board tells; what it does not has no sample."""
    for name, text, value in (
        ("gpu_load_percent", "How busy the board's GPU is.", board.gpu_percent),
        ("memory_used_bytes", "Memory in use on the board.", board.memory_used_mb * _MB),
        ("memory_total_bytes", "Memory of the board.", board.memory_total_mb * _MB),
        ("memory_available_bytes", "Memory a process can still get.", _bytes(board.memory_available_mb)),
        ("total_power_milliwatts", "Power of the whole board.", board.board_power_mw),
    ):
        if value is not None:
            yield _gauge(f"pedsam_board_{name}", text, value)
    heat = "Temperature of a zone of the board."
    yield _labelled("pedsam_board_temperature_celsius", heat, "zone", board.temperatures_c)
    yield _labelled("pedsam_board_power_milliwatts", "Power of a rail of the board.", "rail", board.power_mw)
    events = CounterMetricFamily(
        "pedsam_board_throttle_events", "Times the board's supply throttled it.", labels=["kind"]
    )
    for kind, count in board.throttle_events.items():
        events.add_metric([kind], count)
    yield events


def _bytes(megabytes: int | None) -> int | None:
    return None if megabytes is None else megabytes * _MB


def _labelled(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    gauge = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        gauge.add_metric([key], value)
    return gauge


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


@dataclass(frozen=True)
class MetricsOptions:
    """`port` 0 takes a free one. `keys` is a folder from `pedsam keys --preview`, needed off loopback; a
    request then needs its token."""

    host: str = "127.0.0.1"
    port: int = 9100
    keys: Path | None = None


def metrics_identity(options: MetricsOptions) -> Identity | None:
    """The keys of the endpoint. Raises InputError for an address that needs some and for wrong ones."""
    check_exposed(
        options.host, options.keys, "who the sites are and what they have seen", WHAT, "--metrics-keys"
    )
    return load_identity(options.keys) if options.keys else None


@contextlib.asynccontextmanager
async def serve_metrics(live: Live, options: MetricsOptions) -> AsyncIterator[str]:
    """`GET /metrics` while the block runs; gives a line that says where.

    They tell how busy the edge is, who its sites are and what those have seen, nothing of any picture. Raises
    InputError for an address that may not or cannot be bound and for keys that cannot be used.
    """
    identity = metrics_identity(options)
    runner = web.AppRunner(_application(live, options.host, identity), access_log=None)
    await runner.setup()
    try:
        port = await listen(runner, options.host, options.port, identity, WHAT)
        token = f", with the token in {options.keys / TOKEN}" if options.keys else ""
        yield f"metrics at {base_url(options.host, port, identity)}/metrics{token}"
    finally:
        await runner.cleanup()


def _application(live: Live, host: str, identity: Identity | None) -> web.Application:
    """Answers the names that lead here, and with an identity only requests that have its bearer token."""
    access = Access(
        host, identity.token if identity else "", identity.names if identity else (), identity is not None
    )
    registry = CollectorRegistry(auto_describe=False)
    registry.register(LiveCollector(live))

    async def answer(request: web.Request) -> web.Response:
        if identity is not None and not access.accepts(_bearer_token(request)):
            raise web.HTTPUnauthorized(
                text="metrics need the token\n", headers={"WWW-Authenticate": "Bearer"}
            )
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE})

    application = web.Application(middlewares=[checking_host(access, WHAT)])
    application.router.add_get("/metrics", answer)
    return application


def _bearer_token(request: web.Request) -> str:
    """The token of an Authorization header, "" without one."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
