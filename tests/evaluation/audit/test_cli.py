"""`pedsam audit` as it is typed: what is written and printed, a sentence for each mistake, no site asked."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import pedsam
from evaluation.audit import faces, words
from evaluation.audit.faces import find_recogniser
from evaluation.audit.words import find_reader
from runtime.demo.demo import photo
from stages.bundle import shipped_bundle
from tests.evaluation.data import write_pair

SITES = """
[[site]]
name = "a1"
operator = "a"
url = "http://127.0.0.1:{port}"
cap = 9
[[site]]
name = "a2"
operator = "a"
url = "http://127.0.0.1:{port}/2"
[[site]]
name = "b"
operator = "b"
url = "http://127.0.0.1:{port}/b"
cap = 6
"""


def pedsam_audit(*arguments: str | Path) -> Result:
    """Without faces and words, which take a second a picture, unless they are asked for."""
    quick = () if "--recognise" in arguments else ("--no-recognise",)
    wide = {"COLUMNS": "200"}  # no cell of a table is broken
    return CliRunner(env=wide).invoke(pedsam.main, ["audit", *map(str, arguments), *quick])


def report_of(result: Result, out: Path) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads((out / "audit.json").read_text())
    return report


def figure(report: dict[str, Any], setting: str, name: str, coalition: int = 1) -> float:
    (found,) = [
        each for each in report["results"] if (each["setting"], each["coalition"]) == (setting, coalition)
    ]
    mean: float = found["figures"][name]["mean"]
    return mean


def test_what_is_written_and_printed(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = ("--data", pairs, "--out", out, "--operators", "1,3", "--coalition", "2", "--tiles", "dct:6/3")
    result = pedsam_audit(*line)
    report = report_of(result, out)
    settings = [each["setting"] for each in report["results"]]
    assert settings == ["undivided", "1 operator", "3 operators", "3 operators"]
    assert figure(report, "1 operator", "area") == figure(report, "undivided", "area") == 1
    assert 1 / 3 <= figure(report, "3 operators", "area") < 0.5
    assert figure(report, "3 operators", "area", 2) > 0.6
    assert figure(report, "3 operators", "psnr_membrane") > figure(report, "3 operators", "psnr_mean_colour")
    assert 15 < figure(report, "3 operators", "psnr_given") < 40
    assert report["results"][2]["figures"]["objects_held"]["values"] == 5
    assert report["results"][2]["sent"]["frames"] == 3
    assert {path.name for path in out.iterdir()} == {".pedsam-audit", "audit.json", "sheet.png"}
    for phrase in ("3 operators, 2 together", "dct:6/3", "what some operator could learn"):
        assert phrase in " ".join(result.output.split())
    with Image.open(out / "sheet.png") as sheet:
        assert np.asarray(sheet).std() > 20


def test_an_operator_a_window(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = report_of(pedsam_audit("--data", pairs, "--out", out, "--partition", "5x5", "--no-sheet"), out)
    assert report["results"][1]["operators"] == 25
    assert figure(report, "partition 5x5", "area") < 0.1
    assert figure(report, "partition 5x5", "windows") == 1
    assert report["results"][1]["largest_share_of_positions"] < 0.1


def test_the_sites_of_a_file_are_played_and_not_contacted(pairs: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        toml = tmp_path / "sites.toml"
        toml.write_text(SITES.format(port=listener.getsockname()[1]), encoding="utf-8")
        out = tmp_path / "out"
        report = report_of(
            pedsam_audit("--data", pairs, "--out", out, "--sites", toml, "--failures", "0"), out
        )
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert [each["setting"] for each in report["results"]] == ["undivided", "sites.toml"]
    assert report["results"][1]["operators"] == 2
    assert report["results"][1]["sent"]["computed_at_the_edge"] > 0  # 20 or 25 windows, caps of 9 and 6
    assert not list(tmp_path.glob("*.ledger*"))


def test_what_is_kept_is_held_by_nobody(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = ("--data", pairs, "--out", out, "--operators", "1", "--failures", "0")
    whole = figure(report_of(pedsam_audit(*line), out), "1 operator", "area")
    done = pedsam_audit(*line, "--keep-box", "0,0,200,200")
    assert "kept: boxes" in " ".join(done.output.split())
    report = report_of(done, out)
    assert (report["keep"], report["keep_boxes"]) == ([], [[0, 0, 200, 200]])
    assert figure(report, "1 operator", "area") < 0.8 * whole
    assert report["results"][1]["sent"]["kept"] > 0


def test_a_model_needs_no_bundle(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = (
        "--data",
        pairs,
        "--out",
        out,
        "--model",
        "vit_b",
        "--operators",
        "3",
        "--limit",
        "1",
        "--no-sheet",
    )
    report = report_of(pedsam_audit(*line), out)
    assert (report["canvas_px"], report["tile_px"]) == (1024, 224)
    assert not (out / "sheet.png").exists()


def test_frames_of_a_folder_are_one_scene(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = report_of(
        pedsam_audit("--data", pairs, "--out", out, "--sequence", "--operators", "3", "--limit", "2"), out
    )
    assert (report["kind"], report["pictures"]) == ("video", 2)
    assert [row["frames"] for row in report["mosaic"]] == [1, 1]  # frames of two shapes are two sessions
    assert report["results"][1]["figures"]["area"]["interval95"] is None
    assert report["embeddings"] == {}


def no_pictures(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def no_picture(folder: Path) -> Path:
    (folder / "text.txt").write_text("no picture")
    return folder / "text.txt"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--coalition", "4", "--operators", "1,3"), "--coalition 4 is more than there are operators"),
        (("--partition", "2x2"), "--partition '2x2' is none of 1x1 and 5x5, an operator a window"),
        (("--operators", "0"), "0 is no list like 1,2,3 of 1 to 100 operators"),
        (("--tiles", "jpeg"), "--tiles is 'jpeg', expected rgb, or dct:L/C"),
        (("--model", "vit_b", "--bundle", str(shipped_bundle())), "give --bundle or --model"),
        (("--data", "absent"), "--data absent is not there"),
        (("--data", no_pictures), "holds no pictures"),
        (("--data", no_picture), "is no picture and no video"),
        (("--sites", "absent.toml"), "absent.toml"),
        (("--keep-box", "5000,0,6000,10"), "--keep-box 5000,0,6000,10"),
        (("--keep", "wheels"), "'wheels' is nothing that can be kept"),
    ],
)  # fmt: skip
def test_a_mistake_is_a_sentence(more: tuple[Any, ...], says: str, pairs: Path, tmp_path: Path) -> None:
    words = [each(tmp_path) if callable(each) else each for each in more]
    result = pedsam_audit("--data", pairs, "--out", tmp_path / "out", *words)
    assert result.exit_code in (1, 2)
    assert says in result.output
    assert "Traceback" not in result.output


def test_files_of_others_stay(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "audit.json").write_text("mine")
    result = pedsam_audit("--data", pairs, "--out", out, "--operators", "3")
    assert result.exit_code == 1
    assert "no earlier run is known to have written it" in result.output
    assert (out / "audit.json").read_text() == "mine"


def test_pictures_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    write_pair(folder, "a", "16:9", (60, 40, 320, 200))
    (folder / "b.jpg").write_bytes(b"no picture")
    result = pedsam_audit("--data", folder, "--out", tmp_path / "out", "--operators", "3")
    assert report_of(result, tmp_path / "out")["pictures"] == 1
    assert "1 " in result.output
    assert "that cannot be" in result.output


def test_faces_and_words_are_looked_for_and_what_cannot_be_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(photo("astronaut")).save(folder / "a.png")
    result = pedsam_audit("--data", folder, "--out", tmp_path / "out", "--operators", "3", "--recognise")
    report = report_of(result, tmp_path / "out")
    assert figure(report, "undivided", "faces_found") == 1
    assert figure(report, "3 operators", "faces_found") in (0, 1)
    told = " ".join(result.output.split())
    for found, sentence, name in (
        (find_recogniser(), faces.MISSING, "faces_recognised"),
        (find_reader(), words.MISSING, "words_read"),
    ):
        assert (found is None) == (sentence in told) == (sentence in report["not_measured"])
        assert (found is None) == (name not in report["results"][0]["figures"])
    kept = ("--keep", "faces", "--keep-px", "512")
    report = report_of(
        pedsam_audit("--data", folder, "--out", tmp_path / "out", "--operators", "3", "--recognise", *kept),
        tmp_path / "out",
    )
    assert figure(report, "3 operators", "faces_found") == 0
    assert report["results"][1]["sent"]["kept"] > 0
