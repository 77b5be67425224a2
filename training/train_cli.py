"""`pedsam train`."""

from __future__ import annotations

from pathlib import Path

import click

from stages.geometry import GEOMETRIES
from stages.options import PATH, Count, Number, warn_of_idle_options
from training.job import TrainingCommandOptions, TrainingJob, open_trainer, train, training_options
from training.tally import Tally, tell


@click.command("train")
@click.option("--model", type=click.Choice(list(GEOMETRIES)), required=True)
@click.option(
    "--data",
    type=PATH,
    required=True,
    help="Folder of pairs or packed files, or COCO JSON.",
)
@click.option(
    "--images", type=PATH, help="Folder of the pictures  [default: near the label maps or COCO JSON]"
)
@click.option(
    "--order",
    type=click.Choice(["reordered", "original"]),
    default="reordered",
    show_default=True,
    help="Block order to train in; only reordered ones make a distilled bundle.",
)
@click.option(
    "--init", type=PATH, help="Weights to start from, of MODEL or a smaller one  [default: from scratch]"
)
@click.option(
    "--hints/--no-hints", default=True, show_default=True, help="Also learn an ImageNet network's features."
)
@click.option(
    "--teacher",
    type=PATH,
    help="Also learn the image embeddings of this SAM checkpoint or of MobileSAM's mobile_sam.pt.",
)
@click.option(
    "--teacher-enlarges",
    type=Count(1),
    default=1,
    show_default=True,
    help="How many times as large the teacher sees pictures; its tokens are averaged.",
)
@click.option(
    "--taught",
    type=Number(0, 1),
    default=1.0,
    show_default=True,
    help="Share of each batch that is compared with the teacher.",
)
@training_options(steps=20000, pictures=16, accumulate=1, rate=2e-3)
def command(
    model: str,
    data: Path,
    images: Path | None,
    order: str,
    init: Path | None,
    hints: bool,
    teacher: Path | None,
    teacher_enlarges: int,
    taught: float,
    options: TrainingCommandOptions,
) -> None:
    """Train promptable segmentation. Killed at any moment, the same command goes on where it was.

    The state lies beside OUT as OUT.state, the curve as OUT.curve.jsonl and .png. Several GPUs: accelerate
    launch -m pedsam train ...
    """
    warn_of_idle_options({"teacher_enlarges": "teacher", "taught": "teacher"})
    import torch  # takes seconds to import

    from export.modules import reordered_encoder
    from training.data import read_samples
    from training.teachers import Enlarged, load_teacher, starting_weights
    from training.trainer import growing_sizes

    geometry = GEOMETRIES[model]
    torch.manual_seed(options.seed)
    start = starting_weights(geometry, init)
    if order == "reordered":
        options = options.travelling_as(start)
        reordered_encoder(start.sam.image_encoder, geometry)
    encoder = load_teacher(teacher).encoder if teacher else None
    if encoder and teacher_enlarges > 1:
        encoder = Enlarged(encoder, teacher_enlarges)
    tally = Tally()
    samples = read_samples(data, images, tally)
    tell(tally.sentences())
    job = TrainingJob(geometry, start.sam, order == "reordered", samples, encoder, hints=hints, taught=taught)
    sizes = ((1.0, geometry.image_size),) if init else growing_sizes(geometry)
    train(open_trainer(job, options, sizes), job, options)
