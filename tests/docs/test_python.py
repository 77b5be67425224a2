"""docs/python.md: its code runs, its table is what there is, its numbers are those that tests hold."""

from __future__ import annotations

import builtins
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import pedsam
from runtime.objects.prompts import MAX_POINTS
from tests.runtime.api.test_predictor import EMBEDDING, LOGITS, OVERLAP, SCORES
from tests.support.documents import README, Document, table_rows
from tests.support.edge import sites_file, write_photo
from tests.support.examples import EXAMPLES
from tests.support.pictures import SHAPES, photo
from tests.support.processes import serving

PAGE = Document.read("docs/python.md")
BOX = (150, 60, 450, 300)


def test_its_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photo(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    large = cv2.resize(photo("16:9"), (1920, 1080))
    names: dict[str, Any] = {
        "photo": photo("16:9"),
        "points": np.array([[300, 190]]),
        "labels": np.array([1]),
        "frames": [photo("16:9")] * 2,
        "frame": large,
        "box": BOX,
    }
    first, several, predicted, followed, through_sites = PAGE.blocks("python")
    run(first, names)
    with pedsam.open(threads=1) as session, serving(None) as one, serving(None) as other:
        names["session"] = session
        for block in (several, predicted, followed):
            run(block, names)
        sites_file(tmp_path / "sites.toml", ("a", one.url), ("b", other.url))
        run(through_sites, {**names, "frame": large})
    said = capsys.readouterr().out
    assert said.count("cup tracked") == 2
    assert said.count("% of the picture") == 2
    assert names["best"].masks.shape == (1, 360, 640)
    assert names["three"].masks.shape == (1, 3, 360, 640)


def run(block: str, names: dict[str, Any]) -> None:
    exec(compile(block, "docs/python.md", "exec"), names)  # noqa: S102


def test_the_readmes_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photo(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    (block,) = README.blocks("python")
    names: dict[str, Any] = {"pedsam": pedsam}
    run(block, names)
    assert names["masks"].masks.shape == (1, 360, 640)


def test_every_name_in_it_exists() -> None:
    rows = table_rows(PAGE.text)
    assert len(rows) == 6
    for row in rows:
        owner, _, name = row[0].strip("`").partition("(")[0].partition(".")
        assert hasattr(pedsam if owner == "pedsam" else getattr(pedsam, owner), name), row[0]
    for name in re.findall(r"`([A-Z][A-Za-z]+)`", PAGE.prose):
        assert name in pedsam.__all__ or name == "SamPredictor" or hasattr(builtins, name), name


def test_its_numbers_are_those_of_the_tests() -> None:
    assert f"embeddings within {EMBEDDING:g}".replace("0.0001", "1e-4") in PAGE.text.replace("\n", " ")
    assert LOGITS == SCORES == 1e-3
    assert "logits and scores within 1e-3" in PAGE.text
    assert f"masks at an IoU of {OVERLAP}" in PAGE.text.replace("\n", " ")
    assert len(SHAPES) == 5
    assert f"at most {MAX_POINTS} points" in PAGE.text.replace("\n", " ")


def test_what_installs_it_is_a_clone_or_a_wheel() -> None:
    """It is on no index, so that its name alone installs nothing."""
    texts = [PAGE.text, *(path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.py"))]
    for text in texts:
        for what in re.findall(r'pip install (?:-e )?"([^"]*)"', text):
            assert re.fullmatch(
                rf"(\.|pedsam-{pedsam.__version__}-py3-none-any\.whl)\[(edge|demo)\]", what
            ), what
    assert all("pip install" in text for text in texts)
