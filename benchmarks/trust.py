"""What the confidence in a mask, and the marks that say "check this", are worth on video with true masks.

    python -m benchmarks.trust --data FOLDER --out benchmarks/results/trust_mini.json

FOLDER holds one folder a sequence, of NNNNN.jpg with 8-bit masks NNNNN.png for every frame. Its object is
followed forwards and backwards, on every frame, every second and every fourth (as a slow live run sees
them), asked for by the box around its mask on the first frame and by a point in the middle of that. A mask is
right from an IoU of 0.5 with the true one on. Frames on which the object was called lost are counted apart,
and first frames are left out: nothing was propagated to them.

"chosen elsewhere" are limits chosen for each sequence on the other ones: those of GRID that mark the most of
wrong masks, less what they mark of right ones. They say what marks are worth on films by which no limit was
chosen.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np

from benchmarks.machine import describe, where
from benchmarks.tracking import box_around, read
from runtime.edge import Edge, EdgeOptions, open_edge
from runtime.frames.canvas import Canvas, make_canvas
from runtime.objects.decode import decode
from runtime.objects.masks import Mask, iou
from runtime.objects.matching import Floats, FrameTokens
from runtime.objects.prompts import Prompt
from runtime.objects.tracking import FixedPrompt, Track
from runtime.objects.trust import LIMITS, Limits, Trust, Watch
from stages.bundle import Bundle, shipped_bundle
from stages.tensors import Array

RIGHT = 0.5  # IoU with the true mask
BINS = (0.3, 0.5, 0.7)  # of IoU, in which marks are counted
STRIDES = (1, 2, 4)
GRID = [
    replace(LIMITS, confidence=confidence, growth=1 / size, shrinkage=size)
    for confidence, size in itertools.product((0.6, 0.65, 0.7, 0.75, 0.8), (0.4, 0.5, 0.6))
]


@dataclass(frozen=True)
class Judged:
    """What one mask was judged by, and its IoU with the true one."""

    rating: float
    agreement: float | None
    labels: Floats | None
    iou: float


class Noting(Watch):
    """Notes what masks are judged by."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[float, float | None, Floats | None]] = []

    def judge(self, rating: float, agreement: float | None = None, labels: Floats | None = None) -> Trust:
        self.noted.append((rating, agreement, labels))
        return super().judge(rating, agreement, labels)


@dataclass
class Run:
    """One object followed through one film; `judged` are the frames on which it was not lost."""

    judged: list[Judged] = field(default_factory=list)
    lost: int = 0


@dataclass(frozen=True)
class Still:
    """A frame ready for prompts, and the true mask on it."""

    canvas: Canvas
    embedding: Array
    truth: Mask


