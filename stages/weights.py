"""How many numbers each stage's weights are, from the model's dimensions alone.

For a model whose bundle is not at hand. What is counted is what a stage's graph holds: tables of relative
positions are spread out to one matrix a query, position embeddings are cut into windows with their padding.

Source: segment_anything.modeling (ImageEncoderViT, PromptEncoder, MaskDecoder), and `export.modules`.
"""

from __future__ import annotations

from dataclasses import dataclass

from stages.geometry import Geometry
from stages.hidden import HEAD

MLP_RATIO = 4
# PromptEncoder and MaskDecoder of every SAM, and the matrix of random frequencies for points, 2 x 128.
DECODER_PARAMETERS = 6_220 + 4_058_340
FREQUENCIES = 256


@dataclass(frozen=True)
class Parameters:
    """`products` are kept in the stage's precision, `rest` (norms, positions) in fp32 whatever that is."""

    products: int
    rest: int

    def bytes(self, precision: str) -> int:
        """Size in a stage's precision, as `bundle.json` names it: "fp32", "fp32 from ...", "fp16", "bf16"."""
        return self.products * (4 if precision.startswith("fp32") else 2) + self.rest * 4


def stage_parameters(geometry: Geometry, head_blocks: int = 0) -> dict[str, Parameters]:
    """What the stages window, global and decoder hold, and head where window blocks run at the edge."""
    g = geometry
    windows, globals_ = len(g.window_blocks) - head_blocks, len(g.global_blocks)
    patch = 3 * g.patch**2 * g.dim + g.dim
    neck = g.dim * g.prompt_dim + 9 * g.prompt_dim**2
    positions = g.windows * g.window**2 * g.dim
    tiles = Parameters(patch, positions)  # what the stage that takes tiles begins with
    first = {HEAD: _window_blocks(g, head_blocks, tiles)} if head_blocks else {}
    return first | {
        "window": _window_blocks(g, windows, Parameters(0, 0) if head_blocks else tiles),
        "global": Parameters(
            products=neck + globals_ * _block_products(g, g.tokens),
            rest=globals_ * _norms(g) + 4 * g.prompt_dim,
        ),
        # the embedding of no mask stands in its graph twice
        "decoder": Parameters(DECODER_PARAMETERS, FREQUENCIES + g.prompt_dim * (1 + g.tokens**2)),
    }


def _window_blocks(g: Geometry, blocks: int, beside: Parameters) -> Parameters:
    """So many window blocks, and what else their stage holds."""
    products = beside.products + blocks * _block_products(g, g.window)
    return Parameters(products, beside.rest + blocks * _norms(g))


def _block_products(g: Geometry, side: int) -> int:
    """One block's matrices and their biases, with tables of relative positions for `side` tokens a side."""
    attention = 4 * g.dim**2 + 4 * g.dim
    mlp = 2 * MLP_RATIO * g.dim**2 + (MLP_RATIO + 1) * g.dim
    return attention + mlp + 2 * side**2 * (g.dim // g.heads)


def _norms(g: Geometry) -> int:
    return 4 * g.dim
