"""What a run reports: `summary.json` and the table that ends it."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from runtime.edge import Edge
from runtime.results.measurements import (
    EDGE_WINDOWS,
    QUEUE,
    WAITS,
    RunMeasurements,
    Series,
)
from runtime.sites.traffic import gigabytes_an_hour
from stages.bundle import Bundle
from stages.errors import FramesLost, InputError, Stopped
from stages.files import replace_file, writing
from stages.stops import exit_code
from stages.text_files import escaped


def summarise(
    bundle: Bundle,
    edge: Edge,
    measured: RunMeasurements,
    dropped: int,
    board: Mapping[str, Any] | None = None,
    price_per_gb: float | None = None,
) -> dict[str, Any]:
    """The content of summary.json, whose keys docs/live.md explains: milliseconds, and bytes with those of
    probes; gigabytes an hour are at the rate of this run, heads included.

    `dropped` frames came too fast and were never looked at; of the others, `frames_bare` passed through
    without being segmented and `frames_carried` had their masks moved along. `board` is Board.summary. The
    edge is closed.
    """
    counts, traffic = edge.encoder.statistics, edge.encoder.traffic
    done = measured.frames - measured.lost.count
    return {
        "model": bundle.geometry.name,
        "weights": bundle.weights,
        "tiles": bundle.sent_as,
        "components": bundle.components,
        "wire": edge.wire_format,
        "frames": measured.frames,
        "frames_lost": measured.lost.count,
        "frames_bare": measured.unsegmented,
        "frames_carried": measured.carried,
        "frames_dropped": dropped,
        "lost": {escaped(name): escaped(reason) for name, reason in measured.lost.reasons.items()},
        "fps": round(done / measured.wall_s, 3) if measured.wall_s else 0.0,
        "latency_ms": {
            name: _percentiles(values)
            for name, values in measured.seconds.items()
            if values and name not in WAITS
        },
        "bytes_up": traffic.body_up,
        "bytes_down": traffic.body_down,
        "head_bytes_up": traffic.head_up,
        "head_bytes_down": traffic.head_down,
        "requests": traffic.requests,
        **_hourly(measured, price_per_gb),
        "windows_sent_per_frame": _per_frame(counts.windows_sent, counts.canvases),
        "windows_skipped_as_padding": _per_frame(counts.windows_skipped, counts.canvases),
        "windows_reused": counts.windows_reused,
        "windows_hedged": counts.hedged,
        "windows_run_at_edge": counts.local_windows,
        "kept_windows": sorted(edge.ledger.kept),
        "kept_windows_run": counts.kept_windows,
        "kept_found": dict(edge.keeper.found),
        "kept_windows_per_frame": _per_frame(counts.kept_windows, counts.canvases),
        "kept_ms_per_frame": _per_frame(1e3 * counts.kept_windows * _window_s(edge), counts.canvases),
        "windows_redispatched": counts.redispatched,
        "sites": _sites(edge),
        "limited_by": measured.limited_by(edge.served_by_sites),
        "doubtful": [doubt.to_json() for doubt in edge.encoder.doubts.all],
        "frames_doubtful": edge.encoder.doubts.frames,
        "board": board,
        "ledger_unwritten": edge.ledger.unwritten,
    }


def _window_s(edge: Edge) -> float:
    """Seconds of the edge's engine that a window takes; 0 without one."""
    local = edge.encoder.windows.local
    return local.mean_s if local is not None else 0.0


def _hourly(measured: RunMeasurements, price_per_gb: float | None) -> dict[str, float | None]:
    """What an hour of this takes; clouds bill what leaves them, which is what comes down from the sites."""
    up, down = (
        gigabytes_an_hour(size, measured.wall_s) for size in (measured.traffic.up, measured.traffic.down)
    )
    return {
        "gigabytes_an_hour_up": round(up, 4),
        "gigabytes_an_hour_down": round(down, 4),
        "price_an_hour": None if price_per_gb is None else round(down * price_per_gb, 4),
    }


def _sites(edge: Edge) -> dict[str, Any]:
    """Each site by its name: what it did and what its operator has seen."""
    return {
        site.name: {
            "operator": site.operator,
            "state": site.health.value,
            "failures": site.failures,
            "windows_seen": sorted(site.client.sent),
            "tiles_served": site.client.tiles,
            "tile_ms": round(site.client.tile_s * 1e3, 2),
            "operator_exposure": sorted(edge.ledger.exposure(site.operator)),
            "operator_cap": edge.ledger.cap(site.operator),
            "picture_share": round(edge.areas.share(edge.ledger.exposure(site.operator)), 4),
            "spot_checks": edge.spot_checks.checks[site.name] if edge.spot_checks else None,
        }
        for site in edge.sites
    }


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    with writing(path):
        replace_file(path, json.dumps(summary, indent=1) + "\n")


def check_done(summary: Mapping[str, Any], complete: bool = True) -> None:
    """Raises InputError when the run did nothing, Stopped when that was because of a signal, InputError when
    its ledger could not be written at the end, and FramesLost when frames are lost of a run that was to be
    `complete`: one in which viewers looked at frames has no results."""
    nothing, frames, lost = (summary[key] for key in ("nothing_done", "frames", "frames_lost"))
    if nothing is not None and summary["stopped"] is not None and not frames:
        raise Stopped(nothing, exit_code(signal.Signals[summary["stopped"]]))
    if nothing is not None:
        raise InputError(nothing)
    if (unwritten := summary["ledger_unwritten"]) is not None:
        raise InputError(f"{unwritten}; its masks and results are kept")
    if lost and complete:
        raise FramesLost(f"the results are not complete: {lost} of {frames} frames are lost")


