"""Three sites on loopback and one edge, each a process of its own: time and peak memory of every one.

    python -m benchmarks.three_sites --bundle bundles/vit_b --source photo.jpg --out results.json

The same command line for every model. All processes share this machine's cores, so the times are what one
machine doing everything needs, not what three machines would give.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import describe, where
from media.pictures import picture_info, write_picture
from runtime.demo.demo import BACKEND, PEDSAM, photo, three_sites
from stages.bundle import Bundle, shipped_bundle


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="[default: the mini model of this clone]")
@click.option(
    "--source", type=click.Path(path_type=Path), help="Picture or folder  [default: a shipped photograph]"
)
@click.option("--box", default="0.25,0.2,0.75,0.8", show_default=True, help="As fractions of the picture.")
@click.option("--wire", type=click.Choice(["fp16", "int8"]), default="fp16", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(bundle: Path | None, source: Path | None, box: str, wire: str, out: Path) -> None:
    """Measure one `pedsam run` through three `pedsam serve`; verified if the bundle has the unsplit model."""
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(
            bundle or shipped_bundle(), source or _shipped_photo(Path(scratch)), box, wire, Path(scratch)
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result, indent=1))


def measure(bundle: Path, source: Path, box: str, wire: str, scratch: Path) -> dict[str, Any]:
    loaded = Bundle.load(bundle)
    verified: dict[str, Any] = {}
    with three_sites(bundle, scratch) as running:
        summary, seconds = _run(bundle, source, box, wire, running.toml, scratch / "run", verify=False)
        edge_peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        site_peaks = [_peak_mb(site.process.pid) for site in running.sites]
        if loaded.has("whole"):
            verified, _ = _run(bundle, source, box, wire, running.toml, scratch / "verified", verify=True)
    return {
        "machine": describe(),
        "model": loaded.description,
        "source": f"{source.name} {_size(source)}",
        "command_s": round(seconds, 2),
        "site_start_s": [round(site.start_s, 2) for site in running.sites],
        "edge_peak_mb": round(edge_peak),
        "site_peak_mb": [round(peak) for peak in site_peaks],
        "iou_with_unsplit": verified.get("iou_with_unsplit"),
        **{key: summary[key] for key in _SUMMARY_KEYS},
    }


_SUMMARY_KEYS = (
    "wire", "frames", "frames_lost", "fps", "latency_ms", "bytes_up", "bytes_down",
    "windows_sent_per_frame", "windows_skipped_as_padding", "limited_by",
)  # fmt: skip


def markdown(*results: Mapping[str, Any]) -> str:
    """A column for each model, and under the table what each was measured on."""

    def row(label: str, cell: Callable[[Mapping[str, Any]], str]) -> str:
        return f"| {label} | {' | '.join(cell(result) for result in results)} |"

    def step(name: str) -> Callable[[Mapping[str, Any]], str]:
        return lambda result: f"{result['latency_ms'][name]['p50'] / 1e3:.2f} s"

    lines = [
        row("", lambda r: f"{r['model']}, {_pixels(r['source'])}"),
        f"| --- |{' --- |' * len(results)}",
        row("windows sent (padding, not sent)", _windows),
        row("window stage, three sites", step("windows")),
        row("global stage, edge", step("global")),
        row("mask decoder, edge", step("decode")),
        row("`pedsam run`, start to end", lambda r: f"{r['command_s']:.1f} s"),
        row("wire", lambda r: r["wire"]),
        row("sent up / down, probes included", _sent),
        row("peak memory, edge, window stage loaded as fallback", lambda r: f"{r['edge_peak_mb']} MB"),
        row("peak memory, each site, at most", lambda r: f"{max(r['site_peak_mb'])} MB"),
        row("mask IoU with the unsplit model", _iou),
    ]
    measured = [f"- {_name(result)}: {where(result['machine'])}" for result in results]
    return "\n".join([*lines, "", *measured])


def _name(result: Mapping[str, Any]) -> str:
    return str(result["model"]).partition(" ")[0]


def _pixels(source: str) -> str:
    """ "600 x 400" of "coffee.png (600, 400)"."""
    return source.rpartition("(")[2].rstrip(")").replace(", ", " x ")


def _windows(result: Mapping[str, Any]) -> str:
    return f"{result['windows_sent_per_frame']:.0f} ({result['windows_skipped_as_padding']:.0f})"


def _sent(result: Mapping[str, Any]) -> str:
    return f"{result['bytes_up'] / 1e6:.2f} / {result['bytes_down'] / 1e6:.2f} MB"


def _iou(result: Mapping[str, Any]) -> str:
    """Where the bundle has the unsplit model."""
    iou = result["iou_with_unsplit"]
    return "" if iou is None else f"{iou:.5f}"


def _run(
    bundle: Path, source: Path, box: str, wire: str, sites: Path, out: Path, verify: bool
) -> tuple[dict[str, Any], float]:
    command = [*PEDSAM, "run", "--bundle", str(bundle), "--sites", str(sites), "--source", str(source)]
    command += ["--out", str(out), "--box", _box(source, box), "--wire", wire, "--allow-undistilled"]
    command += ["--backend", BACKEND]
    started = time.perf_counter()
    subprocess.run([*command, *(["--verify"] if verify else [])], check=True, stdout=sys.stderr)
    return json.loads((out / "summary.json").read_text(encoding="utf-8")), time.perf_counter() - started


def _box(source: Path, fractions: str) -> str:
    width, height = _size(source)
    scale = (width, height, width, height)
    return ",".join(
        f"{float(part) * side:.0f}" for part, side in zip(fractions.split(","), scale, strict=True)
    )


def _size(source: Path) -> tuple[int, int]:
    picture = next(iter(sorted(source.iterdir()))) if source.is_dir() else source
    info = picture_info(picture)
    return info.width, info.height


def _peak_mb(pid: int) -> float:
    """Largest resident size of a running process so far (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} tells no VmHWM")


def _shipped_photo(folder: Path) -> Path:
    path = folder / "coffee.png"
    write_picture(path, photo("coffee"))
    return path


if __name__ == "__main__":
    main()
