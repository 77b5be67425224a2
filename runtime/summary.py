"""What a run reports: `summary.json` and the table that ends it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runtime.dispatch import Dispatcher
from runtime.loop import STEPS, Measured
from runtime.sinks import writing
from stages.bundle import Bundle

_WHERE = {
    "read": "reading and resizing frames",
    "windows": "the window stage",
    "global": "the global stage at the edge",
    "decode": "the mask decoder at the edge",
    "write": "drawing and writing results",
}


def summarise(bundle: Bundle, dispatcher: Dispatcher, measured: Measured, wire_format: str) -> dict[str, Any]:
    """The content of summary.json: milliseconds, and bytes of message bodies with those of probes."""
    clients = [client for client, _ in dispatcher.sites]
    counts = dispatcher.statistics
    done = measured.frames - len(measured.lost)
    return {
        "model": bundle.geometry.name,
        "weights": bundle.weights,
        "wire": wire_format,
        "frames": measured.frames,
        "frames_lost": len(measured.lost),
        "lost": {str(number): reason for number, reason in measured.lost.items()},
        "fps": round(done / measured.wall_s, 3) if measured.wall_s else 0.0,
        "latency_ms": {name: _percentiles(values) for name, values in measured.seconds.items() if values},
        "bytes_up": sum(client.bytes_up for client in clients),
        "bytes_down": sum(client.bytes_down for client in clients),
        "windows_sent_per_frame": _per_frame(counts.windows_sent, measured.frames),
        "windows_skipped_as_padding": _per_frame(counts.windows_skipped, measured.frames),
        "windows_run_at_edge": counts.local_windows,
        "windows_redispatched": counts.redispatched,
        "sites": {
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
        },
        "messages": counts.messages,
        "limited_by": limited_by(measured, bool(clients)),
    }


def limited_by(measured: Measured, through_sites: bool) -> str:
    """The step a frame spends most time in, which bounds the frames per second of the pipeline."""
    means = {name: float(np.mean(measured.seconds[name])) for name in STEPS if measured.seconds[name]}
    if not means:
        return "nothing: no frame was completed"
    slowest = max(means, key=lambda name: means[name])
    where = _WHERE[slowest]
    if slowest == "windows":
        where += " at the sites" if through_sites else " at the edge"
    return f"{where}: {means[slowest] * 1e3:.0f} ms of every frame"


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
    if summary["windows_run_at_edge"]:
        rows.append(("windows run at the edge", str(summary["windows_run_at_edge"])))
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


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    p50, p95 = np.percentile(seconds, [50, 95])
    return {"p50": round(float(p50) * 1e3, 2), "p95": round(float(p95) * 1e3, 2)}


def _per_frame(count: int, frames: int) -> float:
    return round(count / frames, 2) if frames else 0.0
