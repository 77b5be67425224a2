"""What a lower precision does to pictures: overflow, and masks beside those of fp32.

The stages run in PyTorch one after another, once in fp32 and once with every tensor of a lower precision
rounded (see `export.checks.rounding`): from tiles through embeddings to the masks of prompts all over the
picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from export.checks.rounding import Peak, run_rounded
from export.checks.tolerances import embedding_tolerance
from export.stages import StagePlan
from stages.errors import ParityError
from stages.geometry import Geometry
from stages.hidden import HEAD
from stages.tensors import Pixels
from stages.tile_code import RGB, TileCode
from stages.tile_inputs import blank_canvas, coded_canvas

CHAIN = (HEAD, "window", "global", "decoder")
BATCH = 5  # windows at a time: memory of a few
POINTS_A_SIDE = 3  # of a grid of points that prompt for one mask each

Run = Callable[[str, Sequence[Tensor]], Any]


@dataclass
class Numerics:
    """What rounding did to some pictures.

    `ious` holds one number a prompt: the mask of the rounded chain against that of fp32, both at the
    decoder's resolution. `embedding` is the largest difference of the image embedding as a fraction of its
    largest value, over all pictures. `peaks` is by stage, for the stages of a lower precision.
    """

    peaks: dict[str, Peak]
    embedding: float = 0.0
    ious: list[float] = field(default_factory=list)

    @property
    def parity(self) -> dict[str, float]:
        """The same as numbers, for the bundle's record."""
        return {
            "rounded_embedding": self.embedding,
            "rounded_masks_iou_mean": float(np.mean(self.ious)),
            "rounded_masks_iou_min": min(self.ious),
            **{f"{stage}_largest": peak.value for stage, peak in self.peaks.items()},
        }

    @property
    def text(self) -> str:
        peaks = ", ".join(f"{stage} {peak.value:.0f}" for stage, peak in self.peaks.items())
        return (
            f"masks IoU {np.mean(self.ious):.4f} on average, {min(self.ious):.4f} at least over "
            f"{len(self.ious)} prompts; image embedding {self.embedding:.1e}; largest values {peaks}"
        )


@torch.no_grad()
def measure_numerics(
    exact: Sequence[StagePlan],
    low: Sequence[StagePlan],
    geometry: Geometry,
    pictures: Sequence[Pixels],
    tiles: TileCode = RGB,
) -> Numerics:
    """Compare the plans `low` with the fp32 plans `exact` on pictures RGB uint8 [S, S, 3] of canvas size, or
    smaller at the bottom and right. `tiles` is the code that the plans take tiles in.

    Raises ParityError when a stage overflows (it names the stage, the operator and the layer), and when the
    image embedding differs by more than `export.checks.tolerances` allow.
    """
    found = Numerics({plan.name: Peak() for plan in low if plan.name in CHAIN and plan.precision != "fp32"})
    run_exact, run_low = _runner(exact, {}), _runner(low, found.peaks)
    for picture in pictures:
        inputs = window_tensors(tiles, geometry, picture)
        actual = _image_embedding(run_low, inputs)  # first, for it can overflow
        masks = _masks(run_low, geometry, actual)
        expected = _image_embedding(run_exact, inputs)
        difference = float((actual - expected).abs().max() / expected.abs().max())
        found.embedding = max(found.embedding, difference)
        _require_close(low, difference)
        found.ious += _ious(masks, _masks(run_exact, geometry, expected))
    return found


def _require_close(plans: Sequence[StagePlan], difference: float) -> None:
    encoder = {plan.name: plan.precision for plan in plans if plan.name in (HEAD, "window", "global")}
    tolerance = embedding_tolerance(encoder.values())
    if not difference <= tolerance:
        chosen = ", ".join(f"{stage} {precision}" for stage, precision in encoder.items())
        raise ParityError(
            f"the image embedding of {chosen} differs from that of fp32 by {difference:.1e} of its largest "
            f"value, more than {tolerance:.1e}; nothing was kept: give --precision fp32 for one of them"
        )


