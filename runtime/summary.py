"""What a run reports: `summary.json` and the table that ends it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from runtime.dispatch import Dispatcher
from runtime.measure import WAITS, Measured, Series, limited_by
from runtime.sinks import writing
from stages.bundle import Bundle


def summarise(
    bundle: Bundle, dispatcher: Dispatcher, measured: Measured, wire_format: str, dropped: int
) -> dict[str, Any]:
    """The content of summary.json: milliseconds, and bytes of message bodies with those of probes.

    `dropped` frames came too fast and were never looked at; of the others, `frames_bare` passed through
    without being segmented and `frames_carried` had their masks moved along.
    """
    clients = [client for client, _ in dispatcher.sites]
    counts = dispatcher.statistics
    done = measured.frames - measured.lost.count
    return {
        "model": bundle.geometry.name,
        "weights": bundle.weights,
        "wire": wire_format,
        "frames": measured.frames,
        "frames_lost": measured.lost.count,
        "frames_bare": measured.bare,
        "frames_carried": measured.carried,
        "frames_dropped": dropped,
        "lost": {str(number): reason for number, reason in measured.lost.reasons.items()},
        "fps": round(done / measured.wall_s, 3) if measured.wall_s else 0.0,
        "latency_ms": {
            name: _percentiles(values)
            for name, values in measured.seconds.items()
            if values and name not in WAITS
        },
        "bytes_up": sum(client.bytes_up for client in clients),
        "bytes_down": sum(client.bytes_down for client in clients),
        "windows_sent_per_frame": _per_frame(counts.windows_sent, counts.canvases),
        "windows_skipped_as_padding": _per_frame(counts.windows_skipped, counts.canvases),
        "windows_reused": counts.windows_reused,
        "windows_hedged": counts.hedged,
        "windows_run_at_edge": counts.local_windows,
        "windows_redispatched": counts.redispatched,
        "sites": _sites(dispatcher),
        "messages": list(counts.messages),
        "limited_by": limited_by(measured.seconds, bool(clients), measured.in_flight, measured.in_turn),
    }


def _sites(dispatcher: Dispatcher) -> dict[str, Any]:
    """Each site by its name: what it did and what its operator has seen."""
    return {
        client.name: {
            "operator": client.config.operator,
            "state": state.value,
            "windows_seen": sorted(client.sent),
            "tiles_served": client.tiles,
            "tile_ms": round(client.tile_s * 1e3, 2),
            "operator_exposure": sorted(dispatcher.ledger.exposure(client.config.operator)),
            "operator_cap": dispatcher.ledger.cap(client.config.operator),
        }
        for client, state in dispatcher.sites
    }


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with writing(path):
        temporary.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)


def print_summary(console: Console, summary: Mapping[str, Any]) -> None:
    """A short table and, last, what limited the speed."""
    table = Table(
        title=f"{summary['model']}, {summary['weights']} weights, {summary['wire']} wire",
        title_justify="left",
        show_header=False,
    )
    table.add_column()
    table.add_column(justify="right")
    for label, value in _rows(summary):
        table.add_row(label, value)
    console.print(table)
    if summary["sites"]:
        console.print(_site_table(summary["sites"]))
    console.print(f"limited by {summary['limited_by']}")


_IF_ANY = {
    "frames_dropped": "frames dropped for newer ones",
    "frames_bare": "frames not segmented",
    "frames_carried": "frames whose masks were carried",
    "windows_reused": "windows unchanged, not sent again",
    "windows_hedged": "windows asked of a second site",
    "windows_run_at_edge": "windows run at the edge",
}


def _rows(summary: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    latency = summary["latency_ms"]
    rows = [
        ("frames (lost)", f"{summary['frames']} ({summary['frames_lost']})"),
        ("frames per second", f"{summary['fps']:.2f}"),
        *((f"{name} p50 / p95", f"{v['p50']:.0f} / {v['p95']:.0f} ms") for name, v in latency.items()),
        (
            "windows sent a frame (padding, not sent)",
            f"{summary['windows_sent_per_frame']:g} ({summary['windows_skipped_as_padding']:g})",
        ),
        ("sent up / down", f"{summary['bytes_up'] / 1e6:.1f} / {summary['bytes_down'] / 1e6:.1f} MB"),
    ]
    rows += [(label, str(summary[key])) for key, label in _IF_ANY.items() if summary.get(key)]
    if summary.get("iou_with_unsplit") is not None:  # None: there was no mask to compare
        rows.append(("IoU with the unsplit model (lowest)", f"{summary['iou_with_unsplit']:.5f}"))
    return rows


def _site_table(sites: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table("site", "operator", "state", "tiles served", "windows seen", "of cap")
    for name, site in sites.items():
        seen = " ".join(map(str, site["windows_seen"])) or "none"
        share = f"{len(site['operator_exposure'])} of {site['operator_cap']}"
        table.add_row(
            Text(name), Text(site["operator"]), site["state"], str(site["tiles_served"]), seen, share
        )
    table.caption = "Exposure counts window positions; with a moving camera, content moves through positions."
    table.caption_justify = "left"
    return table


def _percentiles(seconds: Series) -> dict[str, float]:
    return {name: round(value * 1e3, 2) for name, value in seconds.percentiles().items()}


def _per_frame(count: int, frames: int) -> float:
    return round(count / frames, 2) if frames else 0.0
