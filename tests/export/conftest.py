"""What tests of several modules need: bundles of a tiny model, one a precision, and pictures to train on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from stages.bundle import Bundle
from stages.geometry import Geometry
from tests.bundles import graph_bundle
from tests.export.test_data import write_pair

TINY = Geometry("tiny", 80, 16, 2, 24, 3, 2, (1,))  # seconds to export


@pytest.fixture(scope="session")
def graphs(request: pytest.FixtureRequest) -> Callable[[str, str], Bundle]:
    """Writes graphs with random weights, unchecked: graphs(model, precision)."""
    return lambda model, precision: graph_bundle(request.config, model, precision)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """Exports the tiny model with random weights in one precision, once: tiny_bundle("fp16")."""
    from export.exporter import ExportOptions, export_bundle
    from export.precision import stage_precisions
    from export.sam import Weights, build_sam, randomise

    @cache
    def export(precision: str) -> Bundle:
        sam = build_sam(TINY)
        randomise(sam)
        options = ExportOptions(precisions=stage_precisions([precision]))
        out = tmp_path_factory.mktemp("tiny") / precision
        weights = Weights(sam, TINY, "untrained", "random numbers")
        return export_bundle(weights, TINY, out, options, lambda line: None)

    return export


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder of three pictures with two objects each."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    for name in "abc":
        write_pair(folder, name)
    return folder


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps its settings for the whole process; each test chooses its own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
