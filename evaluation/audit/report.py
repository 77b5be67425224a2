"""What an audit leaves: `audit.json` and a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from evaluation.audit.attacks import BEST
from evaluation.audit.mae import VITMAE
from evaluation.audit.measures import Result
from evaluation.audit.options import AuditOptions
from evaluation.audit.pictures import Data
from evaluation.report import machine
from stages.files import replace_file, writing
from stages.text_files import escaped
from training.tally import Tally

REPORT = "audit.json"
# Headings of the table and their figures: of shares, and of pixels.
SHARES = {
    "area": "area",
    "objects": "objects_held",
    "faces found": "faces_found",
    "recognised": "faces_recognised",
    "words": "words_read",
}
PIXELS = {
    "hidden, dB": f"psnr_{BEST}",
    "ViTMAE, dB": f"psnr_{VITMAE}",
    "mean colour, dB": "psnr_mean_colour",
    "given, dB": "psnr_given",
}


def make_report(
    options: AuditOptions, data: Data, results: Sequence[Result], tally: Tally, **more: Any
) -> dict[str, Any]:
    """The content of audit.json; `more` are what was measured besides."""
    return {
        "subject": options.described,
        "canvas_px": options.geometry.image_size,
        "tile_px": options.geometry.tile_px,
        "grid": options.geometry.grid,
        "data": escaped(options.data.resolve().name),
        "kind": "video" if data.is_video else "pictures",
        "pictures": len(data.samples),
        "limit": options.limit,
        "seed": options.seed,
        "failures": options.failures,
        "keep": list(options.keep),
        "keep_px": options.keep_px if options.keep else None,
        "keep_boxes": [list(box) for box in options.keep_boxes],
        "keep_for_session": options.keep_for_session,
        "results": [_result(each, options, data) for each in results],
        **more,
        "read": dict(tally.read),
        "left_out": tally.left_out(),
        "machine": machine(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def _result(result: Result, options: AuditOptions, data: Data) -> dict[str, Any]:
    return {
        "setting": result.setting,
        "operators": result.operators,
        "coalition": result.coalition,
        "code": result.code,
        "largest_share_of_positions": result.positions,
        "figures": result.figures.summary(options.seed, intervals=not data.is_video),
        "sent": result.sent,
    }


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """It appears whole or not at all."""
    with writing(path):
        replace_file(path, json.dumps(report, indent=1) + "\n")


def print_report(console: Console, report: Mapping[str, Any]) -> None:
    """A line for each setting, coalition and code."""
    title = f"{report['subject']}; {report['pictures']} {_what(report)}: what some operator could learn"
    if report["keep"] or report["keep_boxes"]:
        title += f"; kept: {', '.join([*report['keep'], *(['boxes'] if report['keep_boxes'] else [])])}"
    table = Table("setting", "tiles", title=title, title_justify="left")
    shown = {
        heading: figure
        for heading, figure in {**SHARES, **PIXELS}.items()
        if any(figure in each["figures"] for each in report["results"])
    }
    for heading in shown:
        table.add_column(heading, justify="right")
    for each in report["results"]:
        name = each["setting"] + (f", {each['coalition']} together" if each["coalition"] > 1 else "")
        cells = (_cell(each["figures"].get(figure), figure) for figure in shown.values())
        table.add_row(name, each["code"], *cells)
    console.print(table)
    if report.get("mosaic"):
        _print_mosaic(console, report["mosaic"])
    if report.get("embeddings"):
        _print_embeddings(console, report["embeddings"])


def _print_mosaic(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(
        "setting", "tiles", title="the operator with most, by frames registered", title_justify="left"
    )
    for heading in ("frames", "of the first frame covered", "and right"):
        table.add_column(heading, justify="right")
    for row in rows:
        shares = (f"{row[name]:.2f}" for name in ("covered_most", "recovered_most"))
        table.add_row(row["setting"], row["code"], str(row["frames"]), *shares)
    console.print(table)


def _print_embeddings(console: Console, figures: Mapping[str, Any]) -> None:
    psnr, ssim = figures["psnr"], figures["ssim"]
    console.print(
        f"windows rebuilt from the embeddings that come back, by one linear map: PSNR {psnr['mean']:.1f} dB, "
        f"SSIM {ssim['mean']:.2f} ({psnr['values']} windows)"
    )


def _what(report: Mapping[str, Any]) -> str:
    if report["kind"] == "video":
        return "frames"
    return "picture" if report["pictures"] == 1 else "pictures"


def _cell(summary: Mapping[str, Any] | None, figure: str) -> str:
    if summary is None:
        return ""
    if summary["mean"] is None:
        return "exact"
    digits = 1 if figure in PIXELS.values() else 2
    return f"{summary['mean']:.{digits}f}"
