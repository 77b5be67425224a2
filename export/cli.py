"""`pedsam export`."""

from __future__ import annotations

from pathlib import Path

import click

from stages.errors import CheckpointError
from stages.geometry import GEOMETRIES


@click.command("export")
@click.option("--model", type=click.Choice(list(GEOMETRIES)), required=True)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="A segment-anything 1.0 checkpoint (.pth), or .safetensors of pedsam.",
)
@click.option(
    "--random-weights", is_flag=True, help="Random weights, to try geometry and speed: masks mean nothing."
)
@click.option(
    "--embedding",
    type=click.Choice(["float16", "float32"]),
    default="float16",
    show_default=True,
    help="Unquantised wire format; float32 is for tests.",
)
@click.option(
    "--compact",
    is_flag=True,
    help="Round weights to fp16 and store them so: half the size on disk. Stages still compute in fp32.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory of the bundle.")
def command(
    model: str, checkpoint: Path | None, random_weights: bool, embedding: str, compact: bool, out: Path
) -> None:
    """Write a bundle: SAM, its blocks reordered, as ONNX stages held against PyTorch."""
    from export.exporter import export_bundle  # torch takes seconds to import
    from export.sam import DOWNLOADS, Weights, build_sam, load_weights, randomise

    geometry = GEOMETRIES[model]
    if checkpoint is not None and random_weights:
        raise click.UsageError("give either --checkpoint or --random-weights")
    if checkpoint is not None:
        weights = load_weights(geometry, checkpoint)
    elif random_weights:
        sam = build_sam(geometry)
        randomise(sam)
        weights = Weights(sam, geometry, "untrained", "random numbers")
    elif model in DOWNLOADS:
        address, size = DOWNLOADS[model]
        raise CheckpointError(
            f"{model} needs its official weights: download {address} ({size}) and give --checkpoint FILE, "
            "or give --random-weights to try geometry and speed"
        )
    else:
        raise CheckpointError(f"{model} has no official weights: give --checkpoint FILE or --random-weights")
    bundle = export_bundle(weights, geometry, out, embedding, click.echo, compact)
    click.echo(f"{out}: {bundle.description}, site digest {bundle.site_digest}")
    if bundle.weights != "distilled":
        click.echo(f"weights are {bundle.weights}: masks are {'meaningless' if random_weights else 'poor'}")
