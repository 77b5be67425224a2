"""The examples run, alone and through sites, and draw what they should."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.support.edge import sites_file
from tests.support.examples import EXAMPLES, check_batch, check_camera, check_photo
from tests.support.processes import serving

PYTHON = (sys.executable,)
VARIABLES = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}


def test_a_photograph(tmp_path: Path) -> None:
    check_photo(tmp_path, PYTHON, VARIABLES)


def test_a_camera(tmp_path: Path) -> None:
    check_camera(tmp_path, PYTHON, VARIABLES)


def test_a_folder(tmp_path: Path) -> None:
    check_batch(tmp_path, PYTHON, VARIABLES)


def test_through_sites(tmp_path: Path) -> None:
    with serving(None) as first, serving(None) as second:
        sites = sites_file(tmp_path / "sites.toml", ("a", first.url), ("b", second.url))
        said = check_camera(tmp_path / "camera", PYTHON, VARIABLES, "--sites", str(sites), "--in-flight", "3")
        assert "operator-a has seen 8 windows" in said or "operator-a has seen 7 windows" in said
        (tmp_path / "sites.ledger.json").unlink()
        check_batch(tmp_path / "batch", PYTHON, VARIABLES, "--sites", str(sites))


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_every_example_is_run_here(path: Path) -> None:
    assert path.name in {"photo.py", "camera.py", "batch.py", "__pycache__"}
