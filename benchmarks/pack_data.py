"""Pack training pictures into small files, for a machine that the folder itself is too large to travel to.

python -m benchmarks.pack_data --data FOLDER --out build/train
"""

from __future__ import annotations

from pathlib import Path

import click

from stages.geometry import GEOMETRIES
from training.data import pack, read_samples
from training.tally import Tally


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of pairs or COCO JSON.")
@click.option("--model", type=click.Choice(list(GEOMETRIES)), default="mini", show_default=True)
@click.option("--quality", type=click.IntRange(1, 100), default=60, show_default=True, help="Of WebP.")
@click.option("--files", type=click.IntRange(1), default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of packed files.")
def main(data: Path, model: str, quality: int, files: int, out: Path) -> None:
    """Resize all pictures of DATA to the model's canvas and pack them with their label maps.

    `pedsam train --data OUT` reads them.
    """
    out.mkdir(parents=True, exist_ok=True)
    samples = read_samples(data, None, Tally())
    for number in range(files):
        path = out / f"{number}.npz"
        part = samples[number::files]
        pack(part, GEOMETRIES[model], path, quality)
        click.echo(f"{path}: {len(part)} pictures, {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
