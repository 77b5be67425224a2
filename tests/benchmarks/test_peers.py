"""Peers take turns, each in a process of its own; ratios are those of rounds."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import bundles
from benchmarks.bundles import MOBILE_SAM_GEOMETRY, write_mobile_sam_graphs
from benchmarks.peers import markdown
from benchmarks.peers.__main__ import measured, picture, rounds_within
from benchmarks.peers.process import Taken, Turn
from benchmarks.peers.report import aims, of_peer, ratios, spread
from benchmarks.peers.subjects import Settings
from export.sam import SamPredictor
from runtime.frames.canvas import make_canvas
from stages.bundle import Bundle
from stages.engines.onnxruntime_engine import open_session
from stages.tile_code import RGB
from stages.tile_inputs import coded_canvas
from tests.support.training import mobile_sam


def turn(embedding_s: float, mask_s: float = 0.0) -> Turn:
    """The processor takes twice as long as the clock."""
    return Turn(Taken(embedding_s, 2 * embedding_s), Taken(mask_s, 2 * mask_s))


def test_a_turn_to_the_mask_includes_the_embedding() -> None:
    found = of_peer([turn(1, 0.5), turn(2, 0.5), turn(4, 0.5)])
    assert found["embedding_s"] == {"median": 2, "low": 1.5, "high": 3}
    assert found["mask_s"] == {"median": 2.5, "low": 2, "high": 3.5}
    assert found["mask_processor_s"]["median"] == 5


def test_a_ratio_is_taken_in_each_round() -> None:
    """A machine that is busy in one round slows both peers of it: the ratio of medians would be 1 / 3."""
    turns = {"edge": [turn(1), turn(2), turn(1)], "whole": [turn(2), turn(4), turn(3)]}
    assert list(ratios(turns)) == ["edge / whole"]
    assert ratios(turns)["edge / whole"]["embedding_s"]["median"] == 0.5


def test_aims_are_of_the_model_and_say_whether_they_are_met() -> None:
    found = {
        "edge / whole": {"mask_processor_s": spread([0.5])},
        "edge / eager": {"mask_processor_s": spread([0.2])},
    }
    assert [(row["what"], row["met"]) for row in aims("vit_b", found, {"edge": 1100.0})] == [
        ("edge / whole", False),
        ("edge / eager", True),
        ("memory of the edge, MB", True),
    ]
    assert [row["at_most"] for row in aims("vit_h", found, {})] == [0.17, 0.10]
    assert aims("mini", found, {"edge": 1100.0}) == []


def test_rounds_end_in_time_but_for_the_least() -> None:
    assert list(rounds_within(5, 2, ends_s=-math.inf)) == [0, 1]
    assert list(rounds_within(3, 1, ends_s=math.inf)) == [0, 1, 2]
    numbers = rounds_within(9, 1, ends_s=time.monotonic() + 0.3)
    for _ in numbers:
        time.sleep(0.2)  # two such rounds would end late
    assert list(numbers) == []


@pytest.fixture(scope="module")
def result(mini_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    absent = tmp_path_factory.mktemp("none") / "mobile_sam.pt"
    settings = Settings(picture(), "mini", mini_bundle.path, absent, 1)
    return measured(settings, ("whole", "split", "edge", "mobile_sam"), range(2), 120)


def test_peers_run_and_one_that_cannot_is_left_out(result: dict[str, Any]) -> None:
    assert list(result["peers"]) == ["whole", "split", "edge"]
    assert "mobile_sam.pt is not there" in result["left_out"]["mobile_sam"]
    assert result["rounds"] == 2
    peers = result["peers"]
    for peer in peers.values():
        assert 0 < peer["embedding_s"]["median"] < peer["mask_s"]["median"]
        assert peer["mask_processor_s"]["median"] > 0
    assert peers["edge"]["peak_mb"] < peers["split"]["peak_mb"]
    assert set(result["ratios"]) == {"edge / whole", "split / whole"}
    assert result["ratios"]["edge / whole"]["mask_processor_s"]["median"] < 1


def test_the_pages_tell_what_was_measured_and_what_was_not(result: dict[str, Any]) -> None:
    text = markdown({**result, "aims": aims("vit_b", result["ratios"], {"edge": 9999.0})})
    shown = f"{result['peers']['edge']['mask_s']['median']:.3f} s ("
    assert shown in next(line for line in text.splitlines() if line.startswith("| pedsam, the edge's part"))
    assert "- Left out: MobileSAM, PyTorch eager: InputError: " in text
    assert "- Aim for memory of the edge, MB: at most 1200; measured 9999, missed." in text
    assert "MobileSAM 0.776, mini 0.723" in text


def test_an_edge_is_measured_without_torch() -> None:
    line = "import sys, benchmarks.peers.process, runtime.session; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", line], cwd=root, check=False).returncode == 0


def test_mobile_sam_as_graphs_computes_what_its_modules_do(tmp_path: Path) -> None:
    checkpoint = tmp_path / "mobile_sam.pt"
    torch.save(mobile_sam(), checkpoint)
    write_mobile_sam_graphs(checkpoint, tmp_path / "graphs")
    whole = open_session(tmp_path / "graphs" / "whole" / "model.onnx", 1)
    canvas = make_canvas(picture(), MOBILE_SAM_GEOMETRY)
    found = whole.run(None, coded_canvas(RGB, canvas.geometry, canvas.pixels, canvas.extents))[0]
    predictor = SamPredictor(bundles.mobile_sam(checkpoint)[0])
    predictor.set_image(picture())
    expected = predictor.get_image_embedding().numpy()
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
