"""`pedsam export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from export.head_figures import table
from export.precision import DTYPES, stage_precisions
from stages.errors import CheckpointError
from stages.geometry import GEOMETRIES
from stages.hidden import FORMS
from stages.options import PATH, Count, PathType
from stages.tile_code import RGB, TileCode

if TYPE_CHECKING:
    from export.sam import Weights


@click.command("export")
@click.option("--model", type=click.Choice(list(GEOMETRIES)), help="Which SAM; --recode knows it itself.")
@click.option(
    "--checkpoint",
    type=PATH,
    help="SAM's weights: a checkpoint of segment-anything 1.0, bare or as a training leaves it, a file or "
    "folder of transformers' SamModel, or .safetensors of pedsam.",
)
@click.option(
    "--random-weights", is_flag=True, help="Random weights, to try geometry and speed: masks mean nothing."
)
@click.option(
    "--recode",
    type=PATH,
    metavar="BUNDLE|FILE",
    help="Instead of both: a bundle's folder with window, global and decoder, or .safetensors of pedsam, to "
    "export its weights again with other options.",
)
@click.option(
    "--embedding",
    type=click.Choice(["float16", "float32"]),
    default="float16",
    show_default=True,
    help="Unquantised wire format; float32 is for tests.",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    metavar=f"[STAGE=]{'|'.join(DTYPES)}",
    help="What matrix products compute in; norms, softmax and the residual stream stay fp32. fp16 is for "
    "GPUs: a CPU gains nothing. bf16 is for a stage that overflows fp16; no CPU runs it. Give it again for "
    "one stage: --precision fp16 --precision global=bf16. Default: fp32.",
)
@click.option(
    "--photos",
    type=PathType(exists=True, file_okay=False),
    help="Photographs to fit --components to, some dozens like those the cameras will show, and to check "
    "fp16 or bf16 with, for overflow and for masks beside those of fp32, and coded tiles. Default of those "
    "checks: one synthetic picture.",
)
@click.option(
    "--components",
    type=Count(1),
    help="Numbers of the embedding that a site answers a token with: principal components, fitted to "
    "--photos. As many as the model has channels: the embedding as it is.  [default: what the weights hold, "
    "else the embedding as it is]",
)
@click.option(
    "--compact",
    is_flag=True,
    help="Round weights to fp16 and store them so: half the size on disk. Stages still compute in fp32.",
)
@click.option(
    "--tiles",
    metavar="rgb|dct:L/C",
    help="What a tile is sent as: its pixels, or the first L luma and C chroma DCT coefficients of each "
    "block, one byte each. dct:10/3 is 1/16.7 of the bytes, dct:15/6 1/10.7.  [default: what the weights "
    "hold, else rgb]",
)
@click.option(
    "--head-blocks",
    type=Count(0),
    default=0,
    show_default=True,
    help="So many of the first window blocks run at the edge, and sites get hidden states instead of tiles. "
    "Pictures can be rebuilt from those: they show about what coarse --tiles do, for more bytes.",
)
@click.option(
    "--hidden",
    type=click.Choice(list(FORMS)),
    help="With --head-blocks: what hidden states travel in; int8 has one scale a token, fp32 is for tests. "
    "[default: fp16]",
)
@click.option(
    "--hidden-components",
    type=Count(1),
    help="With --head-blocks: numbers that a token's hidden state travels as, principal components fitted to "
    "--photos.  [default: as many as the model has channels]",
)
@click.option(
    "--streaming",
    is_flag=True,
    help="Write the global stage in parts too, beside it and with its weights, so that an edge can begin "
    "with it while later windows are still under way (run --encoder).",
)
@click.option("--out", type=PATH, required=True, help="Directory of the bundle.")
def command(
    model: str | None,
    checkpoint: Path | None,
    random_weights: bool,
    recode: Path | None,
    embedding: str,
    precisions: tuple[str, ...],
    photos: Path | None,
    components: int | None,
    compact: bool,
    tiles: str | None,
    head_blocks: int,
    hidden: str | None,
    hidden_components: int | None,
    streaming: bool,
    out: Path,
) -> None:
    """Write a bundle: SAM, its blocks reordered, as ONNX stages compared with PyTorch."""
    by_stage = stage_precisions(precisions, head=head_blocks > 0)
    asked = TileCode.parse(tiles) if tiles is not None else None
    _check_head(head_blocks, asked, hidden, hidden_components)
    if streaming and by_stage["global"] == "bf16":
        raise click.UsageError("--streaming is for a global stage in fp32 or fp16, which onnxruntime runs")
    all_fp32 = set(by_stage.values()) == {"fp32"}
    if compact and not all_fp32:
        raise click.UsageError("--compact is for fp32; fp16 and bf16 store half-size weights as they are")

    from export.exporter import ExportOptions, export_bundle  # torch takes seconds to import

    weights = _weights(model, checkpoint, random_weights, recode)
    code = RGB if head_blocks else asked or weights.tiles
    whole = (None, weights.geometry.dim)
    if photos is not None and all_fp32 and code == RGB and {components, hidden_components} <= set(whole):
        raise click.UsageError(
            "--photos fits fewer --components, and checks a lower --precision and coded --tiles; give one of "
            "them too"
        )
    options = ExportOptions(
        embedding,
        compact,
        by_stage,
        photos,
        code,
        components,
        head_blocks,
        hidden or "fp16",
        hidden_components,
        streaming,
    )
    bundle = export_bundle(weights, weights.geometry, out, options, click.echo)
    if head_blocks:
        click.echo(table())
    click.echo(f"{out}: {bundle.description}, site digest {bundle.site_digest}")
    if bundle.weights != "distilled":
        meaning = "meaningless" if bundle.weights == "untrained" else "poor"
        click.echo(f"weights are {bundle.weights}: masks are {meaning}")


def _check_head(
    blocks: int, tiles: TileCode | None, hidden: str | None, hidden_components: int | None
) -> None:
    """Raise UsageError for options that exclude each other."""
    if blocks and tiles not in (None, RGB):
        raise click.UsageError(
            "--tiles and --head-blocks exclude each other: with a head hidden states travel, and no tile; "
            "give one of them"
        )
    for option, value in (("--hidden", hidden), ("--hidden-components", hidden_components)):
        if not blocks and value is not None:
            raise click.UsageError(f"{option} says how hidden states travel; give --head-blocks K too")


def _weights(
    model: str | None, checkpoint: Path | None, random_weights: bool, recode: Path | None
) -> Weights:
    from export.checkpoints.bundle_weights import weights_of
    from export.checkpoints.load import load_weights
    from export.checkpoints.official import DOWNLOADS
    from export.sam import Weights, build_sam, randomise

    if (checkpoint is not None) + random_weights + (recode is not None) > 1:
        raise click.UsageError("give one of --checkpoint, --random-weights and --recode")
    if recode is not None:
        if model is not None:
            raise click.UsageError("--recode takes the model from what it reads; leave --model out")
        return weights_of(recode)
    if model is None:
        raise click.UsageError("give --model, or --recode and a bundle")
    geometry = GEOMETRIES[model]
    if checkpoint is not None:
        return load_weights(geometry, checkpoint)
    if random_weights:
        sam = build_sam(geometry)
        randomise(sam)
        return Weights(sam, geometry, "untrained", "random numbers")
    if download := DOWNLOADS.get(model):
        raise CheckpointError(
            f"{model} needs its official weights: download {download.address} ({download.size}) and give "
            "--checkpoint FILE, or give --random-weights to try geometry and speed"
        )
    raise CheckpointError(
        f"{model} has no official weights: give --checkpoint assets/{model}.safetensors, those of a clone of "
        "pedsam, or others that pedsam train made, or --random-weights"
    )
