"""`pedsam distill`."""

from __future__ import annotations

from pathlib import Path

import click

from stages.errors import InputError
from stages.geometry import GEOMETRIES
from stages.options import PATH
from training.job import (
    TrainingCommandOptions,
    TrainingJob,
    estimate,
    open_trainer,
    train,
    training_options,
)
from training.tally import Tally, tell


@click.command("distill")
@click.option(
    "--checkpoint",
    type=PATH,
    required=True,
    help="The teacher: SAM's weights as pedsam export takes them, or MobileSAM's mobile_sam.pt.",
)
@click.option(
    "--model", type=click.Choice(list(GEOMETRIES)), help="The student  [default: the teacher's own model]"
)
@click.option(
    "--init",
    type=PATH,
    help="Weights that the encoder of --model starts from  [default: from scratch]",
)
@click.option("--images", type=PATH, required=True, help="Folder of pictures.")
@click.option(
    "--masks",
    type=PATH,
    help="COCO JSON or folder of label maps of some of them: adds a loss on prompted masks, and validation.",
)
@click.option("--estimate", "only_estimate", is_flag=True, help="Say memory, images/s and hours, and stop.")
@training_options(steps=20000, pictures=4, accumulate=4, rate=2e-4)
def command(
    checkpoint: Path,
    model: str | None,
    init: Path | None,
    images: Path,
    masks: Path | None,
    only_estimate: bool,
    options: TrainingCommandOptions,
) -> None:
    """Teach SAM with its blocks reordered what SAM in its own order knows.

    The student starts from the teacher's blocks, and learns its image embeddings. With --model it is another,
    smaller one, and starts from the teacher's prompt encoder and mask decoder. Killed at any moment, the same
    command goes on where it was. Several GPUs: accelerate launch -m pedsam distill ...
    """
    import torch  # takes seconds to import

    from export.modules import reordered_encoder
    from training.data import read_pictures
    from training.teachers import load_teacher

    if init and not model:
        raise InputError("--init needs --model: a student of the teacher's own model starts from the teacher")
    torch.manual_seed(options.seed)
    teacher = load_teacher(checkpoint)
    student = teacher.student(GEOMETRIES[model] if model else None, init)
    geometry, options = student.geometry, options.travelling_as(student)
    reordered_encoder(student.sam.image_encoder, geometry)
    tally = Tally()
    samples = read_pictures(images, masks, tally)
    tell(tally.sentences())
    job = TrainingJob(geometry, student.sam, True, samples, teacher.encoder, masks is not None)
    trainer = open_trainer(job, options, ((1.0, geometry.image_size),))
    if only_estimate:
        estimate(trainer, job, options)
    else:
        train(trainer, job, options)
