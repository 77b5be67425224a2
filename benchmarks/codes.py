"""What travels against what masks lose: codes of tiles (up) and components (down), each with each.

    python -m benchmarks.codes --checkpoint assets/mini.safetensors --photos FOLDER --data HELDOUT \\
        --tiles rgb --tiles dct:10/3 --components 192 --components 64 \\
        --out benchmarks/results/codes_mini.json

Nothing is trained: each pair is exported from the same weights by `pedsam export`, fitted to PHOTOS, which
must hold no picture of DATA, and measured by `pedsam evaluate` through three live sites with the bundle's own
wire. Bytes are those of message bodies for a frame of 16:9. `against` compares instance by instance with the
first row: its interval is that of the mean difference, pictures drawn with replacement. Rows of OUT that this
call does not name stay as they are; a call with other weights, pictures or first pair is refused.
"""

from __future__ import annotations

import csv
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import describe
from evaluation.report import INSTANCES, REPORT
from evaluation.statistics import interval95
from runtime.demo.demo import PEDSAM, three_sites
from runtime.sites.client import WIRE_OUTPUTS
from runtime.sites.traffic import message_bytes
from stages.bundle import Bundle, sha256
from stages.files import replace_file
from stages.geometry import GEOMETRIES

FRAME = (1080, 1920)
KINDS = ("box", "point")


