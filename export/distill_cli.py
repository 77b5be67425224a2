"""`pedsam distill`."""

from __future__ import annotations

from pathlib import Path

import click

from export.training import Job, RunOptions, estimate, open_trainer, run_options, train


@click.command("distill")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    required=True,
    help="The teacher, in SAM's own block order: a SAM .pth, or .safetensors of pedsam.",
)
@click.option("--images", type=click.Path(path_type=Path), required=True, help="Folder of pictures.")
@click.option(
    "--masks",
    type=click.Path(path_type=Path),
    help="COCO JSON or folder of label maps of some of them: adds a loss on prompted masks, and validation.",
)
@click.option("--estimate", "only_estimate", is_flag=True, help="Say memory, images/s and hours, and stop.")
@run_options(steps=20000, pictures=4, accumulate=4, rate=2e-4)
def command(
    checkpoint: Path, images: Path, masks: Path | None, only_estimate: bool, options: RunOptions
) -> None:
    """Teach SAM with its blocks reordered what SAM in its own order knows.

    The student starts from the teacher's blocks, and learns its image embeddings. Killed at any moment, the
    same command goes on where it was. Several GPUs: accelerate launch -m pedsam distill ...
    """
    import copy  # torch takes seconds to import

    from export.data import read_pictures
    from export.modules import reordered_encoder
    from export.sam import load_weights

    teacher = load_weights(None, checkpoint)
    student = copy.deepcopy(teacher.sam)
    reordered_encoder(student.image_encoder, teacher.geometry)
    job = Job(teacher.geometry, student, True, read_pictures(images, masks), teacher.sam, masks is not None)
    trainer = open_trainer(job, options, ((1.0, teacher.geometry.image_size),))
    if only_estimate:
        estimate(trainer, job, options)
    else:
        train(trainer, job, options)
