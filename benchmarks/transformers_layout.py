"""Names and shapes of transformers' SamModel with mini's dimensions, and numbers it computes, for the tests.

    pip install transformers==5.24.0
    python -m benchmarks.transformers_layout --out tests/export/checkpoints/transformers_sam.tsv

The test extra leaves transformers out, which takes 57 MB. In float64 the decoder of pedsam's conversion
differs by less than 1e-11 where its norms take transformers' 1e-6 for segment-anything's 1e-5.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import torch

from export.sam import Sam  # noqa: F401  (first: it lets torchvision be imported, which transformers does)
from stages.geometry import GEOMETRIES, Geometry
from tests.support.checkpoints import random_tensors

TIED = "prompt_encoder.shared_embedding.positional_embedding"  # files of save_pretrained leave it out


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(out: Path) -> None:
    """Write names and shapes, and print what the model computes with random weights of that list."""
    model = sam_model(GEOMETRIES["mini"])
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items() if name != TIED}
    lines = (f"{name}\t{' '.join(map(str, shape))}\n" for name, shape in shapes.items())
    out.write_text("".join(lines), encoding="utf-8")
    model.load_state_dict(random_tensors(out), strict=False)
    pixels = torch.randn((1, 3, 384, 384), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        embedding = model.get_image_embeddings(pixels)
        masks = model(
            image_embeddings=embedding,
            input_points=torch.tensor([[[[100.0, 200.0]]]]),
            input_labels=torch.tensor([[[1]]]),
        ).pred_masks
    click.echo(f"EMBEDDING = {embedding[0, :4, 3, 5].tolist()}")
    click.echo(f"MASKS = {masks[0, 0, :, 10, 20].tolist()}")


def sam_model(geometry: Geometry) -> Any:
    """transformers' SamModel of these dimensions."""
    from transformers import SamConfig, SamModel

    size = {"image_size": geometry.image_size, "patch_size": geometry.patch}
    vision = {
        "hidden_size": geometry.dim,
        "num_hidden_layers": geometry.depth,
        "num_attention_heads": geometry.heads,
        "window_size": geometry.window,
        "global_attn_indexes": list(geometry.global_blocks),
    }
    config = SamConfig(vision_config=vision | size, prompt_encoder_config=size, mask_decoder_config={})
    return SamModel(config).eval()


if __name__ == "__main__":
    main()
