"""`pedsam export`: what it says and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from export.checkpoints.bundle_weights import weights_of
from export.checkpoints.load import load_weights, save_weights
from export.projection import Projection
from export.sam import build_sam
from pedsam.command import main
from stages.bundle import Bundle
from stages.geometry import GEOMETRIES
from stages.tile_code import TileCode
from tests.support.bundles import export_log, tiny_bundle
from tests.support.engines import linked

WEIGHTS = Path(__file__).parents[2] / "assets/mini.safetensors"


def test_the_command_says_what_it_checked(mini_bundle: Bundle) -> None:
    """The fixture's bundle comes from `pedsam export` itself."""
    assert mini_bundle.weights == "untrained"
    printed = export_log(mini_bundle.path).read_text()
    for words in ("window   onnxruntime against PyTorch", "chain    against", "masks are meaningless"):
        assert words in printed


PLAIN = ["--model", "mini", "--checkpoint", "plain"]  # weights that were trained without components
REFUSALS = {
    "components without photos": ([*PLAIN, "--components", "64"], "give --photos FOLDER with some dozens"),
    "no components": ([*PLAIN, "--components", "0"], "0 is not in the range"),
    "too many components": ([*PLAIN, "--components", "193"], "more than the 192 channels"),
    "photos for nothing": ([*PLAIN, "--photos", "."], "--photos fits fewer --components, and"),
    "photos for all": (
        [*PLAIN, "--photos", ".", "--components", "192"],
        "--photos fits fewer --components, and",
    ),
    "no weights": (["--model", "vit_h"], "sam_vit_h_4b8939.pth (2.56 GB) and give --checkpoint"),
    "mini without": (["--model", "mini"], "give --checkpoint assets/mini.safetensors, those of a clone"),
    "small without": (["--model", "small"], "give --checkpoint assets/small.safetensors, those of a clone"),
    "both": (
        ["--model", "mini", "--random-weights", "--checkpoint", "x"],
        "give one of --checkpoint, --random-weights",
    ),
    "unknown model": (["--model", "vit_x", "--random-weights"], "'vit_x' is not one of"),
    "no code": (["--model", "mini", "--random-weights", "--tiles", "dct:99"], "expected rgb, or dct:L/C"),
    "missing file": (["--model", "vit_b", "--checkpoint", "nowhere.pth"], "nowhere.pth does not exist"),
}


def test_a_coded_export_says_what_the_code_loses(request: pytest.FixtureRequest) -> None:
    bundle = tiny_bundle(request.config, "dct:10/3")
    assert 10 < bundle.parity["tiles_psnr_db"] < 60
    assert 0 <= bundle.parity["tiles_saturated"] < 0.05


@pytest.mark.parametrize("case", REFUSALS)
def test_the_command_refuses(case: str, tmp_path: Path) -> None:
    arguments, words = REFUSALS[case]
    if "plain" in arguments:
        save_weights(
            build_sam(GEOMETRIES["mini"]).state_dict(), tmp_path / "plain.safetensors", "distilled", "a test"
        )
        arguments = [str(tmp_path / "plain.safetensors") if word == "plain" else word for word in arguments]
    result = CliRunner().invoke(main, ["export", *arguments, "--out", str(tmp_path / "bundle")])
    assert result.exit_code != 0
    assert words in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "bundle").exists()


def test_a_directory_that_is_no_bundle_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    arguments = ["export", "--model", "mini", "--random-weights", "--out", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code != 0
    assert "is no bundle" in result.output
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_the_command_refuses_weights_that_fp16_cannot_hold(tmp_path: Path) -> None:
    sam = build_sam(GEOMETRIES["mini"])
    sam.image_encoder.neck[2].weight.data[0, 0, 0, 0] = 7e4
    save_weights(sam.state_dict(), tmp_path / "large.safetensors", "distilled", "a test")
    arguments = ["export", "--model", "mini", "--checkpoint", str(tmp_path / "large.safetensors")]
    result = CliRunner().invoke(main, [*arguments, "--compact", "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "Error: image_encoder.neck.2.weight has values beyond the range of fp16" in result.output
    assert list(tmp_path.iterdir()) == [tmp_path / "large.safetensors"]


def test_the_command_keeps_nothing_of_a_stage_that_overflows(tmp_path: Path) -> None:
    weights = load_weights(None, WEIGHTS)
    block = weights.sam.image_encoder.blocks[weights.geometry.global_blocks[1]]
    block.mlp.lin1.weight.data *= 2e4  # in the range of fp16 itself
    save_weights(weights.sam.state_dict(), tmp_path / "large.safetensors", "distilled", "a test")
    line = ["export", "--model", "mini", "--checkpoint", str(tmp_path / "large.safetensors")]
    result = CliRunner().invoke(main, [*line, "--precision", "fp16", "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "Error: stage global overflows float16 in addmm of blocks.1.mlp.lin1" in result.output
    assert "give --precision global=bf16 (or fp32)" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["large.safetensors"]


def test_a_bundle_travels_as_its_weights_were_trained_and_is_recoded_so(tmp_path: Path) -> None:
    weights, code = load_weights(None, WEIGHTS), TileCode.parse("dct:6/3")
    projection = Projection(torch.zeros(192), torch.eye(192)[:, :12].contiguous(), 0.5)
    thin, out = tmp_path / "thin.safetensors", tmp_path / "out"
    save_weights(weights.sam.state_dict(), thin, "distilled", "a test", projection, code)
    done = CliRunner().invoke(main, ["export", "--recode", str(thin), "--out", str(out)])
    assert done.exit_code == 0, done.output
    bundle = Bundle.load(out)
    assert (bundle.tiles, bundle.components, bundle.variance_kept) == (code, 12, 0.5)
    read = weights_of(out)
    assert read.tiles == code
    assert read.projection is not None
    assert torch.equal(read.projection.basis, projection.basis)


def export_to(out: Path) -> str:
    """What an export of mini to a folder that it must not replace says, well before it has made anything."""
    line = ["export", "--model", "mini", "--random-weights", "--out", str(out)]
    result = CliRunner().invoke(main, line)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    return result.output


def test_a_folder_with_another_programs_bundle_json_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text('{"entries": ["app.js"]}')
    (tmp_path / "app.js").write_text("years of work")
    assert "is no bundle; give --out another directory" in export_to(tmp_path)
    assert (tmp_path / "app.js").read_text() == "years of work"


def test_a_bundle_that_holds_something_of_the_users_is_left_alone(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    bundle = linked(mini_bundle, tmp_path / "bundle")
    (bundle.path / "notes.txt").write_text("years of work")
    assert "holds notes.txt, which is no part of a bundle and would be lost" in export_to(bundle.path)
    assert (bundle.path / "notes.txt").read_text() == "years of work"
