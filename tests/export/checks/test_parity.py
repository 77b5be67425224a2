"""What an export must hold: a stage or a chain that differs is not kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from export.checks.parity import check_chain
from export.exporter import add_stage
from export.sam import Weights
from export.stages import StagePlan
from stages.bundle import Bundle
from stages.errors import ParityError
from stages.geometry import GEOMETRIES
from stages.tensors import TensorSpec


def test_parity_is_recorded(mini_bundle: Bundle) -> None:
    assert mini_bundle.parity["chain_pytorch"] < 1e-4
    assert mini_bundle.parity["whole"] < 1e-4
    assert mini_bundle.parity["chain"] < 2e-2
    for name in ("global", "decoder"):
        assert all(value < 1e-4 for value in mini_bundle.stage(name).parity.values())


def test_a_wrong_graph_is_not_kept(tmp_path: Path) -> None:
    """A stage that computes something else than its module fails the export and leaves nothing behind."""

    class Different(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (1.0 if torch.onnx.is_in_onnx_export() else 1.001)

    plan = StagePlan(
        "window",
        (TensorSpec("x", "float32", ("n", 4)),),
        (TensorSpec("y", "float32", ("n", 4)),),
        Different,
        lambda generator: (torch.ones(2, 4),),
    )
    empty = Bundle(
        tmp_path, GEOMETRIES["mini"], (), (), "untrained", "", "float32", 0, {}, {}, {}, components=192
    )
    with pytest.raises(ParityError, match=r"output y differs by 9\.99e-04, more than 1e-04"):
        add_stage(empty, plan, lambda line: None)


@pytest.mark.usefixtures("no_grad")
def test_stages_of_other_weights_are_no_chain(tiny: Callable[[str], Bundle], tiny_weights: Weights) -> None:
    """The stages hold these weights rounded to fp16."""
    with pytest.raises(ParityError, match="the chain of stages differs by"):
        check_chain(tiny("compact"), tiny_weights, lambda line: None)
