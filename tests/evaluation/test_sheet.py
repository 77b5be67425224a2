"""The sheet of examples: which are shown, and what is drawn."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from evaluation.masks import inscribed_ellipse, prompt_for
from evaluation.results import Instance
from evaluation.sheet import COLUMNS, ROWS, SHEET, TILE_PX, choose, draw_tile, write_sheet
from runtime.objects.masks import encode_mask
from runtime.results.sinks import PALETTE
from stages.errors import InputError
from tests.support.training import masks_of
from training.data import read_samples
from training.tally import Tally

FILLED = tuple((100 + value) // 2 for value in PALETTE[1])  # a mask on grey of 100
REPORT = {
    "miou": {"point": 0.5, "box": 0.5},
    "subject": {"description": "mini (untrained weights)"},
    "how": "split",
    "wire": "fp16",
    "blur": 0.0,
}


def test_the_nearest_to_a_percentile_are_chosen() -> None:
    ious = [number / 100 for number in range(101)]
    pictures = list(range(101))
    assert sorted(choose(ious, pictures, 90)) in ([88, 89, 90, 91], [89, 90, 91, 92])
    assert choose(ious, pictures, 10)[0] == 10


def test_different_pictures_come_first() -> None:
    ious = [0.5, 0.5, 0.51, 0.4, 0.2, 0.9]
    assert choose(ious, [0, 0, 0, 1, 2, 3], 50) == [0, 3, 4, 5]
    assert choose(ious, [0] * 6, 50)[:3] == [0, 1, 2]
    assert choose([0.3], [0], 50) == [0]


@pytest.mark.parametrize("shape", [(100, 150), (700, 80), (9, 9)])
def test_a_tile_shows_both_masks_and_the_prompt(shape: tuple[int, int]) -> None:
    height, width = shape
    picture = np.full((height, width, 3), 100, np.uint8)
    truth, predicted = np.zeros(shape, bool), np.zeros(shape, bool)
    truth[: height // 2, : width // 2] = inscribed_ellipse(height // 2, width // 2)
    predicted[height // 2 :, width // 2 :] = True
    tile = draw_tile(picture, truth, predicted, prompt_for("box", "1", truth), 0.25)
    assert tile.shape == (TILE_PX, TILE_PX, 3)
    colours = {tuple(int(value) for value in colour) for colour in tile.reshape(-1, 3)}
    assert {(100, 100, 100), FILLED, PALETTE[3], PALETTE[5], (255, 255, 255)} <= colours


def test_a_tile_of_an_empty_prediction_and_of_everything() -> None:
    picture = np.zeros((60, 60, 3), np.uint8)
    truth = np.zeros((60, 60), bool)
    truth[30, 30] = True
    for predicted in (np.zeros_like(truth), np.ones_like(truth)):
        tile = draw_tile(picture, truth, predicted, prompt_for("point", "1", truth), 0.0)
        assert (tile == PALETTE[5]).all(axis=2).any()


def instances_of(folder: Path) -> list[Instance]:
    found = []
    for picture, sample in enumerate(read_samples(folder, None, Tally())):
        for number, mask in enumerate(masks_of(sample), 1):
            masks = {kind: encode_mask(mask) for kind in ("point", "box")}
            ious = {"point": number / 10, "box": picture / 10}
            found.append(Instance(picture, sample.name, number, 0.1, ious, {}, masks))
    return found


def test_a_sheet_has_a_group_a_kind_and_a_row_a_percentile(pairs: Path, tmp_path: Path) -> None:
    for sample in read_samples(pairs, None, Tally()):
        Image.fromarray(np.full_like(sample.image(), 100)).save(pairs / f"{sample.name}.jpg")
    write_sheet(tmp_path, REPORT, read_samples(pairs, None, Tally()), instances_of(pairs))
    sheet = cv2.imread(str(tmp_path / SHEET))
    assert sheet is not None
    assert sheet.shape[1] >= 2 * COLUMNS * TILE_PX
    assert sheet.shape[0] >= len(ROWS) * TILE_PX
    filled = (sheet[..., ::-1] == FILLED).all(axis=2)
    for half in np.split(filled, 2, axis=1):
        assert half.mean() > 0.1


def test_one_instance_leaves_places_empty(pairs: Path, tmp_path: Path) -> None:
    write_sheet(tmp_path, REPORT, read_samples(pairs, None, Tally()), instances_of(pairs)[:1])
    sheet = cv2.imread(str(tmp_path / SHEET))
    assert sheet is not None
    assert (sheet[200, TILE_PX + 50] == 32).all()


def test_a_blurred_run_shows_what_the_model_saw(pairs: Path, tmp_path: Path) -> None:
    detail = []
    for blur in (0.0, 30.0):
        write_sheet(
            tmp_path, {**REPORT, "blur": blur}, read_samples(pairs, None, Tally()), instances_of(pairs)
        )
        sheet = cv2.imread(str(tmp_path / SHEET))
        assert sheet is not None
        detail.append(float(np.abs(np.diff(sheet.astype(float), axis=1)).mean()))
    assert detail[1] < 0.8 * detail[0]


def test_a_sheet_that_cannot_be_written_is_told(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write .*sheet\.png; check free space"):
        write_sheet(tmp_path / "absent", REPORT, read_samples(pairs, None, Tally()), instances_of(pairs))
