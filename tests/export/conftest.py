"""Bundles of a tiny model, one a precision, for the tests of what an export writes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from stages.bundle import Bundle
from stages.geometry import Geometry
from tests.bundles import graph_bundle

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
