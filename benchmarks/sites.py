"""Three `pedsam serve` processes on loopback, each an operator of its own."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.demo import PEDSAM


@dataclass(frozen=True)
class RunningSite:
    """A site's process, its address, and the seconds it took to be ready."""

    process: subprocess.Popen[str]
    url: str
    start_s: float


@contextlib.contextmanager
def three_sites(bundle: Path, sites_toml: Path) -> Iterator[list[RunningSite]]:
    """Three sites, one thread each, as long as the block runs; `sites_toml` is written for the edge."""
    sites: list[RunningSite] = []
    try:
        for _ in range(3):
            sites.append(_start(bundle))
        sites_toml.write_text("".join(_entry(*pair) for pair in zip("abc", sites, strict=True)))
        yield sites
    finally:
        for site in sites:
            site.process.terminate()
            site.process.communicate()


def _start(bundle: Path) -> RunningSite:
    started = time.perf_counter()
    command = [*PEDSAM, "serve", "--bundle", str(bundle), "--port", "0", "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout or ():
        if line.startswith("listening on "):
            return RunningSite(process, line.split()[-1], time.perf_counter() - started)
    raise SystemExit("a site did not start; its message is above")


def _entry(name: str, site: RunningSite) -> str:
    return f'[[site]]\nname = "{name}"\noperator = "operator-{name}"\nurl = "{site.url}"\n\n'
