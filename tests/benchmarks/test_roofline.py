"""The roofline's operations are those of segment_anything's own modules, and its bounds are bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.roofline import (
    DECODER_FLOPS,
    Board,
    Product,
    attention,
    edge_part,
    flops,
    linear,
    markdown,
    table,
    window_part,
)
from export.sam import build_sam
from stages.geometry import GEOMETRIES

BOARD = Board("a board", flops_per_s=1e12, bytes_per_s=1e9, number_bytes=2)


@pytest.mark.parametrize("model", ["mini", "vit_b"])
def test_operations_are_those_that_torch_counts(model: str) -> None:
    """On tensors without numbers; two blocks of each kind."""
    geometry = replace(GEOMETRIES[model], name="short", depth=4, global_blocks=(1, 3))
    size = geometry.image_size
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_sam(geometry).image_encoder.requires_grad_(False)(torch.empty(1, 3, size, size))
    counted = flops(window_part(geometry)) + flops(edge_part(geometry)) - DECODER_FLOPS
    assert counted == counter.get_total_flops()


def test_operations_of_the_decoder_are_those_that_torch_counts() -> None:
    geometry = replace(GEOMETRIES["vit_b"], name="short", depth=1, global_blocks=(0,))
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        sam = build_sam(geometry).requires_grad_(False)
        sparse, dense = sam.prompt_encoder(points=None, boxes=torch.empty(1, 4), masks=None)
        sam.mask_decoder(
            image_embeddings=torch.empty(1, 256, 64, 64),
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
    assert counter.get_total_flops() == DECODER_FLOPS


def test_a_product_takes_the_longer_of_computing_and_moving() -> None:
    assert Product(flops=10**12, numbers=1).seconds(BOARD, fused=True) == 1
    assert Product(flops=1, numbers=10**9).seconds(BOARD, fused=True) == 2
    assert Product(flops=10**12, numbers=1, times=3).seconds(BOARD, fused=True) == 3
    assert linear(2, 3, 5) == Product(flops=60, numbers=2 * 3 + 3 * 5 + 2 * 5)


def test_scores_pass_through_memory_only_where_attention_is_not_fused() -> None:
    geometry = GEOMETRIES["vit_b"]
    product = attention(geometry, groups=1, side=64, times=1)
    kept, moved = (product.seconds(replace(BOARD, flops_per_s=1e30), fused) for fused in (True, False))
    assert kept == pytest.approx(4 * 4096 * 768 * 2 / 1e9)
    assert moved - kept == pytest.approx(2 * 12 * 4096**2 * 2 / 1e9)


def test_the_edge_keeps_the_share_that_it_is_known_for() -> None:
    rows = {row["model"]: row for row in table()["models"]}
    shares = {model: row["edge"]["gflop"] / row["local"]["gflop"] for model, row in rows.items()}
    assert shares == pytest.approx({"vit_b": 0.46, "vit_l": 0.23, "vit_h": 0.17}, abs=0.005)
    for row in rows.values():
        assert row["local"]["fp16_ms"] >= row["local"]["gflop"] / 17
        assert row["edge"]["fp16_ms"] < row["edge"]["fp16_scores_in_memory_ms"] < row["edge"]["fp32_ms"]


def test_the_table_has_a_row_for_the_model_and_for_the_edge() -> None:
    text = markdown(table())
    assert [line.split(" | ")[0] for line in text.splitlines()[2:8]] == [
        f"| {model}, {part}"
        for model in ("vit_b", "vit_l", "vit_h")
        for part in ("all of it", "the edge's part")
    ]
    assert "17 TFLOP/s, 102 GB/s" in text