def print_summary(console: Console, summary: Mapping[str, Any]) -> None:
    """A short table and, last, what limited the speed."""
    table = Table(
        title=(
            f"{summary['model']}, {summary['weights']} weights, {summary['tiles']}, "
            f"{summary['components']} x {summary['wire']}"
        ),
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


_STEPS = {QUEUE: "waiting for the engines", EDGE_WINDOWS: "engine on windows"}  # others are called so
_IF_LONG = ("track", QUEUE, EDGE_WINDOWS)  # some runs have nothing of it
_IF_ANY = {
    "frames_dropped": "frames dropped for newer ones",
    "frames_bare": "frames not segmented",
    "frames_carried": "frames whose masks were carried",
    "frames_doubtful": "frames in doubt, for a site lied",
    "windows_reused": "windows unchanged, not sent again",
    "windows_hedged": "windows sent to a second site",
    "windows_run_at_edge": "windows run at the edge",
    "kept_windows_run": "kept windows run at the edge",
}


def _rows(summary: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    latency = summary["latency_ms"]
    rows = [
        ("frames (lost)", f"{summary['frames']} ({summary['frames_lost']})"),
        ("frames per second", f"{summary['fps']:.2f}"),
        *(
            (f"{_STEPS.get(name, name)} p50 / p95", f"{v['p50']:.0f} / {v['p95']:.0f} ms")
            for name, v in latency.items()
            if name not in _IF_LONG or v["p95"] >= 0.5
        ),
        (
            "windows sent a frame (padding, not sent)",
            f"{summary['windows_sent_per_frame']:g} ({summary['windows_skipped_as_padding']:g})",
        ),
    ]
    rows += _traffic_rows(summary)
    rows += [(label, str(summary[key])) for key, label in _IF_ANY.items() if summary.get(key)]
    if kept := summary.get("kept_windows"):
        rows.append(("windows kept at the edge", " ".join(map(str, kept))))
    if found := summary.get("kept_found"):
        rows.append(("found and kept", ", ".join(f"{kind} {number}" for kind, number in found.items())))
    rows += _board_rows(summary.get("board") or {})
    if summary.get("iou_with_unsplit") is not None:  # None: there was no mask to compare
        rows.append(("IoU with the unsplit model (lowest)", f"{summary['iou_with_unsplit']:.5f}"))
    return rows


def _traffic_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not summary["sites"]:
        return []
    unit, size = ("MB", 1e6) if summary["bytes_up"] >= 1e6 else ("kB", 1e3)
    sent = f"{summary['bytes_up'] / size:.1f} / {summary['bytes_down'] / size:.1f} {unit}"
    rows = [("sent up / down", sent)]
    if "head_bytes_up" in summary:  # summaries of earlier versions know no more
        up, down = (summary[f"gigabytes_an_hour_{way}"] for way in ("up", "down"))
        heads = f"{summary['head_bytes_up'] / 1e3:.0f} / {summary['head_bytes_down'] / 1e3:.0f} kB"
        rows += [("  and heads of HTTP", heads), ("an hour of this, up / down", f"{up:.2f} / {down:.2f} GB")]
    if summary.get("price_an_hour") is not None:
        rows.append(("price of an hour's way down", f"{summary['price_an_hour']:.2f}"))
    return rows


def _board_rows(board: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the board did, as far as it was told."""
    rows = []
    if board.get("temperature_c_peak") is not None:
        zone = f"{board['temperature_c_peak']:.0f} °C ({board['temperature_zone_peak']})"
        rows.append(("board, warmest", zone))
    if board.get("power_w_mean") is not None:
        watts = f"{board['power_w_mean']:.1f} / {board['power_w_peak']:.1f} W"
        rows.append(("board, mean / peak power", watts))
    if board.get("memory_available_mb_least") is not None:
        rows.append(("board, least memory available", f"{board['memory_available_mb_least']} MB"))
    for kind, count in board.get("throttle_events", {}).items():
        if count:
            rows.append((f"board throttled: {kind}", f"{count} times"))
    return rows


def _site_table(sites: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table("site", "operator", "state", "tiles served", "windows seen", "of cap")
    for name, site in sites.items():
        seen = " ".join(map(str, site["windows_seen"])) or "none"
        share = f"{len(site['operator_exposure'])} of {site['operator_cap']}"
        table.add_row(
            Text(name), Text(site["operator"]), _state(site), str(site["tiles_served"]), seen, share
        )
    table.caption = "Exposure counts window positions; with a moving camera, content moves through positions."
    table.caption_justify = "left"
    return table


def _state(site: Mapping[str, Any]) -> str:
    return f"{site['state']} ({site['failures']})" if site["state"] == "failing" else str(site["state"])


def _percentiles(seconds: Series) -> dict[str, float]:
    return {name: round(value * 1e3, 2) for name, value in seconds.percentiles().items()}


def _per_frame(count: float, frames: int) -> float:
    return round(count / frames, 2) if frames else 0.0
