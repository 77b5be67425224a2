"""What tests of training need: pictures to train on, and a fresh start for accelerate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from tests.support.training import mobile_sam, write_pair


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder of three pictures with two objects each."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    for name in "abc":
        write_pair(folder, name)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A file in the layout of MobileSAM's official checkpoint, with random weights."""
    path = tmp_path / "mobile_sam.pt"
    torch.save(mobile_sam(), path)
    return path


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps its settings for the whole process; each test chooses its own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
