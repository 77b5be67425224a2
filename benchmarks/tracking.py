"""How well one object is followed through video: mean IoU over a sequence (J), windows run on this machine.

    python -m benchmarks.tracking --data FOLDER --out results.json

FOLDER holds one folder a sequence, of NNNNN.jpg with 8-bit masks NNNNN.png for every frame. Each starts with
the box around the first mask. Three rows: pedsam's tracking; the box around the last mask as the next prompt;
and the true box on every frame, which no tracker has and which shows what the model itself can do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.machine import describe
from media.pictures import read_label_map, read_picture
from runtime.edge import Edge, EdgeOptions, open_edge
from runtime.frames.canvas import Canvas, make_canvas
from runtime.objects.decode import ObjectMask, decode
from runtime.objects.masks import Mask, iou
from runtime.objects.matching import FrameTokens
from runtime.objects.prompts import Prompt
from runtime.objects.tracking import FixedPrompt, Track
from stages.bundle import Bundle, shipped_bundle
from stages.tensors import Array, Pixels


class LastMasksBox(FixedPrompt):
    """The plain way: the next prompt is the box around the last mask, 3 % larger."""

    def __init__(self, start: Prompt) -> None:
        super().__init__(start)
        self._next = start

    def next_prompt(self, canvas: Canvas, tokens: FrameTokens) -> Prompt:
        return self._next

    def update(self, canvas: Canvas, found: ObjectMask | None) -> ObjectMask | None:
        if found is not None and (box := box_around(canvas.to_frame_mask(found.logits), 0.03)):
            self._next = Prompt(self.name, box)
        return super().update(canvas, found)


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="[default: the mini model of this clone]")
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(bundle: Path | None, data: Path, out: Path) -> None:
    """Follow the object of every sequence in DATA and write J to OUT."""
    loaded = Bundle.load(bundle or shipped_bundle())
    folders = [folder for folder in sorted(data.iterdir()) if next(folder.glob("*.png"), None)]
    if not folders:
        raise click.ClickException(f"{data} holds no folder with pictures and masks of the same names")
    rows = {folder.name: asyncio.run(measure(loaded, folder)) for folder in folders}
    means = {key: round(float(np.mean([row[key] for row in rows.values()])), 3) for key in MEASURED}
    result = {"machine": describe(), "model": loaded.description, "sequences": rows, "mean": means}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result, indent=1))


MEASURED = ("tracked", "last_masks_box", "true_box")


async def measure(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """J of each row, and the frames on which the tracked object was called lost."""
    frames = list(read(folder))
    size = frames[0][0].shape[:2]
    start = Prompt("object", box_around(frames[0][1]))
    scores: dict[str, list[float]] = {name: [] for name in MEASURED}
    trackers = {"tracked": Track(start), "last_masks_box": LastMasksBox(start)}
    lost = 0
    async with open_edge(bundle, {(size[0], size[1])}, EdgeOptions(), print) as edge:
        for pixels, truth in frames:
            canvas = make_canvas(pixels, bundle.geometry)
            embedding = await edge.encoder.encode(canvas)
            true_box = box_around(truth)
            trackers["true_box"] = FixedPrompt(Prompt("object", true_box) if true_box else start)
            for name, tracker in trackers.items():
                mask = await follow(edge, tracker, canvas, embedding)
                lost += name == "tracked" and mask is None
                scores[name].append(iou(np.zeros_like(truth) if mask is None else mask, truth))
    means = {name: round(float(np.mean(values)), 3) for name, values in scores.items()}
    return {"frames": len(frames), "lost": lost, **means}


async def follow(edge: Edge, tracker: FixedPrompt, canvas: Canvas, embedding: Array) -> Mask | None:
    """The object's mask on this frame, None when the tracker calls it lost."""
    prompt = tracker.next_prompt(canvas, FrameTokens(embedding))
    chooser = {tracker.name: tracker.choose}
    found = await decode(edge.engines, embedding, canvas, [prompt], chooser) if prompt else [None]
    tracked = tracker.update(canvas, found[0])
    return canvas.to_frame_mask(tracked.logits) if tracked is not None else None


def read(folder: Path) -> Iterator[tuple[Pixels, Mask]]:
    """Frames [H, W, 3] and their masks [H, W]."""
    for path in sorted(folder.glob("*.jpg")):
        yield read_picture(path), read_label_map(path.with_suffix(".png")) > 0


def box_around(mask: Mask, margin: float = 0.0) -> tuple[float, float, float, float] | None:
    """The box around a mask in pixels, larger by this part of its sides and inside the frame."""
    rows, cols = np.nonzero(mask)
    if not len(rows):
        return None
    x0, y0, x1, y1 = cols.min(), rows.min(), cols.max() + 1, rows.max() + 1
    across, down = margin * (x1 - x0), margin * (y1 - y0)
    height, width = mask.shape
    return max(0.0, x0 - across), max(0.0, y0 - down), min(width, x1 + across), min(height, y1 + down)


if __name__ == "__main__":
    main()
