"""Pack training pictures into one small file, for a machine that the folder itself is too large to travel to.

python -m benchmarks.pack_data --data FOLDER --model mini --out build/train.npz
"""

from __future__ import annotations

from pathlib import Path

import click

from export.data import pack, read_samples
from stages.geometry import GEOMETRIES


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of pairs or COCO JSON.")
@click.option("--model", type=click.Choice(list(GEOMETRIES)), default="mini", show_default=True)
@click.option("--quality", type=click.IntRange(1, 100), default=40, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(data: Path, model: str, quality: int, out: Path) -> None:
    """Resize all pictures of DATA to the model's canvas and pack them with their label maps."""
    out.parent.mkdir(parents=True, exist_ok=True)
    samples = read_samples(data)
    pack(samples, GEOMETRIES[model], out, quality)
    click.echo(f"{out}: {len(samples)} pictures, {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
