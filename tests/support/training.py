"""What tests of training share: a tiny SAM, pictures to train it on, and the commands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor

from export.sam import Sam, build_sam
from pedsam.command import main
from stages.geometry import Geometry
from tests.support.checkpoints import random_tensors
from tests.support.pictures import photo
from training.augmentation import Batches
from training.objective import Objective
from training.pictures import InMemory
from training.promptable import Promptable
from training.samples import LabelledSample, Sample
from training.trainer import Trainer, TrainOptions, accelerated

TINY = Geometry("tiny", 80, 16, 2, 24, 3, 4, (1, 3))
CPU = torch.device("cpu")
SHORT = ("--steps", 2, "--pictures", 1, "--objects", 2, "--sizes", "0.5:80,0.5:160", "--device", "cpu")
LAYOUT = Path(__file__).parents[1] / "training/mobile_sam.tsv"  # names and shapes of the official checkpoint


class Drawn(LabelledSample):
    """A picture of 50 x 80 with two objects."""

    name = "drawn"

    def image(self) -> npt.NDArray[np.uint8]:
        return photo("16:9")[:50, :80]

    def labels(self) -> npt.NDArray[np.uint8]:
        labels = np.zeros((50, 80), np.uint8)
        labels[5:45, 10:40], labels[10:30, 50:75] = 1, 2
        return labels


class Tinted(Drawn):
    """Its colours say which object a pixel belongs to."""

    def image(self) -> npt.NDArray[np.uint8]:
        return np.repeat(40 + 80 * self.labels()[..., None], 3, axis=2)


def batches(seed: int = 0, held_back: int = 0, sample: type[Drawn] = Drawn) -> Batches:
    return Batches(InMemory([sample()] * 4, TINY, CPU), CPU, seed, held_back)


def trainer(state: Path, steps: int = 4, sam: Sam | None = None, **options: Any) -> Trainer:
    torch.manual_seed(1)
    chosen = {"pictures": 2, "objects": 2, "rate": 2e-3, "ema": 0.9, "validate_every": 1000} | options
    train_options = TrainOptions(steps, ((1.0, 80),), **chosen)
    objective = Objective(Promptable(sam or build_sam(TINY)))
    return Trainer(
        objective, batches(held_back=1), train_options, accelerated(train_options, "cpu", "no"), state
    )


def ignore(step: int, values: Mapping[str, float]) -> None:
    """A report nobody reads."""


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write_pair(folder: Path, name: str) -> np.ndarray:
    """A photograph with two instances, one upon the other; returns its label map."""
    picture = photo("4:3")[::2, ::2]
    labels = np.zeros(picture.shape[:2], np.uint8)
    labels[20:150, 10:200] = 2
    labels[60:100, 50:90] = 1
    Image.fromarray(picture).save(folder / f"{name}.jpg")
    Image.fromarray(labels).save(folder / f"{name}.png")
    return labels


def masks_of(sample: Sample) -> npt.NDArray[np.bool_]:
    """All masks of a sample at once, bool [n, H, W], n >= 0."""
    masks = list(sample.each_mask())
    return np.stack(masks) if masks else np.zeros((0, *sample.shape()), bool)


def mobile_sam(seed: int = 0) -> dict[str, Tensor]:
    """Random weights in the key layout of MobileSAM's checkpoint."""
    return random_tensors(LAYOUT, seed)
