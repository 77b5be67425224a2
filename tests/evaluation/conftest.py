"""Fixtures for tests of the evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation.data import write_pair


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder of three pictures of different shapes with five instances."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    write_pair(folder, "a", "16:9", (60, 40, 320, 200), (350, 60, 600, 300))
    write_pair(folder, "b", "4:3", (100, 80, 360, 300))
    write_pair(folder, "c", "portrait", (20, 20, 250, 200), (30, 250, 220, 460))
    return folder
