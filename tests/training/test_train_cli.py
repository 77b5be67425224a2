"""`pedsam train`, in one process and in two."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

from export.checkpoints.load import load_weights
from stages.geometry import GEOMETRIES
from tests.support.training import SHORT, invoke


def test_the_command_trains_and_resumes(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "mini.safetensors"
    command = ("train", "--model", "mini", "--data", pairs, "--out", out, "--no-hints", *SHORT)
    stopped = invoke(*command, "--seconds", 0)
    assert "stopped early" in stopped.output, stopped.output
    done = invoke(*command)
    assert "training is complete" in done.output, done.output
    assert "step 2 of 2" in done.output
    weights = load_weights(GEOMETRIES["mini"], out)
    assert weights.status == "distilled"
    assert weights.trained_on == "3 pictures, 2 steps of 1, reordered block order"
    with Image.open(tmp_path / "new" / "mini.curve.png") as curve:
        assert curve.width == 1000


def test_two_processes_train_one_model(pairs: Path, tmp_path: Path) -> None:
    """What several GPUs do, on two CPU processes: both see their own pictures, one saves."""
    out = tmp_path / "two.safetensors"
    launch = [
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "-m",
        "pedsam",
        "train",
        "--model",
        "mini",
    ]
    launch += ["--data", str(pairs), "--out", str(out), "--no-hints", *map(str, SHORT)]
    for more, said in ((["--seconds", "0"], "stopped early"), ([], "training is complete")):
        line = [sys.executable, *launch, *more]
        done = subprocess.run(line, capture_output=True, text=True, timeout=140)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count(said) == 1
    assert load_weights(None, out).trained_on == "3 pictures, 2 steps of 2, reordered block order"
