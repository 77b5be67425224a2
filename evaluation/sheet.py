"""`sheet.png`: examples of good, median and bad masks, one group of columns a prompt kind. It blocks: use a
thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from evaluation.masks import Box, box_of, prompt_for
from evaluation.report import title_of
from evaluation.results import Instance
from evaluation.scenes import read_scene
from media.pictures import write_picture
from runtime.objects.masks import Mask, decode_mask
from runtime.objects.prompts import Prompt
from runtime.results.sinks import PALETTE
from stages.files import writing
from stages.tensors import Pixels
from training.samples import Sample

SHEET = "sheet.png"
ROWS = {"good": 90, "median": 50, "bad": 10}  # percentiles of IoU
COLUMNS = 4
TILE_PX = 240
_GAP_PX, _LINE_PX = 6, 28
_FILL, _OUTLINE, _PROMPT = PALETTE[1], PALETTE[3], PALETTE[5]
_WHITE = (255, 255, 255)


def write_sheet(
    out: Path, report: Mapping[str, Any], samples: Sequence[Sample], instances: Sequence[Instance]
) -> None:
    """Write the sheet into a folder. Tiles show what the model saw, so blurred if it was."""
    groups = [_group(kind, samples, instances, report["blur"]) for kind in report["miou"]]
    sheet = np.vstack([line(title_of(report), sum(g.shape[1] for g in groups)), np.hstack(groups)])
    with writing(out / SHEET):
        write_picture(out / SHEET, sheet)


def choose(ious: Sequence[float], pictures: Sequence[int], percentile: float) -> list[int]:
    """COLUMNS indices of the IoU nearest to their percentile, of different pictures as far as there are."""
    goal = np.percentile(ious, percentile)
    nearest = [int(i) for i in np.argsort(np.abs(np.asarray(ious) - goal), kind="stable")]
    first: dict[int, int] = {}
    for index in nearest:
        first.setdefault(pictures[index], index)
    others = [index for index in nearest if index not in first.values()]
    return [*first.values(), *others][:COLUMNS]


def draw_tile(picture: Pixels, truth: Mask, predicted: Mask, prompt: Prompt, iou: float) -> Pixels:
    """Picture RGB uint8 [H, W, 3] around both masks, bool [H, W]: the prediction filled, the truth as a line,
    the prompt and the IoU; uint8 [TILE_PX, TILE_PX, 3]."""
    x0, y0, x1, y1 = _surroundings(truth | predicted)
    scale = TILE_PX / max(x1 - x0, y1 - y0)
    size = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    part = np.asarray(cv2.resize(picture[y0:y1, x0:x1], size, interpolation=smooth), np.uint8)
    filled, outlined = (_resized(mask[y0:y1, x0:x1], size) for mask in (predicted, truth))
    part[filled] = (0.5 * part[filled] + 0.5 * np.array(_FILL)).astype(np.uint8)
    contours, _ = cv2.findContours(outlined.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(part, contours, -1, _OUTLINE, 1)
    _draw_prompt(part, prompt, (x0, y0), scale)
    tile = np.full((TILE_PX, TILE_PX, 3), 32, np.uint8)
    tile[: size[1], : size[0]] = part
    _write(tile, f"{iou:.2f}", TILE_PX - 8)
    return tile


def _group(kind: str, samples: Sequence[Sample], instances: Sequence[Instance], blur: float) -> Pixels:
    ious = [each.ious[kind] for each in instances]
    pictures = [each.picture for each in instances]
    rows = []
    for row, percentile in ROWS.items():
        chosen = [instances[i] for i in choose(ious, pictures, percentile)]
        tiles = [_tile(samples[each.picture], each, kind, blur) for each in chosen]
        tiles += [np.full_like(tiles[0], 32)] * (COLUMNS - len(tiles))
        strip = np.hstack(tiles)
        rows += [line(f"{kind}: {row}, percentile {percentile}", strip.shape[1]), strip]
    return np.vstack(rows)


def _tile(sample: Sample, instance: Instance, kind: str, blur: float) -> Pixels:
    scene = read_scene(sample, blur)
    truth = scene.mask(instance.number)
    prompt = prompt_for(kind, str(instance.number), truth)
    tile = draw_tile(scene.picture, truth, decode_mask(instance.masks[kind]), prompt, instance.ious[kind])
    return np.pad(tile, ((0, _GAP_PX), (0, _GAP_PX), (0, 0)))


def _surroundings(mask: Mask) -> Box:
    """A square around a mask with a margin; less than a square where the picture is too small for it."""
    x0, y0, x1, y1 = box_of(mask)
    side = 32 + max(x1 - x0, y1 - y0) * 3 // 2
    height, width = mask.shape
    left = min(max(0, (x0 + x1 - side) // 2), max(0, width - side))
    top = min(max(0, (y0 + y1 - side) // 2), max(0, height - side))
    return left, top, min(width, left + side), min(height, top + side)


def _resized(mask: Mask, size: tuple[int, int]) -> Mask:
    resized: Mask = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    return resized


def _draw_prompt(part: Pixels, prompt: Prompt, origin: tuple[int, int], scale: float) -> None:
    def place(x: float, y: float) -> tuple[int, int]:
        return round((x - origin[0]) * scale), round((y - origin[1]) * scale)

    if prompt.box_xyxy is not None:
        x0, y0, x1, y1 = prompt.box_xyxy
        cv2.rectangle(part, place(x0, y0), place(x1, y1), _PROMPT)
    for x, y, _ in prompt.points:
        cv2.circle(part, place(x + 0.5, y + 0.5), 4, _PROMPT, -1, cv2.LINE_AA)
        cv2.circle(part, place(x + 0.5, y + 0.5), 4, _WHITE, 1, cv2.LINE_AA)


def line(text: str, width: int) -> Pixels:
    """A line of text above pictures, RGB uint8 [_LINE_PX, width, 3]."""
    strip = np.zeros((_LINE_PX, width, 3), np.uint8)
    _write(strip, text, _LINE_PX - 9)
    return strip


def _write(picture: Pixels, text: str, bottom: int) -> None:
    """White text with a dark rim, readable on anything."""
    for colour, thickness in (((0, 0, 0), 3), (_WHITE, 1)):
        cv2.putText(picture, text, (6, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thickness, cv2.LINE_AA)
