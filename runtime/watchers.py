"""What watches a run, as the command line starts it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

from runtime.live.interface import Live
from runtime.live.metrics import MetricsOptions, metrics_identity, serve_metrics
from runtime.live.mjpeg import MjpegOptions, mjpeg_identity, serve_mjpeg
from runtime.mqtt import MqttOptions, check_mqtt, publishing
from runtime.preview import PreviewOptions, introduction, preview, preview_identity
from runtime.results.sinks import banner_for
from runtime.session import Watcher
from stages.address import Address
from stages.bundle import Bundle


def preview_watcher(
    bundle: Bundle, host: str, port: int, keys: Path | None = None, width: int = PreviewOptions.longest_px
) -> Watcher:
    """The preview of a run with this bundle, with pictures of at most `width`; see PreviewOptions.

    Raises InputError for an address that may not be used and for wrong keys.
    """
    banner = banner_for(bundle.weights)
    options = PreviewOptions(host, port, keys, model=bundle.description, banner=banner, longest_px=width)
    preview_identity(options)
    return partial(_preview, options=options)


def metrics_watcher(host: str, port: int, keys: Path | None = None) -> Watcher:
    """Metrics of a run for Prometheus; see MetricsOptions. Raises InputError as `preview_watcher` does."""
    options = MetricsOptions(host, port, keys)
    metrics_identity(options)
    return partial(serve_metrics, options=options)


def mjpeg_watcher(bundle: Bundle, host: str, port: int, keys: Path | None, width: int) -> Watcher:
    """The overlay of a run as MJPEG; see MjpegOptions. Raises InputError as `preview_watcher` does."""
    options = MjpegOptions(host, port, keys, width, banner_for(bundle.weights))
    mjpeg_identity(options)
    return partial(serve_mjpeg, options=options)


def mqtt_watcher(bundle: Bundle, broker: Address, tell: Callable[[str], None], **more: Any) -> Watcher:
    """A run's objects for a broker; `more` are those of MqttOptions. `tell` gets sentences about the broker.

    Raises InputError as `check_mqtt` does.
    """
    options = MqttOptions(broker, **more, model=bundle.description, banner=banner_for(bundle.weights))
    check_mqtt(options)
    return partial(publishing, options=options, tell=tell)


@contextlib.asynccontextmanager
async def _preview(live: Live, options: PreviewOptions) -> AsyncIterator[str]:
    async with preview(live, options) as address:
        yield introduction(address, options)
