"""`pedsam train`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.errors import InputError
from stages.geometry import GEOMETRIES, Geometry

if TYPE_CHECKING:
    import torch

    from export.sam import Sam


@click.command("train")
@click.option("--model", type=click.Choice(list(GEOMETRIES)), required=True)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of pairs, COCO JSON, or packed .npz.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The weights, .safetensors.")
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
    "--teacher", type=click.Path(path_type=Path), help="Weights in SAM's own order to learn from too."
)
@click.option("--steps", type=click.IntRange(1), default=20000, show_default=True)
@click.option("--pictures", type=click.IntRange(1), default=64, show_default=True, help="Pictures a step.")
@click.option("--objects", type=click.IntRange(2), default=8, show_default=True, help="Objects a picture.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), default=6e-4, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(0), default=math.inf, help="Stop then; the same command resumes."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:N.")
def command(
    model: str,
    data: Path,
    out: Path,
    order: str,
    init: Path | None,
    teacher: Path | None,
    steps: int,
    pictures: int,
    objects: int,
    rate: float,
    seconds: float,
    seed: int,
    device: str,
) -> None:
    """Train promptable segmentation. Killed at any moment, the same command goes on where it was.

    The state lies beside OUT as OUT.state until training is complete.
    """
    from export.augment import Batches  # torch takes seconds to import
    from export.data import read_packed
    from export.modules import reordered_encoder
    from export.sam import save_weights
    from export.train import Trainer, TrainOptions, in_own_order

    if out.suffix != ".safetensors":
        raise InputError(f"--out {out} must end in .safetensors")
    geometry = GEOMETRIES[model]
    place = _device(device)
    sam = _start(geometry, init, seed)
    if order == "reordered":
        reordered_encoder(sam.image_encoder, geometry)
    batches = Batches(read_packed(data, geometry), place, seed)
    options = TrainOptions(steps, pictures, objects, rate, seed=seed, seconds=seconds)
    trainer = Trainer(
        sam, batches, options, place, out.with_suffix(".state"), _teacher(geometry, teacher, place)
    )
    done = trainer.run(click.echo)
    weights = trainer.averaged()
    if order == "reordered":
        weights = in_own_order(weights, geometry)
    trained_on = f"{batches.count} pictures, {trainer.step} steps of {pictures}, {order} block order"
    save_weights(weights, out, "distilled" if order == "reordered" else "undistilled", trained_on)
    click.echo(f"{out}: {trained_on}")
    click.echo("training is complete" if done else "stopped early; the same command goes on from here")


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as exc:
        raise InputError(f"--device {name} is unknown; give cpu, cuda or cuda:N") from exc


def _start(geometry: Geometry, init: Path | None, seed: int) -> Sam:
    import torch

    from export.sam import build_sam, load_weights

    torch.manual_seed(seed)
    return load_weights(geometry, init).sam if init else build_sam(geometry)


def _teacher(geometry: Geometry, path: Path | None, device: torch.device) -> torch.nn.Module | None:
    from export.sam import load_weights

    if path is None:
        return None
    encoder: torch.nn.Module = load_weights(geometry, path).sam.image_encoder
    return encoder.to(device).eval()