def _runner(plans: Sequence[StagePlan], peaks: Mapping[str, Peak]) -> Run:
    """Runs a stage by name, rounding where `peaks` has its name. "window" is given the inputs of the first
    stage there is, be it "head"."""
    modules: dict[str, nn.Module] = {plan.name: plan.build() for plan in plans if plan.name in CHAIN}

    def run(name: str, inputs: Sequence[Tensor]) -> Any:
        if name == "window" and HEAD in modules:
            hidden, *scale = run(HEAD, inputs)
            inputs = (hidden, inputs[1], *scale)
        if name not in peaks:
            return modules[name](*inputs)
        result = run_rounded(modules[name], inputs, peaks[name])
        _require_finite(name, peaks[name])
        return result

    return run


def _require_finite(stage: str, peak: Peak) -> None:
    if peak.overflowed:
        name = str(peak.dtype).removeprefix("torch.")
        raise ParityError(
            f"stage {stage} overflows {name} in {peak.where} (it holds values up to "
            f"{torch.finfo(peak.dtype).max:.5g}); nothing was kept: give --precision {stage}=bf16 (or fp32)"
        )


def window_tensors(code: TileCode, g: Geometry, picture: Pixels) -> tuple[Tensor, Tensor, Tensor]:
    """tile, index and extent of all windows of a picture [rows, cols, 3]."""
    rows, cols = picture.shape[:2]
    canvas = blank_canvas(g)
    canvas[:rows, :cols] = picture
    inputs = coded_canvas(code, g, canvas, g.extents(rows, cols))
    index = torch.arange(g.windows, dtype=torch.int32)[:, None]
    return torch.from_numpy(inputs["tile"]), index, torch.from_numpy(inputs["extent"])


def _image_embedding(run: Run, inputs: Sequence[Tensor]) -> Tensor:
    """Image embedding fp32 [1, 256, E, E] of the inputs of all windows."""
    embedding = torch.cat([run("window", part)[0] for part in in_parts(inputs)])
    result: Tensor = run("global", (embedding,))
    return result


def in_parts(inputs: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """The inputs of BATCH windows at a time."""
    return zip(*(torch.split(each, BATCH) for each in inputs), strict=True)


def _masks(run: Run, g: Geometry, image_embedding: Tensor) -> Tensor:
    """Masks bool [prompts, 4E, 4E]: one a point of a grid over the canvas, and one for a box inside."""
    side = torch.arange(1, POINTS_A_SIDE + 1) * g.image_size / (POINTS_A_SIDE + 1)
    points = torch.cartesian_prod(side, side)
    none, middle = torch.zeros_like(points), torch.tensor([[0.25, 0.25], [0.75, 0.75]]) * g.image_size
    coords = torch.cat([torch.stack([points, none], dim=1), middle[None]])
    labels = torch.cat([torch.tensor([[1.0, -1.0]]).expand(len(points), -1), torch.tensor([[2.0, 3.0]])])
    mask, has_mask = torch.zeros((len(coords), 1, g.mask_px, g.mask_px)), torch.zeros((len(coords), 1))
    logits, rated = run("decoder", (image_embedding, coords, labels, mask, has_mask))
    best = 1 + rated[:, 1:].argmax(dim=1)
    best[-1] = 0  # of a box
    chosen: Tensor = logits[torch.arange(len(coords)), best] > 0
    return chosen


def _ious(actual: Tensor, expected: Tensor) -> list[float]:
    """IoU of each pair of masks [prompts, M, M]; of two empty ones, 1."""
    both = (actual & expected).flatten(1).sum(dim=1)
    either = (actual | expected).flatten(1).sum(dim=1)
    return torch.where(either > 0, both / either.clamp(min=1), 1.0).tolist()
