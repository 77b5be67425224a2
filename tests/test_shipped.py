"""The bundle that comes with pedsam: small, true, and what commands use that are given none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw
from pycocotools import mask as coco

import pedsam
from export.checkpoints.load import load_weights
from export.checkpoints.official import DOWNLOADS
from export.modules import reordered_encoder
from export.sam import SamPredictor
from runtime.demo.demo import photo
from runtime.sites.client import REQUEST_BYTES, WIRE_OUTPUTS, choose_wire
from runtime.sites.traffic import frame_bytes, most_windows
from stages.bundle import SHIPPED, Bundle, shipped_bundle
from stages.engines.backends import make_engine
from stages.geometry import GEOMETRIES
from tests.support.edge import write_photo
from tests.support.pictures import stamped
from tests.support.processes import MODULE, serving

ROOT = Path(__file__).parent.parent
# Outlines by hand on scikit-image's photographs: the coffee in the cup; the astronaut down to row 400.
DRINK = (
    "203,145 215,125 226,107 240,101 270,96 290,95 310,97 330,103 350,117 "
    "362,132 369,158 360,172 340,185 310,193 285,193 260,188 235,178 215,162"
)
PERSON = (
    "20,400 25,345 40,300 75,240 115,205 125,170 160,150 187,150 183,125 158,95 155,65 185,30 235,15 "
    "280,30 300,80 285,120 268,135 258,170 285,195 305,235 340,265 355,310 360,345 310,385 300,400"
)
ONLY_EXPORTERS = ("torch", "torchvision", "onnx", "onnx_ir", "onnxscript", "segment_anything", "safetensors")
ABSENT = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ONLY_EXPORTERS}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return Bundle.load(shipped_bundle())


def test_it_is_small_and_holds_what_a_site_and_an_edge_need(shipped: Bundle) -> None:
    assert shipped.path == ROOT / "stages/mini"
    assert shipped.geometry.name == "mini"
    for name in ("window", "global", "decoder"):
        assert shipped.verified_file(name).is_file()
        assert shipped.stage(name).precision == "fp32 from fp16 weights"
    assert not shipped.has("whole")
    assert (shipped.path / "README.md").is_file()
    assert sum(path.stat().st_size for path in shipped.path.rglob("*")) < 25e6


def test_a_frame_is_thin(shipped: Bundle) -> None:
    """Of 16:9 at most 30,000 bytes each way, heads of messages to three sites included."""
    stage, outputs = shipped.stage("window"), WIRE_OUTPUTS[choose_wire(shipped, None)]
    most = most_windows(stage, outputs, REQUEST_BYTES)
    size = frame_bytes(stage, outputs, [(5, most)] * 3)
    assert 15 * 25 * (4 * 15 + 2 * 6) < size.up < 30_000
    assert 15 * 25 * (64 + 2) < size.down < 30_000


def test_its_window_stage_answers_its_probe(shipped: Bundle) -> None:
    probe = shipped.probe()
    engine = make_engine(shipped, "window")
    engine.open()
    answer = engine.infer(probe.inputs)["embedding"].astype(np.float32)
    engine.close()
    assert np.abs(answer - probe.embedding).max() < 1e-2 * np.abs(probe.embedding).max()
    g = shipped.geometry
    assert shipped.padding_embeddings().shape == (g.windows, *shipped.embedding_shape)


def test_serve_without_a_bundle_serves_it(shipped: Bundle) -> None:
    with serving(None) as site:
        assert site.lines[0].startswith(f"site ready: version 1, {shipped.description}, ")
        assert site.lines[1] == f"digest {shipped.site_digest}"


def test_run_without_a_bundle_runs_it(shipped: Bundle, tmp_path: Path) -> None:
    line = ["run", "--source", str(write_photo(tmp_path / "cup.png")), "--box", "150,60,450,300"]
    line += ["--allow-undistilled", "--threads", "1", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(pedsam.main, line)
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["model"], summary["weights"]) == ("mini", shipped.weights)
    assert (summary["frames"], summary["frames_lost"]) == (1, 0)


def test_its_weights_segment(shipped: Bundle, tmp_path: Path) -> None:
    """The espresso of scikit-image, cup and saucer by a box, and an astronaut by a click on her suit."""
    assert shipped.weights == "distilled"
    assert overlap(tmp_path, "coffee", "--box", "79,17,479,388", cup_and_saucer()) > 0.85
    assert overlap(tmp_path, "coffee", "--point", "270,150", outlined(DRINK, 600)) > 0.65
    assert overlap(tmp_path, "astronaut", "--point", "180,330", outlined(PERSON, 512)) > 0.8


def test_every_model_without_official_weights_comes_with_some() -> None:
    assert [name for name in GEOMETRIES if name not in DOWNLOADS] == ["mini", "small"]
    assert (ROOT / "assets/mini.safetensors").is_file()
    assert not (ROOT / "assets/small/window").exists()  # no second copy of the same numbers


def test_the_weights_of_small_segment() -> None:
    """Cup and saucer by a box, uncoded and without an export, which takes a minute."""
    path = ROOT / "assets/small.safetensors"
    assert path.stat().st_size < 30e6
    weights = load_weights(None, path)
    assert (weights.geometry.name, weights.status, weights.tiles.name) == ("small", "distilled", "dct:15/6")
    assert weights.projection is not None
    assert weights.projection.components == 80
    reordered_encoder(weights.sam.image_encoder, weights.geometry)
    predictor = SamPredictor(weights.sam)
    predictor.set_image(np.array(photo("coffee")))
    (mask,), _, _ = predictor.predict(box=np.array([79, 17, 479, 388]), multimask_output=False)
    truth = cup_and_saucer()
    assert (mask & truth).sum() / (mask | truth).sum() > 0.85


def cup_and_saucer() -> np.ndarray:
    """Of the coffee, two ellipses by hand."""
    y, x = np.mgrid[:400, :600]
    saucer = ((x - 279) / 200) ** 2 + ((y - 235) / 153) ** 2 < 1
    cup = ((x - 287) / 116) ** 2 + ((y - 115) / 98) ** 2 < 1
    return np.asarray(saucer | cup)


def outlined(polygon: str, width: int) -> np.ndarray:
    """The inside of an outline by hand, x,y in turn, on the upper 400 rows of a photograph."""
    mask = Image.new("1", (width, 400))
    ImageDraw.Draw(mask).polygon([float(number) for number in polygon.replace(",", " ").split()], fill=1)
    return np.asarray(mask)


def overlap(folder: Path, name: str, kind: str, prompt: str, truth: np.ndarray) -> float:
    """IoU of what `pedsam run` draws on the upper 400 rows of a photograph with the true mask."""
    Image.fromarray(photo(name)[:400]).save(folder / f"{name}.png")
    line = ["run", "--source", str(folder / f"{name}.png"), kind, prompt, "--out", str(folder / name)]
    result = CliRunner().invoke(pedsam.main, line)
    assert result.exit_code == 0, result.output
    (drawn,) = (folder / name / "masks.jsonl").read_text().splitlines()
    mask = coco.decode(json.loads(drawn)["segmentation"]).astype(bool)
    return float((mask & truth).sum() / (mask | truth).sum())


def test_run_refuses_it_only_for_its_weights(shipped: Bundle, tmp_path: Path) -> None:
    line = ["run", "--source", str(write_photo(tmp_path / "cup.png")), "--box", "150,60,450,300"]
    result = CliRunner().invoke(pedsam.main, [*line, "--threads", "1", "--out", str(tmp_path / "out")])
    if shipped.weights == "distilled":
        assert result.exit_code == 0, result.output
    else:
        assert f"{SHIPPED} has {shipped.weights} weights" in result.output


def without_exporter(path: Path) -> dict[str, str]:
    """An environment whose Python processes, and theirs in turn, cannot import what only exports need."""
    path.mkdir()
    (path / "sitecustomize.py").write_text(ABSENT)
    return {**os.environ, "PYTHONPATH": str(path)}


def test_the_demo_runs_where_torch_is_not_installed(shipped: Bundle, tmp_path: Path) -> None:
    environment, out = without_exporter(tmp_path / "site"), tmp_path / "out"
    line = [*MODULE, "demo", "--frames", "2", "--out", str(out)]
    done = subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["model"], summary["weights"]) == ("mini", shipped.weights)
    assert (summary["frames"], summary["frames_lost"], summary["windows_run_at_edge"]) == (2, 0, 0)
    assert "iou_with_unsplit" not in summary  # for which it would need the unsplit model
    for frame in (out / "frames").iterdir():
        with Image.open(frame) as before, Image.open(out / f"overlay/{frame.stem}.jpg") as after:
            assert stamped(np.asarray(before), np.asarray(after)) == (shipped.weights != "distilled")


@pytest.mark.parametrize("name", ["torch", "onnx", "segment_anything"])
def test_that_environment_lacks_it(tmp_path: Path, name: str) -> None:
    environment = without_exporter(tmp_path / "site")
    line = [sys.executable, "-c", f"import {name}"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert f"ModuleNotFoundError: No module named '{name}'" in done.stderr


@pytest.fixture
def installed_elsewhere(tmp_path: Path) -> Path:
    """pedsam's packages in a folder, without the bundle, as in a container."""
    for name in ("pedsam", "media", "server", "runtime"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "stages").mkdir()
    for path in (ROOT / "stages").iterdir():
        if path.name != SHIPPED.name:
            (tmp_path / "stages" / path.name).symlink_to(path)
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [["serve"], ["demo"], ["run", "--source", "x.png", "--out", "out", "--point", "1,1"]],
    ids=lambda arguments: arguments[0],
)
def test_without_it_commands_ask_for_a_bundle(installed_elsewhere: Path, arguments: list[str]) -> None:
    line = [*MODULE, *arguments]
    done = subprocess.run(line, cwd=installed_elsewhere, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"Error: {installed_elsewhere}/stages/mini, the bundle that comes with pedsam, is missing, "
        "as it is in containers; install pedsam again, or give --bundle\n"
    )
    assert not (installed_elsewhere / "out").exists()
