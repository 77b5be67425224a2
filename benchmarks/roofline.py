"""How fast a board could run SAM at best, alone and with its windows at sites: arithmetic, no measurement.

    python -m benchmarks.roofline --out benchmarks/results/roofline.json

A frame is an image encoder and one mask. Every matrix product takes at least its operations over what the
board computes a second, and at least its bytes over what its memory moves a second; the greater of the two
is summed over all products. Weights, inputs and outputs of a product pass through memory once, in fp16 or
fp32; norms, softmax, GELU, starting kernels and everything that is no product take nothing. So real engines
are slower, and none is faster unless it computes less or rounds to less.

What is counted is SAM as segment_anything runs it: windows that are padding are computed too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.sentences import check_out, sentences
from stages.geometry import GEOMETRIES, Geometry

MODELS = ("vit_b", "vit_l", "vit_h")
# Operations of SAM's prompt encoder and mask decoder for one box, by torch's own counter, which a test asks.
DECODER_FLOPS = 3_624_702_976


@dataclass(frozen=True)
class Board:
    """What computes: operations a second (a multiply-add is two), bytes a second, bytes of a number."""

    name: str
    flops_per_s: float
    bytes_per_s: float
    number_bytes: int


# NVIDIA's 33 dense INT8 TOPS are 16.7 TFLOP/s of fp16 in tensor cores. fp32 outside of them: 1,024 cores, two
# operations a cycle, 1.02 GHz.
ORIN_NANO_SUPER = Board("Jetson Orin Nano Super, fp16", 17e12, 102e9, 2)
ORIN_NANO_SUPER_FP32 = Board("Jetson Orin Nano Super, fp32 outside of tensor cores", 2.09e12, 102e9, 4)


@dataclass(frozen=True)
class Product:
    """One kind of matrix product, `times` in all. `numbers` are those that pass through memory for each.

    `scores` of these are attention's, which fused kernels keep on the chip.
    """

    flops: int
    numbers: int
    times: int = 1
    scores: int = 0

    def seconds(self, board: Board, fused: bool) -> float:
        moved = (self.numbers - (self.scores if fused else 0)) * board.number_bytes
        return self.times * max(self.flops / board.flops_per_s, moved / board.bytes_per_s)


def linear(rows: int, inputs: int, outputs: int, times: int = 1) -> Product:
    """rows x inputs times inputs x outputs."""
    numbers = rows * inputs + inputs * outputs + rows * outputs
    return Product(2 * rows * inputs * outputs, numbers, times)


def attention(g: Geometry, groups: int, side: int, times: int) -> Product:
    """Attention within `groups` squares of side x side tokens, with relative positions by row and column.

    Queries, keys and values are read and one output written; scores, where they leave the chip, are written
    once and read once.
    """
    tokens = side**2
    scores = 2 * g.heads * groups * tokens**2
    flops = 4 * groups * tokens**2 * g.dim + 4 * groups * tokens * side * g.dim
    return Product(flops, 4 * groups * tokens * g.dim + scores, times, scores)


def window_part(g: Geometry) -> Iterator[Product]:
    """Patch embedding and window blocks: what sites do. Only attention sees the windows' padding."""
    tokens, padded, blocks = g.tokens**2, g.windows * g.window**2, len(g.window_blocks)
    yield linear(tokens, 3 * g.patch**2, g.dim)
    yield linear(padded, g.dim, 3 * g.dim, blocks)
    yield attention(g, g.windows, g.window, blocks)
    yield linear(padded, g.dim, g.dim, blocks)
    yield from _mlp(g, blocks)


def edge_part(g: Geometry) -> Iterator[Product]:
    """Global blocks, neck and mask decoder: what stays at the edge."""
    tokens, blocks = g.tokens**2, len(g.global_blocks)
    yield linear(tokens, g.dim, 3 * g.dim, blocks)
    yield attention(g, 1, g.tokens, blocks)
    yield linear(tokens, g.dim, g.dim, blocks)
    yield from _mlp(g, blocks)
    yield linear(tokens, g.dim, g.prompt_dim)
    yield linear(tokens, 9 * g.prompt_dim, g.prompt_dim)
    yield Product(DECODER_FLOPS, 0)


def _mlp(g: Geometry, blocks: int) -> Iterator[Product]:
    yield linear(g.tokens**2, g.dim, 4 * g.dim, blocks)
    yield linear(g.tokens**2, 4 * g.dim, g.dim, blocks)


def flops(products: Iterator[Product]) -> int:
    return sum(each.flops * each.times for each in products)


def milliseconds(products: Iterator[Product], board: Board, fused: bool = True) -> float:
    return 1e3 * sum(each.seconds(board, fused) for each in products)


def bounds(g: Geometry) -> dict[str, Any]:
    """Of one frame: operations, and the least milliseconds of the whole model and of the edge's part."""
    forms: dict[str, tuple[Board, bool]] = {
        "fp16_ms": (ORIN_NANO_SUPER, True),
        "fp16_scores_in_memory_ms": (ORIN_NANO_SUPER, False),
        "fp32_ms": (ORIN_NANO_SUPER_FP32, True),
    }
    found: dict[str, Any] = {"model": g.name}
    for name, parts in {"local": (window_part, edge_part), "edge": (edge_part,)}.items():
        found[name] = {"gflop": round(sum(flops(part(g)) for part in parts) / 1e9, 1)}
        for form, (board, fused) in forms.items():
            found[name][form] = round(sum(milliseconds(part(g), board, fused) for part in parts), 1)
    return found | {"gain_at_most": round(found["local"]["fp16_ms"] / found["edge"]["fp16_ms"], 2)}


def table() -> dict[str, Any]:
    """What the results file holds."""
    boards = (ORIN_NANO_SUPER, ORIN_NANO_SUPER_FP32)
    return {
        "boards": [
            {"name": board.name, "tflop_per_s": board.flops_per_s / 1e12, "gb_per_s": board.bytes_per_s / 1e9}
            for board in boards
        ],
        "models": [bounds(GEOMETRIES[name]) for name in MODELS],
    }


def markdown(result: Mapping[str, Any]) -> str:
    """The table of the pages."""
    lines = [
        "| one frame and one mask, at best | GFLOP | fp16, ms | scores through memory, ms | fp32, ms |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in result["models"]:
        for part, words in (("local", "all of it"), ("edge", "the edge's part")):
            each = row[part]
            times = (each[form] for form in ("fp16_ms", "fp16_scores_in_memory_ms", "fp32_ms"))
            cells = [f"{row['model']}, {words}", f"{each['gflop']:.0f}", *(f"{ms:.0f}" for ms in times)]
            lines.append(f"| {' | '.join(cells)} |")
    gains = ", ".join(f"{row['gain_at_most']:.1f} times for {row['model']}" for row in result["models"])
    boards = "; ".join(
        f"{each['name']}: {each['tflop_per_s']:.3g} TFLOP/s, {each['gb_per_s']:.0f} GB/s"
        for each in result["boards"]
    )
    return "\n".join(
        [
            *lines,
            "",
            f"{boards}. In fp16 the edge can gain at most {gains} by leaving windows to sites.",
        ]
    )


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), help="The table as JSON.")
def main(out: Path | None) -> None:
    result = table()
    click.echo(markdown(result))
    if out:
        check_out(out)
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with sentences():
        main()
