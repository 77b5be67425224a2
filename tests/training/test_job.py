"""Options of both commands, refused in one sentence, and what a run needs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from export.sam import build_sam
from stages.geometry import GEOMETRIES
from stages.locks import lock_file
from tests.support.training import SHORT, invoke


def test_an_estimate_says_memory_speed_and_hours_and_trains_nothing(pairs: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.pth"
    torch.save(build_sam(GEOMETRIES["mini"]).state_dict(), teacher)
    out = tmp_path / "student.safetensors"
    said = invoke("distill", "--checkpoint", teacher, "--images", pairs, "--out", out, "--estimate", *SHORT)
    assert said.exit_code == 0, said.output
    for part in (
        r"10\.\d M parameters; weights and optimiser state: 0\.\d GB",
        r"measured 3 steps of 4 images: [\d.]+ images/s",
        r"peak memory: [\d.]+ GB",
        r"all 3 images once: 0\.0\d hours",
        r"all 2 steps: 0\.0\d hours",
    ):
        assert re.search(part, said.output), (part, said.output)
    assert not list(tmp_path.glob("student*"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("--out", "weights.pth"), r"--out weights\.pth must end in \.safetensors"),
        (("--sizes", "0.5:160"), "shares must add up to 1"),
        (("--sizes", "1:100"), "multiples of 16 up to 384"),
        (("--sizes", "1:400"), "multiples of 16 up to 384"),
        (("--sizes", "big"), "expected SHARE:PIXELS"),
        (("--data", "nowhere"), "nowhere does not exist"),
        (("--init", "no.pth"), "no.pth does not exist"),
    ],
)
def test_bad_options_get_one_sentence(
    pairs: Path, tmp_path: Path, change: tuple[str, str], sentence: str
) -> None:
    command = ("train", "--model", "mini", "--data", pairs, "--out", tmp_path / "o.safetensors", *SHORT)
    said = invoke(*command, *change)
    assert said.exit_code == 1
    assert re.search(sentence, said.output), said.output
    assert len(said.output.splitlines()) == 1
    assert not list(tmp_path.glob("*.state"))


def test_label_maps_without_an_object_are_told(pairs: Path, tmp_path: Path) -> None:
    for path in pairs.glob("*.png"):
        with Image.open(path) as image:
            Image.new("L", image.size).save(path)
    said = invoke("train", "--model", "mini", "--data", pairs, "--out", tmp_path / "o.safetensors", *SHORT)
    assert "none of the label maps holds an object" in said.output


def test_two_trainings_at_once_into_one_file_are_refused(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"
    with lock_file(tmp_path / "o.curve.jsonl"):
        said = invoke("train", "--model", "mini", "--data", pairs, "--out", out, *SHORT)
    assert said.exit_code == 1
    assert re.search(r"another training writes .*; wait for its end, or give another --out", said.output)
    assert not out.exists()
