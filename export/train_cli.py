"""`pedsam train`."""

from __future__ import annotations

from pathlib import Path

import click

from export.training import Job, RunOptions, open_trainer, run_options, train
from stages.geometry import GEOMETRIES


@click.command("train")
@click.option("--model", type=click.Choice(list(GEOMETRIES)), required=True)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of pairs or packed files, or COCO JSON.",
)
@click.option(
    "--order",
    type=click.Choice(["reordered", "original"]),
    default="reordered",
    show_default=True,
    help="Block order to train in; only reordered ones make a distilled bundle.",
)
@click.option(
    "--init", type=click.Path(path_type=Path), help="Weights to start from  [default: from scratch]"
)
@click.option(
    "--hints/--no-hints", default=True, show_default=True, help="Also learn an ImageNet network's features."
)
@run_options(steps=20000, pictures=16, accumulate=1, rate=2e-3)
def command(model: str, data: Path, order: str, init: Path | None, hints: bool, options: RunOptions) -> None:
    """Train promptable segmentation. Killed at any moment, the same command goes on where it was.

    The state lies beside OUT as OUT.state, the curve as OUT.curve.jsonl and .png. Several GPUs: accelerate
    launch -m pedsam train ...
    """
    import torch  # takes seconds to import

    from export.data import read_samples
    from export.modules import reordered_encoder
    from export.sam import build_sam, load_weights
    from export.trainer import growing_sizes

    geometry = GEOMETRIES[model]
    torch.manual_seed(options.seed)
    sam = load_weights(geometry, init).sam if init else build_sam(geometry)
    if order == "reordered":
        reordered_encoder(sam.image_encoder, geometry)
    job = Job(geometry, sam, order == "reordered", read_samples(data), hints=hints)
    sizes = ((1.0, geometry.image_size),) if init else growing_sizes(geometry)
    train(open_trainer(job, options, sizes), job, options)
