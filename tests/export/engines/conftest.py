"""What tests of engine building share: a bundle to put engines beside, and a board that is not here."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.engines.build import Target
from export.engines.builder import RTX
from stages.bundle import Bundle
from stages.engines.tensorrt_engine import tensorrt_library
from tests.support.engines import BOARD, linked


@pytest.fixture
def bundle(mini_bundle: Bundle, tmp_path: Path) -> Bundle:
    return linked(mini_bundle, tmp_path / "bundle")


@pytest.fixture(scope="session")
def target() -> Target:
    """TensorRT for RTX builds for the board, which it need not see."""
    return Target(BOARD, RTX, tensorrt_library(RTX).__version__)
