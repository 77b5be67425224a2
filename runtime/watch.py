"""What looks on while a run lasts, as the command line starts it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from runtime.live import Live
from runtime.metrics import serve_metrics
from runtime.preview import PreviewOptions, introduction, preview
from runtime.session import Watcher
from runtime.sinks import banner_for
from stages.bundle import Bundle


def preview_watcher(
    bundle: Bundle, host: str, port: int, keys: Path | None = None, width: int = PreviewOptions.longest_px
) -> Watcher:
    """The preview of a run with this bundle, with pictures of at most `width`; see PreviewOptions."""
    banner = banner_for(bundle.weights)
    options = PreviewOptions(host, port, keys, model=bundle.description, banner=banner, longest_px=width)
    return partial(_preview, options=options)


def metrics_watcher(host: str, port: int) -> Watcher:
    return partial(serve_metrics, host=host, port=port)


@contextlib.asynccontextmanager
async def _preview(live: Live, options: PreviewOptions) -> AsyncIterator[str]:
    async with preview(live, options) as address:
        yield introduction(address, options)