@click.command()
@click.option("--model", default="mini", show_default=True)
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True)
@click.option("--photos", type=click.Path(path_type=Path), required=True)
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--tiles", multiple=True, required=True, help="Codes up, the first one and the first of")
@click.option("--components", type=int, multiple=True, required=True, help="those down are compared with.")
@click.option("--limit", type=click.IntRange(1), help="So many pictures  [default: all]")
@click.option("--here", is_flag=True, help="No sites: windows run in the edge's process, the same numbers.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(tiles: tuple[str, ...], components: tuple[int, ...], out: Path, **options: Any) -> None:
    """Measure every pair and write them to OUT, with the table as Markdown on standard output."""
    result = read_result(out, facts(options, tiles[0], components[0]))
    with tempfile.TemporaryDirectory() as scratch:
        measure = Measurement(Path(scratch), **options)
        for code in tiles:
            for count in components:
                add_row(result["rows"], measure.row(code, count))
                result |= {"machine": describe(), "table": markdown(result["rows"])}
                replace_file(out, json.dumps(result, indent=1) + "\n")
    click.echo("\n".join(result["table"]))


def facts(options: Mapping[str, Any], tiles: str, components: int) -> dict[str, Any]:
    """What rows must have in common to be compared: weights, pictures, and the first pair."""
    checkpoint: Path = options["checkpoint"]
    return {
        "checkpoint": checkpoint.name,
        "sha256": sha256(checkpoint) if checkpoint.is_file() else None,
        "data": options["data"].name,
        "limit": options["limit"],
        "first": [tiles, components],
    }


def read_result(out: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What OUT holds, or what it begins with. Raises UsageError where its rows differ in one of `facts`."""
    if not out.exists():
        return {**facts, "rows": []}
    result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    for name, value in facts.items():
        if name not in result or result[name] != value:
            raise click.UsageError(
                f"{out} holds rows with {name} {result.get(name)!r:.80}, this call has {value!r:.80}; give "
                "another --out"
            )
    return result


class Measurement:
    """Exports pairs of codes and evaluates them. The first pair is what the others are compared with."""

    def __init__(
        self,
        scratch: Path,
        model: str,
        checkpoint: Path,
        photos: Path,
        data: Path,
        limit: int | None,
        here: bool,
    ) -> None:
        self._scratch = scratch
        self._export = ["--model", model, "--checkpoint", str(checkpoint)]
        self._photos = ["--photos", str(photos)]
        self._channels = GEOMETRIES[model].dim
        self._evaluate = ["--data", str(data), "--no-sheet", *(["--limit", str(limit)] if limit else [])]
        self._here = here
        self._first: list[Row] = []

    def row(self, tiles: str, components: int) -> dict[str, Any]:
        """One pair, exported and measured."""
        out = Path(tempfile.mkdtemp(dir=self._scratch))
        bundle = self._exported(tiles, components, out / "bundle")
        with self._sites(bundle.path, out) as sites:
            line = [
                "evaluate",
                "--bundle",
                str(bundle.path),
                *self._evaluate,
                *sites,
                "--out",
                str(out / "of"),
            ]
            subprocess.run([*PEDSAM, *line], check=True)
        report = json.loads((out / "of" / REPORT).read_text(encoding="utf-8"))
        instances = read_instances(out / "of" / INSTANCES)
        self._first = self._first or instances
        return {
            "tiles": tiles,
            "components": components,
            "variance_kept": bundle.variance_kept,
            "bytes_a_frame": frame_bytes(bundle, report["wire"]),
            "against_first": against(self._first, instances),
            **{name: report[name] for name in ("wire", "how", "miou", "interval95", "pictures", "instances")},
        }

    def _exported(self, tiles: str, components: int, out: Path) -> Bundle:
        line = ["export", *self._export, "--tiles", tiles, "--components", str(components)]
        fitted = self._photos if components < self._channels else []
        subprocess.run([*PEDSAM, *line, *fitted, "--out", str(out)], check=True)
        return Bundle.load(out)

    @contextmanager
    def _sites(self, bundle: Path, folder: Path) -> Iterator[list[str]]:
        """Options of `pedsam evaluate` while the sites run."""
        if self._here:
            yield []
            return
        with three_sites(bundle, folder) as running:
            yield ["--sites", str(running.toml), "--new-session"]


Row = dict[str, str]


def add_row(rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
    """Put a row into `rows`: where that of the same pair is, else at the end."""
    pairs = [(each["tiles"], each["components"]) for each in rows]
    pair = (row["tiles"], row["components"])
    place = pairs.index(pair) if pair in pairs else len(rows)
    rows[place : place + 1] = [row]


def read_instances(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def frame_bytes(bundle: Bundle, wire: str) -> dict[str, int]:
    """Bytes of the message bodies of a frame, up and down."""
    windows = len(bundle.geometry.windows_with_picture(*FRAME))
    each = message_bytes(bundle.stage("window"), WIRE_OUTPUTS[wire])
    return {"up": windows * each.up, "down": windows * each.down}


def against(first: Sequence[Row], instances: Sequence[Row]) -> dict[str, Any]:
    """Mean difference of IoU from those of `first`, instance by instance, with its interval."""
    names = [row["picture"] for row in instances]
    if names != [row["picture"] for row in first]:
        raise ValueError("the rows were measured on different instances")
    pictures = [sorted(set(names)).index(name) for name in names]
    found = {}
    for kind in KINDS:
        column = f"iou_{kind}"
        values = [float(b[column]) - float(a[column]) for a, b in zip(first, instances, strict=True)]
        found[kind] = {"mean": sum(values) / len(values), "interval95": interval95(values, pictures, seed=0)}
    return found


def markdown(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows as lines of a table."""
    lines = [
        "| tiles | components, wire | KB up | KB down | box | one point | box, against the first | point |"
    ]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        size, means, others = row["bytes_a_frame"], row["miou"], row["against_first"]
        cells = [row["tiles"], f"{row['components']}, {row['wire']}"]
        cells += [f"{size[way] / 1e3:.1f}" for way in ("up", "down")]
        cells += [f"{means[kind]:.3f} ({_interval(row['interval95'][kind])})" for kind in KINDS]
        cells += [f"{o['mean']:+.4f} ({_interval(o['interval95'], '+.4f')})" for o in map(others.get, KINDS)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _interval(bounds: Sequence[float] | None, form: str = ".3f") -> str:
    return "one picture" if bounds is None else f"{bounds[0]:{form}} to {bounds[1]:{form}}"


if __name__ == "__main__":
    main()
