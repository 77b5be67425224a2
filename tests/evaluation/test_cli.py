"""`pedsam evaluate` as it is typed: three ways that agree, what is written, one sentence for each mistake."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anyio import to_thread
from click.testing import CliRunner, Result

import pedsam
from evaluation.cli import SHARED
from evaluation.cli import command as evaluate_command
from evaluation.evaluate import MARKER
from export.sam import Sam, SamPredictor, build_sam, randomise
from runtime.results.run_folder import locked_folder
from server.serve import ServeOptions, running_site
from stages.bundle import Bundle, shipped_bundle
from stages.geometry import GEOMETRIES
from tests.evaluation.data import write_pair
from tests.support.bundles import ROOT
from tests.support.edge import Impostor, sites_file, status
from tests.support.training import masks_of, mobile_sam
from training.data import read_samples
from training.tally import Tally
from training.teachers import load_teacher

KEYS = {
    "miou", "interval95", "share_over_half", "floors", "instances", "pictures", "how", "wire", "blur",
    "subject", "latency_ms", "data", "read", "left_out", "machine", "date",
}  # fmt: skip


def pedsam_evaluate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(pedsam.main, ["evaluate", *map(str, arguments)])


async def beside_the_loop(*arguments: str | Path) -> Result:
    """While sites of this process go on answering."""
    return await to_thread.run_sync(lambda: pedsam_evaluate(*arguments))


@pytest.fixture
def line(mini_bundle: Bundle, pairs: Path, tmp_path: Path) -> list[str | Path]:
    """Arguments of an evaluation that is complete."""
    return ["--bundle", mini_bundle.path, "--data", pairs, "--out", tmp_path / "out", "--threads", "1"]


def report_of(result: Result, out: Path) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def partial_bundle(bundle: Bundle, path: Path, missing: str) -> Path:
    path.mkdir()
    for part in {"bundle.json", "edge", "window", "global", "decoder", "whole"} - {missing}:
        (path / part).symlink_to(bundle.path / part)
    return path


@pytest.mark.anyio
async def test_sites_split_and_whole_agree(
    line: list[str | Path], mini_bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    split = report_of(await beside_the_loop(*line), out)
    whole = report_of(await beside_the_loop(*line, "--whole"), out)
    edge = partial_bundle(mini_bundle, tmp_path / "edge", "window")
    async with AsyncExitStack() as stack:
        urls = []
        for name in "abc":
            site = await stack.enter_async_context(running_site(mini_bundle, ServeOptions(port=0, threads=1)))
            urls.append((name, site.url))
        sites = sites_file(tmp_path / "sites.toml", *urls)
        more = ("--sites", sites, "--bundle", edge)
        through = report_of(await beside_the_loop(*line, *more), out)
    assert (split["how"], whole["how"], through["how"]) == ("split", "whole", "sites")
    assert (split["wire"], whole["wire"], through["wire"]) == ("fp16", None, "fp16")
    for kind in ("point", "box"):
        assert 0 < whole["miou"][kind] < 1
        assert split["miou"][kind] == pytest.approx(whole["miou"][kind], abs=0.01)
        assert through["miou"][kind] == pytest.approx(split["miou"][kind], abs=0.01)
    assert split["floors"] == whole["floors"] == through["floors"]


def test_a_folder_holds_one_evaluation(line: list[str | Path], tmp_path: Path) -> None:
    """A sheet of an earlier one goes, and two at once are refused."""
    out = tmp_path / "out"
    with locked_folder(out, MARKER):
        result = pedsam_evaluate(*line)
    assert result.exit_code == 1
    assert "another run writes into" in result.output
    assert pedsam_evaluate(*line, "--limit", "1").exit_code == 0
    assert (out / "sheet.png").exists()
    assert pedsam_evaluate(*line, "--limit", "1", "--no-sheet").exit_code == 0
    assert {path.name for path in out.iterdir()} == {MARKER, "report.json", "instances.csv"}


def test_results_of_before_stay_until_there_are_new_ones_and_are_told(
    line: list[str | Path], tmp_path: Path
) -> None:
    still = f"; {tmp_path / 'out'} still holds the results of an earlier run"
    assert "still holds" not in sentence(pedsam_evaluate(*line, "--data", "absent"))
    report = report_of(pedsam_evaluate(*line, "--limit", "1", "--no-sheet"), tmp_path / "out")
    assert sentence(pedsam_evaluate(*line, "--data", "absent")).endswith(still)
    assert json.loads((tmp_path / "out/report.json").read_text()) == report


def test_what_is_written_and_printed(line: list[str | Path], mini_bundle: Bundle, tmp_path: Path) -> None:
    result = pedsam_evaluate(*line, "--wire", "int8")
    report = report_of(result, tmp_path / "out")
    assert set(report) >= KEYS
    assert (report["pictures"], report["instances"], report["data"]) == (3, 5, "pairs")
    assert (report["wire"], report["blur"]) == ("int8", 0)
    assert report["subject"]["site_digest"] == mini_bundle.site_digest
    assert report["subject"]["weights"] == "untrained"
    assert report["floors"]["box"] == 1.0  # the instances are boxes
    for kind in ("point", "box"):
        low, high = report["interval95"][kind]
        assert low <= report["miou"][kind] <= high
        assert report["share_over_half"][kind] <= 1
    for part in report["latency_ms"].values():
        assert 0 < part["p50"] <= part["p95"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        MARKER, "report.json", "instances.csv", "sheet.png"
    }  # fmt: skip
    with (tmp_path / "out/instances.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["picture"], row["instance"]) for row in rows] == [
        ("a", "1"), ("a", "2"), ("b", "1"), ("c", "1"), ("c", "2")
    ]  # fmt: skip
    mean = sum(float(row["iou_point"]) for row in rows) / len(rows)
    assert mean == pytest.approx(report["miou"]["point"], abs=1e-5)
    assert float(rows[2]["area_share"]) == pytest.approx(260 * 220 / (480 * 360), abs=1e-6)
    assert "mini (untrained weights), split, int8 wire; 3 pictures" in result.output
    for words in ("point", "box", "floor: box as mask", "floor: ellipse as mask", "encode a picture"):
        assert words in result.output


def test_one_kind_no_sheet_and_a_limit(line: list[str | Path], tmp_path: Path) -> None:
    result = pedsam_evaluate(*line, "--prompts", "box", "--no-sheet", "--limit", "1", "--seed", "3")
    report = report_of(result, tmp_path / "out")
    assert set(report["miou"]) == {"box"}
    assert report["pictures"] == 1
    assert report["interval95"] == {"box": None}
    assert "one picture" in result.output
    assert not (tmp_path / "out/sheet.png").exists()


def test_a_blur_changes_what_is_measured_and_is_reported(line: list[str | Path], tmp_path: Path) -> None:
    sharp = report_of(pedsam_evaluate(*line, "--no-sheet"), tmp_path / "out")
    result = pedsam_evaluate(*line, "--no-sheet", "--blur", "16")
    soft = report_of(result, tmp_path / "out")
    assert soft["blur"] == 16
    assert soft["miou"] != sharp["miou"]
    assert soft["floors"] == sharp["floors"]
    assert "blur 16" in result.output


def sentence(result: Result) -> str:
    """The error of an evaluation that was refused: one sentence and no traceback."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2)
    error = result.output.splitlines()[-1]
    assert error.startswith("Error: ")
    return error


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--prompts", "point,scribble"], "prompt kind 'scribble' is unknown; give --prompts point or box"),
        (["--data", "absent"], "absent does not exist"),
        (["--whole", "--sites", "sites.toml"], "give either --whole or --sites"),
        (["--whole", "--wire", "int8"], "give either --whole or --wire"),
        (["--blur", "-1"], "-1.0 is not in the range x>=0"),
        (["--blur", "inf"], "inf is no number up to 1000000000"),
        (["--blur", "nan"], "nan is no number up to 1000000000"),
        (["--out", "/dev/null/out"], "cannot write /dev/null/out; check free space and permissions there"),
        (["--out", "/proc"], "cannot write /proc; check free space and permissions there"),
        (["--bundle", "absent"], "absent is no bundle"),
        (["--sites", "absent.toml"], "sites file absent.toml cannot be read"),
        (["--wire", "fp32"], "does not offer --wire fp32"),
        (["--limit", "0"], "0 is not in the range"),
        (["--checkpoint", "a.pth"], "--checkpoint is run by PyTorch; give it without --bundle"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(line: list[str | Path], more: list[str], words: str) -> None:
    assert words in sentence(pedsam_evaluate(*line, *more))


@pytest.mark.parametrize("more", [["--wire", "int8"], ["--whole"], ["--sites", "sites.toml"]])
def test_what_belongs_to_a_bundle_is_refused_beside_a_checkpoint(more: list[str], tmp_path: Path) -> None:
    common: list[str | Path] = ["--checkpoint", "a.pth", "--data", tmp_path, "--out", tmp_path]
    assert "--checkpoint is run by PyTorch" in sentence(pedsam_evaluate(*common, *more))


def test_an_empty_folder_is_told(line: list[str | Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no pictures with masks" in sentence(pedsam_evaluate(*line, "--data", tmp_path / "empty"))


def test_data_without_instances_is_told(line: list[str | Path], tmp_path: Path) -> None:
    (tmp_path / "blank").mkdir()
    write_pair(tmp_path / "blank", "a", "square")
    assert "holds an instance" in sentence(pedsam_evaluate(*line, "--data", tmp_path / "blank"))
    assert not (tmp_path / "out/report.json").exists()


def test_a_bundle_without_the_whole_stage_is_told(
    line: list[str | Path], mini_bundle: Bundle, tmp_path: Path
) -> None:
    bundle = partial_bundle(mini_bundle, tmp_path / "partial", "whole")
    error = sentence(pedsam_evaluate(*line, "--bundle", bundle, "--whole"))
    assert "whole/model.onnx" in error
    assert "is missing; copy it from the full bundle" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.anyio
async def test_a_picture_that_no_site_can_do_ends_the_evaluation(
    line: list[str | Path], mini_bundle: Bundle, tmp_path: Path
) -> None:
    for name in "bc":  # of one shape the caps leave no room
        (tmp_path / f"pairs/{name}.jpg").unlink()
    edge = partial_bundle(mini_bundle, tmp_path / "edge", "window")
    impostors = {name: Impostor(mini_bundle) for name in "abc"}
    impostors["b"].script.append(status(500))
    async with AsyncExitStack() as stack:
        urls = [(name, await stack.enter_async_context(each.running())) for name, each in impostors.items()]
        sites = sites_file(tmp_path / "sites.toml", *urls)
        result = await beside_the_loop(*line, "--sites", sites, "--bundle", edge)
    assert "picture a cannot be computed: window" in (error := sentence(result))
    assert "operator operator-b does not answer" in error
    assert not (tmp_path / "out/report.json").exists()


def test_measuring_needs_no_torch() -> None:
    lines = "import sys; sys.modules['torch'] = None; import evaluation.cli"
    done = subprocess.run(
        [sys.executable, "-c", lines], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_a_checkpoint_is_measured_in_its_own_block_order(
    line: list[str | Path], mini_bundle: Bundle, tmp_path: Path
) -> None:
    """Equal weights: masks of the reordered bundle differ, those of SAM's own predictor do not."""
    sam = build_sam(GEOMETRIES["mini"])
    randomise(sam)
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    own = ["--checkpoint", tmp_path / "sam.pth", *line[2:], "--prompts", "box", "--no-sheet"]
    report = report_of(pedsam_evaluate(*own), tmp_path / "out")
    assert report["how"] == "whole"
    assert report["subject"]["description"] == "mini (undistilled weights, original block order)"
    reordered = report_of(pedsam_evaluate(*line, "--prompts", "box", "--no-sheet"), tmp_path / "out")
    assert abs(report["miou"]["box"] - reordered["miou"]["box"]) > 1e-3
    assert report["miou"]["box"] == pytest.approx(predicted_miou(sam, tmp_path / "pairs"), abs=1e-3)


def predicted_miou(sam: Sam, data: Path) -> float:
    """Mean IoU over instances of what segment_anything's predictor makes of their boxes."""
    predictor = SamPredictor(sam)
    ious = []
    for sample in read_samples(data, None, Tally()):
        predictor.set_image(sample.image())
        for mask in masks_of(sample):
            rows, cols = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
            box = np.array([cols[0], rows[0], cols[-1] + 1, rows[-1] + 1])
            found, _, _ = predictor.predict(box=box, multimask_output=False)
            ious.append((found[0] & mask).sum() / (found[0] | mask).sum())
    return float(np.mean(ious))


def test_mobile_sam_is_measured_at_its_own_size(line: list[str | Path], tmp_path: Path) -> None:
    torch.save(mobile_sam(), tmp_path / "mobile_sam.pt")
    own = ["--checkpoint", tmp_path / "mobile_sam.pt", *line[2:], "--prompts", "box", "--no-sheet"]
    report = report_of(pedsam_evaluate(*own), tmp_path / "out")
    assert report["subject"]["description"] == "MobileSAM"
    teacher = load_teacher(tmp_path / "mobile_sam.pt")
    student = teacher.student(GEOMETRIES["vit_b"])
    sam, geometry = student.sam, student.geometry
    sam.image_encoder = teacher.encoder.eval()
    sam.image_encoder.img_size = geometry.image_size
    assert report["miou"]["box"] == pytest.approx(predicted_miou(sam, tmp_path / "pairs"), abs=1e-3)


def test_without_a_bundle_the_shipped_one_is_measured(line: list[str | Path], tmp_path: Path) -> None:
    report = report_of(pedsam_evaluate(*line[2:], "--no-sheet", "--limit", "1"), tmp_path / "out")
    assert report["subject"]["site_digest"] == Bundle.load(shipped_bundle()).site_digest


def test_options_of_run_are_shared() -> None:
    names = [option.name for option in evaluate_command.params]
    assert {option.name for option in SHARED} <= set(names)
    assert len(names) == len(set(names))


def test_what_of_the_data_is_left_out_is_told_and_reported(line: list[str | Path], tmp_path: Path) -> None:
    """COCO as CVAT exports it, with a box, a crowd and a picture that is missing."""
    pictures = tmp_path / "set/images/default"
    pictures.mkdir(parents=True)
    write_pair(pictures, "p", "4:3")
    images = [{"id": 1, "file_name": "p.jpg"}, {"id": 2, "file_name": "gone.jpg"}]
    polygon = {"image_id": 1, "segmentation": [[90, 60, 300, 60, 300, 240, 90, 240]]}
    boxed = {"image_id": 1, "bbox": [1, 1, 90, 90], "segmentation": []}
    annotations = [polygon, boxed, polygon | {"iscrowd": 1}]
    data = tmp_path / "set/annotations/instances_default.json"
    data.parent.mkdir()
    data.write_text(json.dumps({"images": images, "annotations": annotations}))
    more: list[str | Path] = ["--data", data, "--prompts", "box", "--no-sheet"]
    result = pedsam_evaluate(*line, *more)
    report = report_of(result, tmp_path / "out")
    said = " ".join(result.output.split())
    assert "of 3 annotations 2 are left out: 1 with a box and no mask" in said
    assert "of 2 pictures 1 is left out: 1 not found (gone.jpg)" in said
    assert report["instances"] == 1
    assert report["read"] == {"pictures": 2, "annotations": 3}
    assert report["left_out"] == {
        "pictures": {"not found": 1},
        "annotations": {"with a box and no mask": 1, "of crowds": 1},
    }
    elsewhere = pictures.rename(tmp_path / "elsewhere")
    lost = pedsam_evaluate(*line, *more)
    assert lost.exit_code == 1
    assert "pictures were looked for in" in lost.output
    assert "--images FOLDER says where the pictures are" in lost.output
    found = report_of(pedsam_evaluate(*line, *more, "--pictures", elsewhere), tmp_path / "out")
    assert found["instances"] == 1
