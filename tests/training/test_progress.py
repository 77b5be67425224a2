"""What a person sees of training: lines where there is no terminal, and a picture of the curve."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from stages.errors import InputError
from tests.support.disks import limited_to
from training.progress import TrainingProgress, plot_curve


def test_without_a_terminal_every_report_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress(steps=200) as report:
        report(100, {"mask": 0.25, "images/s": 12.5})
        report(200, {"box mIoU": 0.5})
    assert capsys.readouterr().out.splitlines() == [
        "step 100 of 200: mask 0.250, images/s 12.500",
        "step 200 of 200: box mIoU 0.500",
    ]


def colours(picture: Path) -> int:
    """How many different colours a picture holds."""
    with Image.open(picture) as image:
        found = image.convert("RGB").getcolors(maxcolors=1 << 24)
    assert found is not None
    return len(found)


def test_the_curve_shows_losses_and_validation(tmp_path: Path) -> None:
    curve, picture = tmp_path / "curve.jsonl", tmp_path / "curve.png"
    curve.write_text("")
    plot_curve(curve, picture)
    empty = colours(picture)
    reports = [{"step": step, "mask": 1 / step, "images/s": 3.0} for step in (1, 2, 3)]
    reports += [{"step": 3, "box mIoU": 0.4}, {"step": 4, "box mIoU": 0.6}]
    curve.write_text("".join(json.dumps(report) + "\n" for report in reports))
    plot_curve(curve, picture)
    assert colours(picture) > empty + 10  # blue lines, antialiased, where there was black on white
    with Image.open(picture) as image:
        assert image.size == (1000, 400)


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    curve = tmp_path / "c.jsonl"
    curve.write_text('{"step": 1, "mask": 0.5}\n{"step": 2, "ma{"step": 3, "mask": 0.4}\n{"step": 4,')
    plot_curve(curve, tmp_path / "c.png")
    assert (tmp_path / "c.png").is_file()


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"step": 1, "mask": 0.5}\n')
    (tmp_path / "c.png").write_text("of before")
    with limited_to(1000), pytest.raises(InputError, match=r"cannot write .*c\.png; check free space"):
        plot_curve(tmp_path / "c.jsonl", tmp_path / "c.png")
    assert (tmp_path / "c.png").read_text() == "of before"
