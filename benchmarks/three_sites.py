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
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import describe
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
