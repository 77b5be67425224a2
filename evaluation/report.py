"""What an evaluation leaves: `report.json`, `instances.csv` and a table."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from evaluation.masks import FLOORS
from evaluation.model import Model, Subject
from evaluation.options import EvaluateOptions
from evaluation.results import Instance, Measured
from evaluation.statistics import interval95, percentiles_ms, share_over_half
from stages.files import replace_file, writing
from stages.text_files import escaped
from training.tally import Tally

REPORT = "report.json"
INSTANCES = "instances.csv"


def make_report(
    subject: Subject, options: EvaluateOptions, model: Model, measured: Measured, tally: Tally
) -> dict[str, Any]:
    """The content of report.json. IoU are means over instances, `latency_ms` is a picture's; `read` and
    `left_out` count what was found in the data, not only what --limit drew."""
    instances = measured.instances
    pictures = [each.picture for each in instances]
    kinds = {kind: [each.ious[kind] for each in instances] for kind in options.prompts}
    floors = {floor: [each.floors[floor] for each in instances] for floor in FLOORS}
    return {
        "miou": _means(kinds),
        "interval95": _intervals(kinds, pictures, options.seed),
        "share_over_half": _shares(kinds),
        "floors": _means(floors),
        "floors_interval95": _intervals(floors, pictures, options.seed),
        "floors_share_over_half": _shares(floors),
        "instances": len(instances),
        "pictures": len(set(pictures)),
        "how": model.how,
        "wire": model.wire,
        "blur": options.blur,
        "subject": dict(subject.facts),
        "latency_ms": {
            "encode": percentiles_ms(measured.encode_s),
            "decode": percentiles_ms(measured.decode_s),
        },
        "data": escaped(options.data.resolve().name),
        "read": dict(tally.read),
        "left_out": tally.left_out(),
        "limit": options.limit,
        "seed": options.seed,
        "machine": machine(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def write_report(out: Path, report: Mapping[str, Any], instances: Sequence[Instance]) -> None:
    """Write instances.csv and, last, report.json into a folder; each appears whole or not at all."""
    _replace(out / INSTANCES, _csv(instances))
    _replace(out / REPORT, json.dumps(report, indent=1) + "\n")


def print_report(console: Console, report: Mapping[str, Any]) -> None:
    """A table of prompt kinds and floors, and the time a picture takes."""
    table = Table("prompt", title=f"{title_of(report)}; {report['pictures']} pictures", title_justify="left")
    for heading in ("mean IoU", "95 % interval", "instances", "IoU >= 0.5"):
        table.add_column(heading, justify="right")
    for prefix, means, label in (("", "miou", "{}"), ("floors_", "floors", "floor: {} as mask")):
        for name, mean in report[means].items():
            interval = report[f"{prefix}interval95"][name]
            share = report[f"{prefix}share_over_half"][name]
            between = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "one picture"
            row = (f"{mean:.3f}", between, str(report["instances"]), f"{100 * share:.0f} %")
            table.add_row(label.format(name), *row)
    console.print(table)
    for what, times in report["latency_ms"].items():
        console.print(f"{what} a picture, p50 / p95: {times['p50']:.0f} / {times['p95']:.0f} ms")


def title_of(report: Mapping[str, Any]) -> str:
    """What was measured, in a line: "mini (distilled weights), sites, fp16 wire, blur 4"."""
    parts = [report["subject"]["description"], report["how"]]
    parts += [f"{report['wire']} wire"] if report["wire"] else []
    parts += [f"blur {report['blur']:g}"] if report["blur"] else []
    return ", ".join(parts)


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: float(np.mean(each)) for name, each in values.items()}


def _intervals(
    values: Mapping[str, Sequence[float]], pictures: Sequence[int], seed: int
) -> dict[str, tuple[float, float] | None]:
    return {name: interval95(each, pictures, seed) for name, each in values.items()}


def _shares(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: share_over_half(each) for name, each in values.items()}


def _csv(instances: Sequence[Instance]) -> str:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    kinds = list(instances[0].ious)
    heads = [f"iou_{kind}" for kind in kinds] + [f"floor_{floor}" for floor in FLOORS]
    lines.writerow(["picture", "instance", "area_share", *heads])
    for each in instances:
        values = [each.area_share, *(each.ious[k] for k in kinds), *(each.floors[f] for f in FLOORS)]
        lines.writerow([escaped(each.name), each.number, *(f"{value:.6f}" for value in values)])
    return text.getvalue()


def _replace(path: Path, text: str) -> None:
    with writing(path):
        replace_file(path, text)


def machine() -> dict[str, Any]:
    """What it was measured on."""
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: version(name) for name in ("onnxruntime", "numpy")},
    }
