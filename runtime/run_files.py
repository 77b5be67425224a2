"""The files that options of a run name, and what each is to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from runtime.results.trace import picture_beside
from runtime.sites.config import SiteConfig
from stages.bundle import Bundle
from stages.distinct import NamedFile


def files_written(
    trace: Path | None = None,
    heartbeat: Path | None = None,
    state: Path | None = None,
    ledger: Path | None = None,
) -> Iterator[NamedFile]:
    """What a run writes beside its results."""
    if trace is not None:
        yield NamedFile("--trace", trace)
        yield NamedFile("the picture that --trace writes beside it, as .png,", picture_beside(trace))
    if heartbeat is not None:
        yield NamedFile("--heartbeat", heartbeat)
    if state is not None:
        yield NamedFile("--state", state)
    if ledger is not None:
        yield NamedFile("--ledger", ledger)


def files_read(bundle: Bundle, sites: Path | None, configs: Sequence[SiteConfig]) -> Iterator[NamedFile]:
    """Those of the bundle and of the sites."""
    for file in bundle.path.glob("**/*"):
        yield NamedFile("a file of the bundle", file)
    if sites is not None:
        yield NamedFile("the file of --sites", sites)
    for config in configs:
        for path in (config.ca, config.cert, config.key, config.token_file):
            if path is not None:
                yield NamedFile(f"a file of site {config.name}", path)
