"""`pedsam run` as it is typed: what it writes, and one sentence for each mistake."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import pedsam
from runtime.frames.player import Player
from runtime.frames.sources import Source
from runtime.objects.masks import decode_mask
from runtime.objects.prompts import Prompt, Prompts
from runtime.objects.state_file import StateFile, hash_of
from runtime.results.run_folder import run_folder
from stages.bundle import Bundle
from stages.errors import InputError
from tests.support.edge import sites_file, write_photo

BOX = ("--box", "150,60,450,300")
LIVE = ("--source", "rtsp://192.0.2.1/x")


def pedsam_run(*arguments: str | Path, **environment: str) -> Result:
    return CliRunner().invoke(pedsam.main, ["run", *map(str, arguments)], env=environment)


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
    assert "mini, untrained weights, rgb, 192 x fp16" in result.output
    assert result.output.splitlines()[-1] == f"limited by {summary['limited_by']}"


def test_a_folder_has_its_own_times(line: list[str | Path], tmp_path: Path) -> None:
    line[3] = tmp_path / "in"
    (tmp_path / "in").mkdir()
    for name in ("9.png", "10.png"):
        write_photo(tmp_path / "in" / name)
    result = pedsam_run(*line, *BOX, "--fps", "4")
    assert result.exit_code == 0, result.output
    lines = [json.loads(text) for text in (tmp_path / "out/masks.jsonl").read_text().splitlines()]
    assert [(each["source"], each["time_s"]) for each in lines] == [("9", 0.0), ("10", 0.25)]


def test_names_that_are_not_utf_8(line: list[str | Path], tmp_path: Path) -> None:
    name = os.fsdecode(b"photo_\xe9")
    line[3] = write_photo(tmp_path / f"{name}.png")
    line[5] = tmp_path / os.fsdecode(b"out_\xe9")
    (tmp_path / f"half_{name}.png").write_bytes((tmp_path / f"{name}.png").read_bytes()[:3000])
    line[3] = tmp_path
    result = pedsam_run(*line, *BOX)
    assert result.exit_code == 3, result.output  # one of the pictures is lost
    out = tmp_path / line[5]
    assert (out / f"overlay/{name}.jpg").stat().st_size > 1000
    *_, last = (out / "masks.jsonl").read_text().splitlines()
    assert json.loads(last)["source"] == r"photo_\udce9"
    assert list(json.loads((out / "summary.json").read_text())["lost"]) == [r"half_photo_\udce9"]
    for text in (last, (out / "summary.json").read_text()):  # no half of a pair, which strict readers refuse
        json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8")


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
        (["--verify", "--preview", "0"], "nothing to segment: give --box"),
        (["--box", "1,2,3"], "expected x0,y0,x1,y1 in pixels of the frame, not '1,2,3'"),
        (["--box", "1,2,3,x"], "expected x0,y0,x1,y1 in pixels of the frame, not '1,2,3,x'"),
        (["--box", "9,2,3,4"], "box of object 1 is empty"),
        (["--box", "nan,2,3,4"], "coordinate that is not a finite number below 1e6"),
        (["--point", "1,2,3"], "expected x,y in pixels of the frame, not '1,2,3'"),
        (["--point", "999,1"], "point 999,1 of object 1 lies outside the frame of 640 x 360 pixels"),
        (["--prompts", "absent.json"], "prompts file absent.json cannot be read"),
        ([*BOX, "--sites", "absent.toml"], "sites file absent.toml cannot be read"),
        ([*BOX, "--source", "absent.png"], "source absent.png does not exist"),
        ([*BOX, "--bundle", "absent"], "absent is no bundle"),
        ([*BOX, "--wire", "fp32"], "does not offer --wire fp32"),
        ([*BOX, "--wire", "fp64"], "'fp64' is not one of"),
        ([*BOX, "--threads", "0"], "0 is not in the range"),
        ([*BOX, "--backend", "magic"], "'magic' is not one of"),
        ([*BOX, "--sight"], "No such option"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(line: list[str | Path], more: list[str], words: str) -> None:
    assert words in sentence(pedsam_run(*line, *more))


@pytest.mark.parametrize(
    "more",
    [
        ["rtsp://admin:s3cret@cam/x"],
        ["admin:s3cret@cam/x"],
        ["--source", "rtsp://admin:s3cret", "@cam/x"],
        ["--source", "rtmp2://admin:s3cret@cam/x"],
        ["--camera-proxy", "s3cret"],
        ["--camera-proxy", "https://u:s3cret@proxy"],
        ["--source=rtsp://a/x", "--camera-proxy", "http://u:s3cret@proxy"],
        ["--camera-fps", "rtsp://admin:s3cret@cam"],
    ],
)
def test_no_mistake_shows_a_password(line: list[str | Path], more: list[str]) -> None:
    assert "s3cret" not in sentence(pedsam_run(*line, *BOX, *more))


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
    assert "is a file where a folder is needed" in sentence(pedsam_run(*line, *BOX))


def test_the_command_group_lists_its_commands_without_importing_them() -> None:
    result = CliRunner().invoke(pedsam.main, ["--help"])
    assert result.exit_code == 0
    assert all(name in result.output for name in ("export", "serve", "run", "demo"))
    unknown = CliRunner().invoke(pedsam.main, ["fly"])
    assert unknown.exit_code == 2
    assert "No such command 'fly'" in unknown.output


def test_a_dry_run_reads_everything_and_opens_nothing(line: list[str | Path], tmp_path: Path) -> None:
    sites = sites_file(tmp_path / "sites.toml", ("a", "http://127.0.0.1:1"), ("b", "http://127.0.0.1:2"))
    result = pedsam_run(*line, *BOX, "--sites", sites, "--dry-run")
    assert (result.exit_code, result.output) == (0, "nothing is wrong with these options and files\n")
    assert not (tmp_path / "out").exists()
    assert not sites.with_suffix(".ledger.json").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ((), "nothing to segment"),
        (("--preview", "8080", "--preview-host", "192.0.2.1"), "192.0.2.1 is not a loopback address"),
        (("--metrics-port", "9100", "--metrics-host", "::", *BOX), ":: is not a loopback address"),
        (("--preview", "8080", "--preview-keys", "absent"), "absent holds no server.pem"),
        ((*BOX, "--wire", "fp32"), "fp32"),
        ((*BOX, "--sites", "absent.toml"), "sites file absent.toml cannot be read"),
    ],
)
def test_what_a_dry_run_finds(line: list[str | Path], more: tuple[str, ...], says: str) -> None:
    result = pedsam_run(*line, *more, "--dry-run")
    assert result.exit_code == 1
    assert says in result.output
    assert len(result.output.splitlines()) == 1


def test_one_operator_alone_is_found_by_a_dry_run(line: list[str | Path], tmp_path: Path) -> None:
    sites = sites_file(tmp_path / "sites.toml", ("a", "http://127.0.0.1:1"))
    result = pedsam_run(*line, *BOX, "--sites", sites, "--dry-run")
    assert "operator operator-a alone would see the whole picture" in result.output


def test_a_picture_that_cannot_be_decoded_is_named_and_nothing_was_done(
    line: list[str | Path], tmp_path: Path
) -> None:
    picture = tmp_path / "cup.png"
    picture.write_bytes(picture.read_bytes()[:5000])
    result = pedsam_run(*line, *BOX)
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert f"frame cup is lost: picture {picture} cannot be read (" in lines[0]
    assert lines[-1].startswith("Error: nothing was done: every frame is lost, the last one because ")
    assert str(picture) in lines[-1]
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["lost"] == {"cup": lines[0].removeprefix("frame cup is lost: ")}
    assert lines[-1] == f"Error: {summary['nothing_done']}"


def idle(result: Result) -> list[str]:
    """What a dry run says about options that do nothing."""
    assert result.exit_code == 0, result.output
    *warnings, last = result.output.splitlines()
    assert last == "nothing is wrong with these options and files"
    return [text.removeprefix("warning: ") for text in warnings]


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, str | Path]:
    """One of each kind; cameras and streams are opened by no dry run."""
    (tmp_path / "folder").mkdir()
    for name in ("picture.png", "folder/a.png", "folder/b.png"):
        Image.new("RGB", (64, 48)).save(tmp_path / name)
    writer = cv2.VideoWriter(str(tmp_path / "in.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    return {
        "picture": tmp_path / "picture.png",
        "folder": tmp_path / "folder",
        "video": tmp_path / "in.avi",
        "camera": "0",
        "stream": "rtsp://127.0.0.1:1/a",
    }


@pytest.mark.parametrize(
    ("kind", "more", "told"),
    [
        ("video", ["--camera-size", "320x240", "--rotate", "90"], [
            "--camera-size does nothing for a video file",
        ]),
        ("video", ["--rotate", "90", "--realtime"], []),
        ("video", ["--rotate", "0", "--no-track", "--keyframe-every", "3", "--max-fps", "2"], []),
        ("video", ["--record-mb", "20"], ["--record-mb does nothing for a video file without --realtime"]),
        ("picture", ["--camera-fps", "5"], ["--camera-fps does nothing for a picture"]),
        ("picture", ["--rotate", "90"], []),
        ("video", ["--camera-proxy", "http://u:p@a"], ["--camera-proxy does nothing for a video file"]),
        ("picture", ["--no-track"], ["--no-track does nothing for a picture"]),
        ("picture", ["--keyframe-every", "3"], ["--keyframe-every does nothing for a picture"]),
        ("picture", ["--max-fps", "3"], ["--max-fps does nothing for a picture"]),
        ("folder", ["--track", "--reuse-threshold", "2", "--in-flight", "2"], []),
        ("folder", ["--camera-size", "320x240"], ["--camera-size does nothing for a folder of pictures"]),
        ("camera", ["--camera-size", "320x240", "--camera-fps", "5", "--rotate", "180"], []),
        ("camera", ["--realtime"], ["--realtime does nothing for a camera"]),
        ("camera", ["--record-mb", "20"], ["--record-mb does nothing without --record"]),
        ("camera", ["--record-mb", "20", "--record"], []),
        ("stream", ["--camera-size", "320x240"], ["--camera-size does nothing for a network stream"]),
        ("stream", ["--rotate", "180"], []),
        ("video", ["--ledger", "l.json", "--insecure", "--accept-exposure", "--new-session"], [
            "--accept-exposure does nothing without --sites",
            "--new-session does nothing without --sites",
            "--insecure does nothing without --sites",
            "--ledger does nothing without --sites",
        ]),
        ("video", ["--max-mbit", "3"], ["--max-mbit does nothing without --sites"]),
        ("video", ["--preview-width", "640"], ["--preview-width does nothing without --preview"]),
        ("video", ["--preview-width", "640", "--preview", "0"], []),
        ("video", ["--metrics-host", "::1"], ["--metrics-host does nothing without --metrics-port"]),
        ("video", ["--threads", "2", "--backend", "tensorrt"], [
            "--threads does nothing with --backend tensorrt"
        ]),
    ],
)  # fmt: skip
def test_an_option_that_does_nothing_is_told(
    mini_bundle: Bundle, sources: dict[str, str | Path], kind: str, more: list[str], told: list[str]
) -> None:
    line = ("--bundle", mini_bundle.path, "--allow-undistilled", "--out", "out", "--dry-run")
    assert idle(pedsam_run(*line, "--source", sources[kind], *BOX, *more)) == told


def test_it_is_told_where_an_option_stands(
    line: list[str | Path], sources: dict[str, str | Path], tmp_path: Path
) -> None:
    (tmp_path / "edge.toml").write_text("[source]\nrotate = 0\nrealtime = false\ncamera_size = '64x48'\n")
    more = ("--config", tmp_path / "edge.toml", "--dry-run")
    result = pedsam_run(*line, *BOX, "--source", sources["folder"], *more, PEDSAM_RUN_CAMERA_FPS="5")
    assert idle(result) == [
        "camera_size in edge.toml does nothing for a folder of pictures",
        "PEDSAM_RUN_CAMERA_FPS does nothing for a folder of pictures",
    ]


def test_what_does_nothing_or_is_not_meant_so_is_in_the_summary(
    line: list[str | Path], tmp_path: Path
) -> None:
    result = pedsam_run(*line, "--box", "0.2,0.2,0.8,0.8", "--max-fps", "5")
    assert result.exit_code == 0, result.output
    warnings = json.loads((tmp_path / "out/summary.json").read_text())["warnings"]
    assert warnings[0] == "--max-fps does nothing for a picture"
    assert warnings[1].startswith("the box of object 1 (0.2,0.2,0.8,0.8) lies within one pixel")
    assert result.output.count("lies within one pixel") == 1
    assert all(f"warning: {text}" in result.output.splitlines() for text in warnings)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--trace", "photo.png/t.json"), "cannot write photo.png/t.json"),
        (("--heartbeat", "no/beat"), "the heartbeat file no/beat cannot be written"),
        ((*LIVE, "--state", "no/objects.json"), "state file no/objects.json cannot be written"),
        ((*LIVE, "--prompts", "p.json"), "state file p.state.json cannot be written"),
        (("--out", "photo.png/out"), "cannot write photo.png/out"),
    ],
)
def test_a_dry_run_tries_what_a_run_will_write(
    line: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_photo(tmp_path / "photo.png")
    (tmp_path / "p.json").write_text('{"objects": [{"name": "cup", "box": [1, 1, 9, 9]}]}')
    (tmp_path / "p.state.json").symlink_to("no/objects.json")
    before = sorted(tmp_path.rglob("*"))
    result = pedsam_run(*line, *BOX, *more, "--dry-run")
    assert result.exit_code == 1
    assert says in result.output
    assert len(result.output.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
    elsewhere = pedsam_run(*line, *BOX, *more, "--dry-run", "--elsewhere")
    assert elsewhere.exit_code == 0, elsewhere.output


@pytest.mark.parametrize("how", [(), ("--dry-run",), ("--dry-run", "--elsewhere")])
def test_one_port_for_two_things_is_told_before_anything_is_opened(
    line: list[str | Path], how: tuple[str, ...]
) -> None:
    result = pedsam_run(*line, *BOX, "--preview", "8081", "--mjpeg", "8081", *how)
    assert sentence(result) == "Error: --preview and --mjpeg have the same port 8081; give each its own"


@pytest.mark.parametrize("place", ["file", "foreign", "foreign masks", "busy"])
def test_a_dry_run_refuses_the_out_that_a_run_refuses(
    line: list[str | Path], tmp_path: Path, place: str
) -> None:
    out = line[line.index("--out") + 1] = tmp_path / place
    if place == "file":
        out.write_text("of a person")
    elif place != "busy":
        out.mkdir()
        (out / ("summary.json" if place == "foreign" else "masks.jsonl")).write_text("of a person")
    with run_folder(out, ()) if place == "busy" else contextlib.nullcontext():
        before = sorted(tmp_path.rglob("*"))
        said = [sentence(pedsam_run(*line, *BOX, *more)) for more in (("--dry-run",), ())]
    assert said[0] == said[1]
    assert said[0].endswith("give another --out")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_does_not_try_a_state_that_a_picture_has_not(
    line: list[str | Path], tmp_path: Path
) -> None:
    result = pedsam_run(*line, *BOX, "--state", tmp_path / "no/objects.json", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "--state does nothing for a picture" in result.output


def test_a_dry_run_finds_a_ledger_that_a_run_could_not_use(line: list[str | Path], tmp_path: Path) -> None:
    sites = sites_file(tmp_path / "sites.toml", ("a", "http://127.0.0.1:1"), ("b", "http://127.0.0.1:2"))
    sites.with_suffix(".ledger.json").write_text("{")
    assert "--new-session" in sentence(pedsam_run(*line, *BOX, "--sites", sites, "--dry-run"))


def test_a_trace_that_cannot_be_written_is_told_before_the_run(
    line: list[str | Path], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write" in sentence(pedsam_run(*line, *BOX, "--trace", tmp_path / "file/t.json"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("more", [(), ("--point", "30,30")])
def test_objects_of_the_last_run_go_on_without_being_given_again(
    line: list[str | Path], tmp_path: Path, more: tuple[str, ...]
) -> None:
    """With options that name objects too, which are in the state file already."""
    film = tmp_path / "film.mp4"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"mp4v"), 5.0, (64, 36))
    writer.write(np.zeros((36, 64, 3), np.uint8))
    writer.release()
    line[line.index("--source") + 1] = film
    state = tmp_path / "objects.json"
    objects = Prompts((Prompt("1", (1, 1, 30, 30)), Prompt("2", None, ((30, 30, 1),))))
    given = Prompts((Prompt("1", None, ((30.0, 30.0, 1),)),)) if more else None
    StateFile(state, hash_of(given) if given else "").write(objects)
    result = pedsam_run(*line, *more, "--realtime", "--state", state, "--dry-run")
    assert result.exit_code == 0, result.output
    assert f"the last run, from {state}: 1, 2".replace(" ", "") in "".join(result.output.split())


def test_without_any_object_there_is_nothing_to_segment(line: list[str | Path], tmp_path: Path) -> None:
    state = tmp_path / "objects.json"
    StateFile(state, "").write(Prompts(()))
    line[line.index("--source") + 1] = "rtsp://192.0.2.1/x"
    result = pedsam_run(*line, "--state", state)
    assert "nothing to segment" in result.output.splitlines()[-1]


def test_a_run_does_not_take_its_own_source_away(line: list[str | Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert pedsam_run(*line, *BOX).exit_code == 0
    (overlay,) = (out / "overlay").iterdir()
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    (tmp_path / "link").symlink_to(overlay)
    for source in (out / "overlay", overlay, tmp_path / "link"):
        line[line.index("--source") + 1] = source
        for more in ((), ("--dry-run",)):
            words = sentence(pedsam_run(*line, *BOX, *more))
            assert "--out would overwrite or remove" in words
            assert "which is the source" in words
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--trace", "SOURCE"), "--trace would overwrite or remove {}/photo.png, which is the source"),
        (("--trace", "photo.json"), "beside it, as .png, would overwrite or remove {}/photo.png"),
        (
            ("--heartbeat", "SOURCE"),
            "--heartbeat would overwrite or remove {}/photo.png, which is the source",
        ),
        (("--trace", "out/masks.jsonl"), "--trace and --out are one file, {}/out/masks.jsonl; give each"),
        (("--heartbeat", "out/summary.json"), "--heartbeat and --out are one file"),
        (("--heartbeat", "t.json", "--trace", "t.json"), "--trace and --heartbeat are one file, {}/t.json"),
        (
            ("--trace", "t.png"),
            "--trace and the picture that --trace writes beside it, as .png, are one file",
        ),
        (("--prompts", "p.json", "--trace", "p.json"), "p.json, which is the file of --prompts; give one"),
        (("--config", "edge.toml", "--trace", "edge.toml"), "edge.toml, which is the file of --config; give"),
    ],
)
def test_no_file_of_a_run_is_two_things(
    line: list[str | Path], tmp_path: Path, more: tuple[str, ...], words: str
) -> None:
    source = tmp_path / "photo.png"
    source.write_bytes(Path(line[line.index("--source") + 1]).read_bytes())
    line[line.index("--source") + 1] = source
    (tmp_path / "p.json").write_text('{"objects": []}')
    (tmp_path / "edge.toml").write_text("[loop]\nthreads = 1\n")
    placed = [
        part if part.startswith("--") else tmp_path / part.replace("SOURCE", source.name) for part in more
    ]
    before = {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    assert words.format(tmp_path).replace(" ", "") in sentence(pedsam_run(*line, *BOX, *placed)).replace(
        " ", ""
    )
    assert {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before


@pytest.mark.parametrize(
    ("more", "played"),
    [
        (("--preview", "0"), True),
        (("--preview", "0", "--no-record", "--out", "elsewhere"), True),
        (("--preview", "0", "--once", "--no-record"), False),
        (("--preview", "0", "--out", "out"), False),
        (("--no-record", *BOX), False),
    ],
)
def test_a_file_under_a_page_waits_for_viewers_unless_its_results_are_written(
    line: list[str | Path], more: tuple[str, ...], played: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: list[Source] = []

    async def instead(bundle: Bundle, source: Source, *rest: Any) -> dict[str, Any]:
        sources.append(source)
        raise InputError("enough")

    monkeypatch.setattr("runtime.cli.run_session", instead)
    at = line.index("--out")
    result = pedsam_run(*line[:at], *line[at + 2 :], *more)
    assert result.output.splitlines()[-1] == "Error: enough"
    assert [isinstance(source, Player) for source in sources] == [played]
    assert ("gone through once" in result.output) is ("--out" in more and not played)
