"""What the export says of hidden states is what was measured, and rebuilding from them is what it claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.head_blocks import compared
from export.head_figures import FIGURES, table

ROOT = Path(__file__).parents[2]


@pytest.fixture
def measured() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks/results/head_blocks_mini.json").read_text())
    return found


def test_the_export_prints_what_was_measured(measured: dict[str, Any]) -> None:
    rows = {(row["sent"], row["blocks"]): row for row in measured["rows"]}
    for each in FIGURES:
        row = rows[each.sent, each.blocks]
        assert each.bytes_up == row["bytes_a_frame"]["up"]
        assert each.psnr_db == pytest.approx(row["psnr_db"], abs=0.05)
        assert each.ssim == pytest.approx(row["ssim"], abs=0.005)
    assert {each.blocks for each in FIGURES} == {0, 1, 2, 4}
    assert table().count("\n") == len(FIGURES) + 1
    assert "they hide no picture" in table()


def test_the_page_shows_what_was_measured(measured: dict[str, Any]) -> None:
    page = (ROOT / "docs/what-travels.md").read_text(encoding="utf-8")
    assert "\n".join(measured["table"]) in page


def test_nearness_is_in_decibels_and_similarity() -> None:
    truth = np.random.default_rng(3).integers(0, 200, (2, 32, 32, 3)).astype(np.uint8)
    off = compared(truth.astype(np.float32) + 25.5, truth)
    assert off.psnr_db == pytest.approx(20)
    assert 0.5 < off.ssim < 1
    darker = compared(truth // 2, truth)  # both uint8
    assert darker == compared((truth // 2).astype(np.float32), truth)
