"""What watches a run, as the command line starts it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from runtime.live.interface import Live
from runtime.live.metrics import MetricsOptions, metrics_identity, serve_metrics
from runtime.preview import PreviewOptions, introduction, preview, preview_identity
from runtime.results.sinks import banner_for
from runtime.session import Watcher
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


@contextlib.asynccontextmanager
async def _preview(live: Live, options: PreviewOptions) -> AsyncIterator[str]:
    async with preview(live, options) as address:
        yield introduction(address, options)