def prompts_of(truth: Mask) -> list[Prompt]:
    """The box around a mask, and the point in it that is farthest from its edge; none of an empty one."""
    box = box_around(truth)
    if box is None:
        return []
    inside = cv2.distanceTransform(np.pad(truth.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(inside.argmax()), inside.shape)
    return [Prompt("object", box), Prompt("object", None, ((float(x), float(y), 1),))]


async def follow(edge: Edge, tracker: FixedPrompt, frames: Iterable[Still]) -> Run:
    run, watch = Run(), Noting()
    tracker.watch = watch
    for still in frames:
        asked = tracker.next_prompt(still.canvas, FrameTokens(still.embedding))
        chooser = {tracker.name: tracker.choose}
        found = None
        if asked is not None:
            (found,) = await decode(edge.engines, still.embedding, still.canvas, [asked], chooser)
        tracked = tracker.update(still.canvas, found)
        if tracked is None:
            run.lost += 1
        else:
            mask = still.canvas.to_frame_mask(tracked.logits)
            run.judged.append(Judged(*watch.noted[-1], iou(mask, still.truth)))
    return run


async def measure(bundle: Bundle, folder: Path) -> tuple[list[Run], list[Run]]:
    """Runs through a sequence, and its frames each as a picture of its own."""
    pictures = list(read(folder))
    height, width = pictures[0][1].shape
    films: list[Run] = []
    alone: list[Run] = []
    async with open_edge(bundle, {(height, width)}, EdgeOptions(), print) as edge:
        frames = []
        for pixels, truth in pictures:
            canvas = make_canvas(pixels, bundle.geometry)
            frames.append(Still(canvas, await edge.encoder.encode(canvas), truth))
        for way, stride in itertools.product((1, -1), STRIDES):
            film = frames[::way][::stride]
            films += [await follow(edge, Track(prompt), film) for prompt in prompts_of(film[0].truth)]
        for still in frames:
            alone += [await follow(edge, FixedPrompt(prompt), [still]) for prompt in prompts_of(still.truth)]
    return films, alone


def judge(runs: Sequence[Run], limits: Limits) -> list[tuple[float, Trust]]:
    """IoU and trust of every mask to which something was propagated, or of pictures that are no film."""
    found = []
    for run in runs:
        watch = Watch(limits)
        for each in run.judged:
            trust = watch.judge(each.rating, each.agreement, each.labels)
            if each.agreement is not None or each.labels is None:
                found.append((each.iou, trust))
    return found


def area_under_curve(scores: Sequence[float], right: Sequence[bool]) -> float | None:
    """How often a right mask has a higher score than a wrong one; None where there are none of either."""
    good = np.array([score for score, is_right in zip(scores, right, strict=True) if is_right])
    bad = np.array([score for score, is_right in zip(scores, right, strict=True) if not is_right])
    if not len(good) or not len(bad):
        return None
    above = (good[:, None] > bad).mean() + 0.5 * (good[:, None] == bad).mean()
    return round(float(above), 3)


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's, of values without ties to speak of."""
    one, other = (np.argsort(np.argsort(np.asarray(values))).astype(float) for values in (a, b))
    return round(float(np.corrcoef(one, other)[0, 1]), 3)


def marks(found: Sequence[tuple[float, Trust]]) -> dict[str, Any]:
    """How many masks there are and how many are marked, by their IoU; why, for wrong and right ones."""
    rows: dict[str, Any] = {}
    for low, high in itertools.pairwise((0.0, *BINS, 1.1)):
        inside = [trust for value, trust in found if low <= value < high]
        rows[f"{low:g} to {min(high, 1.0):g}"] = {
            "masks": len(inside),
            "marked": sum(trust.check is not None for trust in inside),
        }
    for name, is_right in (("wrong", False), ("right", True)):
        inside = [trust for value, trust in found if (value >= RIGHT) is is_right]
        why = Counter(trust.check.value for trust in inside if trust.check is not None)
        rows[name] = {"masks": len(inside), "marked": sum(why.values()), "why": dict(sorted(why.items()))}
    return rows


def gain(counts: Mapping[str, Any]) -> float:
    """The part of wrong masks that is marked, less that of right ones."""
    wrong, right = (counts[name]["marked"] / max(1, counts[name]["masks"]) for name in ("wrong", "right"))
    return float(wrong - right)


def ranking(runs: Sequence[Run]) -> dict[str, Any]:
    """How well the confidence and its two parts tell right masks from wrong ones."""
    masks = [each for run in runs for each in run.judged if each.agreement is not None]
    ways: dict[str, Callable[[Judged], float]] = {
        "rating": lambda each: each.rating,
        "agreement": lambda each: each.agreement or 0.0,
        "confidence": lambda each: Watch().judge(each.rating, each.agreement).confidence,
    }
    true = [each.iou for each in masks]
    rows = {}
    for name, score in ways.items():
        scores = [score(each) for each in masks]
        rows[name] = {
            "area_under_curve": area_under_curve(scores, [value >= RIGHT for value in true]),
            "rank_correlation": rank_correlation(scores, true),
        }
    return rows


def chosen_elsewhere(runs: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """Marks on each sequence by the limits that are best on the others, all together."""
    found: list[tuple[float, Trust]] = []
    for name in runs:
        others = [run for other, each in runs.items() if other != name for run in each]
        best = max(GRID, key=lambda limits: gain(marks(judge(others, limits))))
        found += judge(runs[name], best)
    return marks(found)


def judging_ms(masks: int = 2000) -> float:
    """Milliseconds of the processor to judge one mask."""
    watch, labels = Watch(), np.random.default_rng(0).random((32, 32)).astype(np.float32)
    started_s = time.process_time()
    for _ in range(masks):
        watch.judge(0.8, 0.8, labels)
    return round(1e3 * (time.process_time() - started_s) / masks, 3)


def results(films: Mapping[str, Sequence[Run]], alone: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """Everything that is measured of runs by sequence."""
    every = [run for runs in films.values() for run in runs]
    pictures = judge([run for runs in alone.values() for run in runs], LIMITS)
    right = [value >= RIGHT for value, _ in pictures]
    return {
        "limits": vars(LIMITS),
        "runs": len(every),
        "judging_ms": judging_ms(),
        "lost": sum(run.lost for run in every),
        "ranking": {"all": ranking(every)} | {name: ranking(runs) for name, runs in films.items()},
        "marks": {"all": marks(judge(every, LIMITS))}
        | {name: marks(judge(runs, LIMITS)) for name, runs in films.items()},
        "without_changes": marks(judge(every, replace(LIMITS, growth=1e9, shrinkage=0.0, jump=1e9))),
        "other_confidence": {
            f"{confidence:g}": marks(judge(every, replace(LIMITS, confidence=confidence)))
            for confidence in (0.6, 0.65, 0.75, 0.8)
        },
        "chosen_elsewhere": chosen_elsewhere(films),
        "pictures": marks(pictures)
        | {"area_under_curve": area_under_curve([trust.confidence for _, trust in pictures], right)},
    }


def markdown(result: Mapping[str, Any]) -> str:
    """Marks by IoU for each sequence, how well confidence ranks, and what other limits would mark."""
    bins = [name for name in result["marks"]["all"] if " to " in name]
    heads = ["of masks with an IoU of", *bins, "0.5 and more", "less than 0.5", "tells right from wrong"]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for name, row in result["marks"].items():
        area = result["ranking"][name]["confidence"]["area_under_curve"]
        cells = [_share(row[each]) for each in (*bins, "right", "wrong")]
        lines.append(f"| {name} | {' | '.join(cells)} | {'' if area is None else f'{area:.2f}'} |")
    others = [("with a confidence of " + limit, row) for limit, row in result["other_confidence"].items()]
    others += [
        ("without growth, shrinkage and jumps", result["without_changes"]),
        ("limits chosen on the other sequences", result["chosen_elsewhere"]),
        ("each frame as a picture of its own", result["pictures"]),
    ]
    for name, row in others:
        area = row.get("area_under_curve")
        cells = [_share(row[each]) for each in (*bins, "right", "wrong")]
        lines.append(f"| {name} | {' | '.join(cells)} | {'' if area is None else f'{area:.2f}'} |")
    return "\n".join([*lines, "", _told(result)])


def _told(result: Mapping[str, Any]) -> str:
    ranks = ", ".join(
        f"{name} {row['area_under_curve']:.2f} and {row['rank_correlation']:.2f}"
        for name, row in result["ranking"]["all"].items()
    )
    why = result["marks"]["all"]
    return (
        f"Marked, of all masks of that kind ({result['model']}, {result['runs']} runs; "
        f"{where(result['machine'])}); on {result['lost']} frames more the object was called lost. The last "
        "column is how often a right mask has a higher confidence than a wrong one; over all sequences that "
        f"and the rank correlation with the true IoU are: {ranks}. Wrong masks are marked as "
        f"{_why(why['wrong'])}; right ones as {_why(why['right'])}. Judging a mask takes "
        f"{result['judging_ms']:.2f} ms of the processor."
    )


def _share(row: Mapping[str, Any]) -> str:
    if not row["masks"]:
        return ""
    return f"{100 * row['marked'] / row['masks']:.0f} % of {row['masks']}"


def _why(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in row["why"].items()) or "nothing"


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="[default: the mini model of this clone]")
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(bundle: Path | None, data: Path, out: Path) -> None:
    """Follow the object of every sequence in DATA and write what trust in its masks is worth to OUT."""
    loaded = Bundle.load(bundle or shipped_bundle())
    folders = [folder for folder in sorted(data.iterdir()) if next(folder.glob("*.png"), None)]
    if not folders:
        raise click.ClickException(f"{data} holds no folder with pictures and masks of the same names")
    films: dict[str, list[Run]] = {}
    alone: dict[str, list[Run]] = {}
    for folder in folders:
        films[folder.name], alone[folder.name] = asyncio.run(measure(loaded, folder))
        click.echo(f"{folder.name}: {len(films[folder.name])} runs", err=True)
    result = {"machine": describe(), "model": loaded.description, **results(films, alone)}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
