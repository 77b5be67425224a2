"""A bench for people and for programs: a table with a column a way, sentences under it, and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runtime.bench.measured import FRAME, LOCAL, STAGES, TITLES, Measured, SiteShare, limit, spread
from stages.bundle import MANIFEST, Bundle, sha256
from stages.errors import printable
from stages.measured_on import describe

ONLY_LOCAL = "this is all local alone; with --sites sites.toml (docs/sites.md) it measures offloading too"
NOT_LOCAL = (
    "{} has no window stage, so that nothing can run all local here; copy the window stage to the edge to "
    "compare"
)
SENT = (
    "what was sent to sites are probes and noise made here, never a picture; no ledger of a run was touched"
)
_NONE = "-"


@dataclass(frozen=True)
class Report:
    """Both ways, or the one there is, of frames of `size` (height, width). `notes` are for a person."""

    bundle: Bundle
    wire: str
    size: tuple[int, int]
    ways: Sequence[Measured]
    notes: Sequence[str] = ()
    machine: Mapping[str, Any] = field(default_factory=describe)

    @property
    def title(self) -> str:
        """What was measured, and what ran it."""
        height, width = self.size
        frames = f"frames of {width} x {height}, one object, {self.wire} wire"
        return f"{self.bundle.geometry.name}, {frames}; {engines(self.ways)}"


def print_report(console: Console, report: Report) -> None:
    """The table, what limits each way, and notes."""
    console.print(_table(report))
    for line in lines(report):
        console.print(Text(printable(line)))


def _table(report: Report) -> Table:
    table = Table(title=Text(printable(report.title)), title_justify="left")
    table.add_column("p50 / p95 in ms")
    for measured in report.ways:
        table.add_column(TITLES[measured.way], justify="right")
    for stage, name in (*STAGES.items(), (FRAME, "one frame, end to end")):
        cells = [_milliseconds(measured.seconds[stage]) for measured in report.ways]
        table.add_row(name, *cells, end_section=stage == "mask")
    for name, cell in _ROWS.items():
        cells = [cell(measured) for measured in report.ways]
        if any(text != _NONE for text in cells):
            table.add_row(name, *cells)
    return table


def engines(ways: Sequence[Measured]) -> str:
    """What runs the edge's stages, once where it is the same for all."""
    of_backend: dict[str, dict[str, None]] = {}
    for measured in ways:
        for stage, backend in measured.backend.items():
            of_backend.setdefault(backend, {})[stage] = None
    if len(of_backend) == 1:
        return next(iter(of_backend))
    return "; ".join(f"{' and '.join(stages)}: {backend}" for backend, stages in of_backend.items())


def _milliseconds(seconds: Sequence[float]) -> str:
    found = spread(seconds)
    return f"{found['p50']:.1f} / {found['p95']:.1f}"


def _windows(measured: Measured) -> str:
    return f"{measured.windows:g} ({measured.at_edge:g})"


def _bytes(measured: Measured) -> str:
    if not measured.sites:
        return _NONE
    return f"{measured.bytes_up / 1e3:.1f} / {measured.bytes_down / 1e3:.1f} kB"


def _watts(measured: Measured) -> str:
    board = measured.board or {}
    if board.get("power_w_mean") is None:
        return _NONE
    return f"{board['power_w_mean']:.1f} / {board['power_w_peak']:.1f} W"


def _peak(measured: Measured) -> str:
    return _NONE if measured.peak_bytes is None else f"{measured.peak_bytes / 1e6:.0f} MB"


_ROWS: Mapping[str, Callable[[Measured], str]] = {
    "frames/s, one after another": lambda measured: f"{measured.fps:.1f}",
    "frames/s, overlapped as run does": lambda measured: f"{measured.overlapped.fps:.1f}",
    "windows a frame (at the edge)": _windows,
    "bytes a frame, up / down": _bytes,
    "board, mean / peak power": _watts,
    "peak memory of this process": _peak,
}


def lines(report: Report) -> Iterator[str]:
    """The sentences under the table."""
    for measured in report.ways:
        title = TITLES[measured.way]
        yield f"{title}, one after another, is limited by {limit(measured)}"
        yield f"{title}, overlapped, is limited by {measured.overlapped.limited_by}"
    if len(report.ways) == 2:
        local, offloaded = report.ways
        ratio = np.median(offloaded.seconds[FRAME]) / np.median(local.seconds[FRAME])
        yield f"a frame offloaded takes {ratio:.2f} times as long as all local"
    elif report.ways[0].way == LOCAL:
        yield ONLY_LOCAL
    else:
        yield NOT_LOCAL.format(report.bundle.path)
    yield from report.notes
    if any(measured.sites for measured in report.ways):
        yield SENT


def to_json(report: Report) -> str:
    """All of a report; times in milliseconds, sizes in bytes, rates in megabits a second."""
    bundle = report.bundle
    return json.dumps(
        {
            "pedsam": version("pedsam"),
            "machine": dict(report.machine),
            "bundle": {
                "model": bundle.geometry.name,
                "weights": bundle.weights,
                "site_digest": bundle.site_digest,
                "sha256": sha256(bundle.path / MANIFEST),
            },
            "wire": report.wire,
            "frame": {"height": report.size[0], "width": report.size[1]},
            "ways": {measured.way: _way_json(measured) for measured in report.ways},
            "notes": list(report.notes),
        },
        indent=1,
    )


def _way_json(measured: Measured) -> dict[str, Any]:
    return {
        "runs": measured.runs,
        "ms": {name: spread(seconds) for name, seconds in measured.seconds.items()},
        "ahead_ms": spread(measured.ahead_s) if any(measured.ahead_s) else None,
        "fps": round(measured.fps, 3),
        "limited_by": limit(measured),
        "overlapped": asdict(measured.overlapped),
        "windows": measured.windows,
        "windows_at_edge": measured.at_edge,
        "bytes_up": round(measured.bytes_up, 1),
        "bytes_down": round(measured.bytes_down, 1),
        "backend": dict(measured.backend),
        "board": measured.board,
        "peak_memory_bytes": measured.peak_bytes,
        "sites": {site.name: _site_json(measured, site) for site in measured.sites},
    }


def _site_json(measured: Measured, site: SiteShare) -> dict[str, Any]:
    return {
        "operator": site.operator,
        "windows": site.windows,
        "bytes_up": round(site.bytes_up, 1),
        "bytes_down": round(site.bytes_down, 1),
        "ms": spread(site.seconds) if site.seconds else None,
        "line_ms": round(measured.line_s(site) * 1e3, 3),
        "round_trip_ms": round(site.line.round_trip_s * 1e3, 3),
        "up": asdict(site.line.up) if site.line.up else None,
        "down": asdict(site.line.down) if site.line.down else None,
    }
