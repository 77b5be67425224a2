"""The accuracy table: mean IoU of one model in every form it takes, windows through three real sites.

    python -m benchmarks.accuracy --original W.safetensors --reordered BUNDLE --distilled BUNDLE \\
        --shipped BUNDLE --mobile-sam mobile_sam.pt --data FOLDER --out results.json

ORIGINAL are the weights in SAM's own block order (run by PyTorch, unsplit), REORDERED is a bundle of the same
weights, DISTILLED the bundle that was taught by them, SHIPPED the one that comes with pedsam. MobileSAM is
the peer: unsplit, on the device, at 1024 pixels. Rows of what is not given stay as they are in OUT.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import describe
from runtime.demo.demo import PEDSAM, three_sites

ORIGINAL, REORDERED = "original block order", "the same weights, reordered"
DISTILLED, SHIPPED = "reordered and distilled", "as shipped"
MOBILE_SAM = "MobileSAM, 1024 pixels, unsplit"
BLURS = (10, 20)  # sigma, pixels of a longest side of 1024


@click.command()
@click.option("--original", type=click.Path(path_type=Path))
@click.option("--reordered", type=click.Path(path_type=Path))
@click.option("--distilled", type=click.Path(path_type=Path))
@click.option("--shipped", type=click.Path(path_type=Path))
@click.option("--mobile-sam", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--limit", type=click.IntRange(1), help="So many pictures  [default: all]")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(
    original: Path | None,
    reordered: Path | None,
    distilled: Path | None,
    shipped: Path | None,
    mobile_sam: Path | None,
    data: Path,
    limit: int | None,
    out: Path,
) -> None:
    """Measure every row and write them to OUT, with the table as Markdown on standard output."""
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"] if out.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        measure = Measurement(data, limit, Path(scratch), rows)
        if original:
            measure.row(ORIGINAL, "--checkpoint", str(original))
        if reordered:
            measure.through_sites(reordered, {REORDERED: ()})
        if distilled:
            measure.through_sites(distilled, {DISTILLED: ()})
        if shipped:
            forms = {SHIPPED: (), f"{SHIPPED}, fp16 wire": ("--wire", "fp16")}
            forms |= {f"{SHIPPED}, input blurred, sigma {sigma}": ("--blur", str(sigma)) for sigma in BLURS}
            measure.through_sites(shipped, forms)
        if mobile_sam:
            measure.row(MOBILE_SAM, "--checkpoint", str(mobile_sam))
    result = {"machine": describe(), "retention": retention(rows), "rows": rows}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(markdown(rows))


class Measurement:
    """Runs `pedsam evaluate` once a row and puts its report into `rows` under its name."""

    def __init__(self, data: Path, limit: int | None, scratch: Path, rows: dict[str, Any]) -> None:
        self.rows = rows
        self._common = ["--data", str(data), "--no-sheet", *(["--limit", str(limit)] if limit else [])]
        self._scratch = scratch

    def row(self, name: str, *options: str) -> None:
        out = Path(tempfile.mkdtemp(dir=self._scratch))
        subprocess.run([*PEDSAM, "evaluate", *self._common, "--out", str(out), *options], check=True)
        self.rows[name] = json.loads((out / "report.json").read_text(encoding="utf-8"))

    def through_sites(self, bundle: Path, rows: Mapping[str, tuple[str, ...]]) -> None:
        """Rows of one bundle, its windows through three sites."""
        with three_sites(bundle, self._scratch) as running:
            for name, options in rows.items():
                self.row(
                    name, "--bundle", str(bundle), "--sites", str(running.toml), "--new-session", *options
                )


def retention(rows: dict[str, Any]) -> dict[str, float]:
    """Mean IoU of the distilled model over that of the original order, by prompt kind."""
    if not {ORIGINAL, DISTILLED} <= rows.keys():
        return {}
    teacher = rows[ORIGINAL]["miou"]
    return {kind: rows[DISTILLED]["miou"][kind] / value for kind, value in teacher.items()}


def markdown(rows: dict[str, Any]) -> str:
    """The rows, and the two floors that need no model."""
    lines = ["| | box | one point |", "| --- | --- | --- |"]
    for name, report in rows.items():
        lines.append(f"| {name} | {_cell(report, 'box')} | {_cell(report, 'point')} |")
    floors = next(iter(rows.values()))["floors"]
    lines += [f"| floor: the {name} as mask | {value:.3f} | |" for name, value in floors.items()]
    return "\n".join(lines)


def _cell(report: dict[str, Any], kind: str) -> str:
    low, high = report["interval95"][kind]
    return f"{report['miou'][kind]:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
