"""Train promptable segmentation: a SAM of any geometry, in either block order, with or without a teacher.

One step: a batch of augmented pictures, several objects each; half of the objects are prompted by a noisy
box, half by one click; then, every second step, a correcting click on what the first prediction got wrong,
with that prediction as mask input. Loss: 20 focal + dice on the mask (for a single click the best of three),
squared error on the rated IoU. Source: SAM (arXiv 2304.02643), appendix A. With a teacher, the squared error
of its image embedding is added.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.augment import Batch, Batches
from export.modules import DecoderStage
from export.prompting import clicks, corrections, noisy_boxes
from export.sam import Sam
from stages.geometry import Geometry

Say = Callable[[str], None]


@dataclass(frozen=True)
class TrainOptions:
    """How to train.

    `pictures` and `objects` are per step, `rate` is AdamW's after warm-up, `ema` the decay of the averaged
    weights that are kept in the end, `seconds` ends a session early (the next one resumes).
    """

    steps: int
    pictures: int = 64
    objects: int = 8
    rate: float = 6e-4
    weight_decay: float = 0.05
    warm_up: float = 0.03
    ema: float = 0.9995
    distil_weight: float = 1.0
    seed: int = 0
    seconds: float = math.inf
    save_every_s: float = 60.0


class Promptable(nn.Module):
    """A SAM whose stages take batches of pictures, in the block order its encoder has."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam
        self.decoder = DecoderStage(sam)

    def encode(self, pixels: Tensor) -> Tensor:
        embedding: Tensor = self.sam.image_encoder(pixels)
        return embedding

    def decode(
        self, embedding: Tensor, coords: Tensor, labels: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Masks [n, 4, M, M] and ratings [n, 4] for one embedding and one prompt a row."""
        side = 4 * embedding.shape[-1]
        given = torch.full((len(coords), 1), float(mask is not None), device=coords.device)
        blank = torch.zeros((len(coords), 1, side, side), device=coords.device) if mask is None else mask
        masks, iou = self.decoder(embedding, coords, labels, blank, given)
        return masks.float(), iou.float()


@dataclass(frozen=True)
class Losses:
    total: Tensor
    mask: Tensor
    iou: Tensor


def mask_losses(logits: Tensor, target: Tensor) -> Tensor:
    """20 focal + dice for each mask: logits and target [..., M, M] -> [...]. `target` is a share in 0..1."""
    target = target.expand_as(logits)
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    missed = (probability - target).abs()
    focal = (entropy * missed**2 * (0.25 * target + 0.75 * (1 - target))).mean(dim=(-2, -1))
    overlap = (probability * target).sum(dim=(-2, -1))
    dice = 1 - (2 * overlap + 1) / (probability.sum(dim=(-2, -1)) + target.sum(dim=(-2, -1)) + 1)
    return 20 * focal + dice


def true_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of thresholded masks [..., M, M] -> [...]."""
    found, wanted = logits > 0, target > 0.5
    union = (found | wanted).sum(dim=(-2, -1))
    return (found & wanted).sum(dim=(-2, -1)) / union.clamp(min=1)


def losses(
    masks: Tensor, iou: Tensor, target: Tensor, single: Tensor, valid: Tensor
) -> tuple[Losses, Tensor]:
    """Losses over the objects that count, and the logits [n, M, M] chosen for each.

    `single` [n] says which prompts are one click alone: for them the best of masks 1..3 is trained, for the
    others mask 0.
    """
    each = mask_losses(masks, target[:, None])
    best = torch.where(single, 1 + each[:, 1:].argmin(dim=1), 0)
    chosen = each.gather(1, best[:, None])[:, 0]
    rated = (iou - true_iou(masks, target[:, None]).detach()) ** 2
    weight = valid.float() / valid.float().sum().clamp(min=1)
    mask_loss = (chosen * weight).sum()
    iou_loss = (rated.mean(dim=1) * weight).sum()
    logits = masks.gather(1, best[:, None, None, None].expand(-1, 1, *masks.shape[2:]))[:, 0]
    return Losses(mask_loss + iou_loss, mask_loss, iou_loss), logits.detach()


def first_prompts(batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes for the even objects, clicks for the odd ones: coords [n, 2, 2], labels [n, 2], single [n]."""
    full = batch.full.flatten(0, 1)
    single = torch.arange(len(full), device=full.device) % 2 == 1
    boxes, points = noisy_boxes(full, generator), clicks(full, generator)
    points = torch.cat([points, torch.zeros_like(points)], dim=1)
    coords = torch.where(single[:, None, None], points, boxes)
    labels = torch.where(single[:, None], coords.new_tensor([1.0, -1.0]), coords.new_tensor([2.0, 3.0]))
    return coords, labels, single


class Trainer:
    """Trains one model; `state_path` makes it resumable after a kill at any moment."""

    def __init__(
        self,
        sam: Sam,
        batches: Batches,
        options: TrainOptions,
        device: torch.device,
        state_path: Path,
        teacher: nn.Module | None = None,
    ) -> None:
        self.model = Promptable(sam).to(device).train()
        self.step = 0
        self._average = {
            name: tensor.detach().clone() for name, tensor in self.model.sam.state_dict().items()
        }
        self._batches = batches
        self._options = options
        self._device = device
        self._state_path = state_path
        self._teacher = teacher
        matrices = [p for p in self.model.parameters() if p.ndim >= 2]
        vectors = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": options.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self._optimiser = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.98))
        if state_path.exists():
            self._resume()

    def run(self, say: Say) -> bool:
        """Train until `steps` or `seconds` are over; True when all steps are done."""
        started = saved = told = time.monotonic()
        first = self.step
        while self.step < self._options.steps:
            parts = self._one_step()
            now = time.monotonic()
            if now - told > 10 or self.step == self._options.steps:
                speed = (self.step - first) * self._options.pictures / (now - started)
                say(self._line(parts, speed))
                told = now
            if now - saved > self._options.save_every_s:
                self._save()
                saved = now
            if now - started > self._options.seconds:
                break
        self._save()
        return self.step >= self._options.steps

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights, in SAM's key layout, blocks in the order they run in."""
        return self._average

    def _one_step(self) -> dict[str, Tensor]:
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate()
        batch = self._batches.draw(self._options.pictures, self._options.objects)
        parts = self._losses(batch)
        self._optimiser.zero_grad(set_to_none=True)
        parts["total"].backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimiser.step()
        self.step += 1
        self._update_average()
        return parts

    def _rate(self) -> float:
        done = self.step / self._options.steps
        warm = min(1.0, (self.step + 1) / max(1.0, self._options.warm_up * self._options.steps))
        return self._options.rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        generator = self._batches.generator
        target, valid = batch.masks.flatten(0, 1), batch.valid.flatten()
        coords, labels, single = first_prompts(batch, generator)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            image = self.model.encode(batch.pixels)
            each = image.repeat_interleave(self._options.objects, dim=0)
            first, logits = losses(*self.model.decode(each, coords, labels, None), target, single, valid)
            parts = {"mask": first.mask, "iou": first.iou, "total": first.total}
            if self.step % 2:
                more, more_labels = corrections(logits, target, generator)
                coords, labels = torch.cat([coords, more], dim=1), torch.cat([labels, more_labels], dim=1)
                answers = self.model.decode(each, coords, labels, logits[:, None])
                second, _ = losses(*answers, target, torch.zeros_like(single), valid)
                parts["total"] = parts["total"] + second.total
            if self._teacher is not None:
                with torch.no_grad():
                    wanted = self._teacher(batch.pixels)
                parts["distil"] = F.mse_loss(image.float(), wanted.float())
                parts["total"] = parts["total"] + self._options.distil_weight * parts["distil"]
        return parts

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self._options.ema, (1 + self.step) / (10 + self.step))
        for name, tensor in self.model.sam.state_dict().items():
            self._average[name].lerp_(tensor.float(), 1 - decay)

    def _line(self, parts: dict[str, Tensor], speed: float) -> str:
        values = ", ".join(f"{name} {float(value.detach()):.3f}" for name, value in parts.items())
        return f"step {self.step} of {self._options.steps}: {values}; {speed:.0f} pictures/s"

    def _save(self) -> None:
        state = {
            "step": self.step,
            "model": self.model.sam.state_dict(),
            "average": self._average,
            "optimiser": self._optimiser.state_dict(),
        }
        temporary = self._state_path.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(self._state_path)

    def _resume(self) -> None:
        state: dict[str, Any] = torch.load(self._state_path, map_location=self._device, weights_only=True)
        self.step = state["step"]
        self.model.sam.load_state_dict(state["model"])
        self._average = state["average"]
        self._optimiser.load_state_dict(state["optimiser"])
        self._batches.generator.manual_seed(self._options.seed + self.step)


def in_own_order(state: Mapping[str, Tensor], geometry: Geometry) -> dict[str, Tensor]:
    """Weights of a model whose blocks were reordered, under the names SAM's own block order gives them."""
    names = {
        f"image_encoder.blocks.{new}.": f"image_encoder.blocks.{own}."
        for new, own in enumerate(geometry.block_order)
    }
    prefix = len("image_encoder.blocks.")
    renamed = {}
    for name, tensor in state.items():
        stem = name[: name.find(".", prefix) + 1] if name.startswith("image_encoder.blocks.") else ""
        renamed[names[stem] + name[len(stem) :] if stem else name] = tensor
    return renamed
