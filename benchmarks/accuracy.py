"""The accuracy table: mean IoU of one model in every form it takes, windows through three real sites.

    python -m benchmarks.accuracy --original W.safetensors --reordered BUNDLE --distilled BUNDLE \\
        --data FOLDER --out results.json

ORIGINAL are the weights in SAM's own block order (run by PyTorch, unsplit), REORDERED is a bundle of the same
weights, DISTILLED the bundle that was taught by them.
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
from runtime.demo import PEDSAM, three_sites

BLURS = (10, 20)  # sigma, pixels of a longest side of 1024


@click.command()
@click.option("--original", type=click.Path(path_type=Path), required=True)
@click.option("--reordered", type=click.Path(path_type=Path), required=True)
@click.option("--distilled", type=click.Path(path_type=Path), required=True)
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--limit", type=click.IntRange(1), help="So many pictures  [default: all]")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(
    original: Path,
    reordered: Path,
    distilled: Path,
    data: Path,
    limit: int | None,
    out: Path,
) -> None:
    """Measure every row and write them to OUT, with the table as Markdown on standard output."""
    with tempfile.TemporaryDirectory() as scratch:
        measure = Measurement(data, limit, Path(scratch))
        measure.row("original block order", "--checkpoint", str(original))
        measure.through_sites(reordered, {"the same weights, reordered": ()})
        rows = {"reordered and distilled": ("--wire", "fp16"), "the same, int8 wire": ("--wire", "int8")}
        rows |= {f"the same, input blurred, sigma {sigma}": ("--blur", str(sigma)) for sigma in BLURS}
        measure.through_sites(distilled, rows)
    retained = retention(measure.rows)
    result = {"machine": describe(), "retention": retained, "rows": measure.rows}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    click.echo(markdown(measure.rows))


class Measurement:
    """Runs `pedsam evaluate` once a row; `rows` maps its name to its report."""

    def __init__(self, data: Path, limit: int | None, scratch: Path) -> None:
        self.rows: dict[str, Any] = {}
        self._common = ["--data", str(data), "--no-sheet", *(["--limit", str(limit)] if limit else [])]
        self._scratch = scratch

    def row(self, name: str, *options: str) -> None:
        out = self._scratch / f"row{len(self.rows)}"
        subprocess.run([*PEDSAM, "evaluate", *self._common, "--out", str(out), *options], check=True)
        self.rows[name] = json.loads((out / "report.json").read_text())

    def through_sites(self, bundle: Path, rows: Mapping[str, tuple[str, ...]]) -> None:
        """Rows of one bundle, its windows through three sites."""
        with three_sites(bundle, self._scratch) as running:
            for name, options in rows.items():
                self.row(
                    name, "--bundle", str(bundle), "--sites", str(running.toml), "--new-session", *options
                )


def retention(rows: dict[str, Any]) -> dict[str, float]:
    """Mean IoU of the distilled model over that of the original order, by prompt kind."""
    teacher = rows["original block order"]["miou"]
    return {kind: rows["reordered and distilled"]["miou"][kind] / value for kind, value in teacher.items()}


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
