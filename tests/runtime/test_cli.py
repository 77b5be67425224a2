"""`pedsam run` as it is typed: what it writes, and one sentence for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

import pedsam
from runtime.sinks import decode_mask
from stages.bundle import Bundle
from tests.edge import sites_file, write_photo

BOX = ("--box", "150,60,450,300")


def pedsam_run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(pedsam.main, ["run", *map(str, arguments)])


@pytest.fixture
def line(mini_bundle: Bundle, tmp_path: Path) -> list[str | Path]:
    """Arguments of a run that is complete but for its prompt."""
    picture = write_photo(tmp_path / "cup.png")
    line: list[str | Path] = ["--bundle", mini_bundle.path, "--source", picture, "--out", tmp_path / "out"]
    return [*line, "--allow-undistilled", "--threads", "1"]


def test_a_picture_without_sites(line: list[str | Path], tmp_path: Path) -> None:
    result = pedsam_run(*line, *BOX, "--point", "30,30", "--verify")
    assert result.exit_code == 0, result.output
    objects = [json.loads(text) for text in (tmp_path / "out/masks.jsonl").read_text().splitlines()]
    assert [entry["object"] for entry in objects] == ["1", "2"]
    for entry in objects:
        assert entry["segmentation"]["size"] == [360, 640]
        assert 0.02 < decode_mask(entry["segmentation"]).mean() < 0.98
    with Image.open(tmp_path / "out/overlay/cup.jpg") as overlay:
        assert overlay.size == (640, 360)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["iou_with_unsplit"] >= 0.999
    assert (summary["frames"], summary["frames_lost"], summary["sites"]) == (1, 0, {})
    assert "mini, untrained weights, fp16 wire" in result.output
    assert result.output.splitlines()[-1] == f"limited by {summary['limited_by']}"


def test_weights_that_draw_no_usable_masks_are_refused(line: list[str | Path], tmp_path: Path) -> None:
    line.remove("--allow-undistilled")
    assert "untrained weights, whose masks are not meaningful" in sentence(pedsam_run(*line, *BOX))
    assert not (tmp_path / "out").exists()


def sentence(result: Result) -> str:
    """The error of a run that was refused: one sentence, nothing else of it, and no traceback."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2)
    *usage, error = result.output.splitlines()
    assert error.startswith("Error: ")
    assert all(text.startswith(("Usage:", "Try '")) or not text for text in usage)
    return error


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "nothing to segment: give --box"),
        (["--box", "1,2,3"], "'1,2,3' is not x0,y0,x1,y1 in pixels"),
        (["--box", "1,2,3,x"], "'1,2,3,x' is not x0,y0,x1,y1"),
        (["--box", "9,2,3,4"], "box of object 1 is empty"),
        (["--box", "nan,2,3,4"], "coordinate that lies in no picture"),
        (["--point", "1,2,3"], "'1,2,3' is not x,y in pixels"),
        (["--point", "999,1"], "point 999,1 of object 1 lies outside the frame of 640 x 360 pixels"),
        (["--prompts", "absent.json"], "prompts file absent.json cannot be read"),
        ([*BOX, "--sites", "absent.toml"], "sites file absent.toml cannot be read"),
        ([*BOX, "--source", "absent.png"], "source absent.png does not exist"),
        ([*BOX, "--bundle", "absent"], "absent is no bundle: it holds no bundle.json"),
        ([*BOX, "--wire", "fp32"], "does not offer --wire fp32"),
        ([*BOX, "--wire", "fp64"], "'fp64' is not one of"),
        ([*BOX, "--threads", "0"], "0 is not in the range"),
        ([*BOX, "--backend", "magic"], "'magic' is not one of"),
        ([*BOX, "--sight"], "No such option"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(line: list[str | Path], more: list[str], words: str) -> None:
    assert words in sentence(pedsam_run(*line, *more))


def test_one_operator_alone_is_told_in_one_sentence(line: list[str | Path], tmp_path: Path) -> None:
    sites = sites_file(tmp_path / "sites.toml", ("a", "http://127.0.0.1:1"))
    assert "give --accept-exposure" in sentence(pedsam_run(*line, *BOX, "--sites", sites))


def test_sites_over_plain_http_off_loopback_need_insecure(line: list[str | Path], tmp_path: Path) -> None:
    sites = sites_file(
        tmp_path / "sites.toml", ("a", "http://203.0.113.1:80"), ("b", "http://203.0.113.2:80")
    )
    assert "site a is reached over plain http" in sentence(pedsam_run(*line, *BOX, "--sites", sites))


def test_a_ledger_that_is_damaged_is_told_in_one_sentence(line: list[str | Path], tmp_path: Path) -> None:
    sites = sites_file(tmp_path / "sites.toml", ("a", "http://127.0.0.1:1"), ("b", "http://127.0.0.1:2"))
    (tmp_path / "sites.ledger.json").write_text("{")
    assert "--new-session" in sentence(pedsam_run(*line, *BOX, "--sites", sites))


def test_an_output_folder_that_is_a_file_is_told_in_one_sentence(
    line: list[str | Path], tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("in the way")
    assert "cannot write" in sentence(pedsam_run(*line, *BOX))


def test_the_command_group_lists_its_commands_without_importing_them() -> None:
    result = CliRunner().invoke(pedsam.main, ["--help"])
    assert result.exit_code == 0
    assert all(name in result.output for name in ("export", "serve", "run", "demo"))
    unknown = CliRunner().invoke(pedsam.main, ["fly"])
    assert unknown.exit_code == 2
    assert "No such command 'fly'" in unknown.output
