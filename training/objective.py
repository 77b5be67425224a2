"""The training loss: of masks, of predicted IoU, of embeddings against a teacher's.

Half of a batch's objects are prompted by a noisy box, half by one click; in some steps each also gets a
correcting click on what the first prediction got wrong, with that prediction as mask input. Source: SAM
(arXiv 2304.02643), appendix A, "Losses" and "Training algorithm", with cross-entropy in place of focal loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.augmentation import Batch
from training.hints import FeatureHintLoss
from training.promptable import Promptable
from training.prompting import clicks, corrections, noisy_boxes
from training.split_times import SplitTimes


def mask_losses(logits: Tensor, target: Tensor) -> Tensor:
    """2 cross-entropy + dice for each mask: logits and target (0..1) [..., M, M] -> [...]."""
    target = target.expand_as(logits)
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=(-2, -1))
    overlap = (probability * target).sum(dim=(-2, -1))
    dice = 1 - (2 * overlap + 1) / (probability.sum(dim=(-2, -1)) + target.sum(dim=(-2, -1)) + 1)
    return 2 * entropy + dice


def true_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of thresholded masks [..., M, M] -> [...]."""
    found, wanted = logits > 0, target > 0.5
    union = (found | wanted).sum(dim=(-2, -1))
    return (found & wanted).sum(dim=(-2, -1)) / union.clamp(min=1)


def prediction_loss(
    masks: Tensor, iou: Tensor, target: Tensor, single: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """Loss over the objects that count, and the logits [n, M, M] chosen for each.

    `single` [n] says which prompts are one click alone: for them the best of masks 1..3 is trained, for the
    others mask 0.
    """
    each = mask_losses(masks, target[:, None])
    best = torch.where(single, 1 + each[:, 1:].argmin(dim=1), 0)
    chosen = each.gather(1, best[:, None])[:, 0]
    rated = (iou - true_iou(masks, target[:, None]).detach()) ** 2
    weight = valid.float() / valid.float().sum().clamp(min=1)
    logits = masks.gather(1, best[:, None, None, None].expand(-1, 1, *masks.shape[2:]))[:, 0]
    return ((chosen + rated.mean(dim=1)) * weight).sum(), logits.detach()


def first_prompts(full: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes for the even objects, clicks for the odd ones: coords [n, 2, 2], labels [n, 2], single [n].

    `full` are masks bool [n, S, S].
    """
    single = torch.arange(len(full), device=full.device) % 2 == 1
    boxes, points = noisy_boxes(full, generator), clicks(full, generator)
    points = torch.cat([points, torch.zeros_like(points)], dim=1)
    coords = torch.where(single[:, None, None], points, boxes)
    labels = torch.stack([torch.where(single, 1.0, 2.0), torch.where(single, -1.0, 3.0)], dim=1)
    return coords, labels, single


class Objective(nn.Module):
    """The losses of one batch: masks, hints, and distance from the embeddings of a `teacher`.

    The distance is divided by the variance of the teacher's embeddings and taken over a share `taught` of the
    pictures. Teacher and hints see pictures as they are, the model sees them coded.
    """

    def __init__(
        self,
        model: Promptable,
        hints: FeatureHintLoss | None = None,
        teacher: nn.Module | None = None,
        masks: bool = True,
        taught: float = 1.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.hints = hints
        self._teacher = (teacher,)  # no submodule: it is neither trained nor saved
        self._masks = masks
        self._taught = taught
        self.times = SplitTimes()

    def forward(self, batch: Batch, corrected: bool, generator: torch.Generator) -> dict[str, Tensor]:
        """Each loss by name; their sum is what to minimise. `corrected` adds the correcting click."""
        embedding, tokens = self.model.encode(batch.coded)
        self.times.mark("encoder")
        losses: dict[str, Tensor] = {}
        if self._masks:
            losses |= self._mask_losses(embedding, batch, corrected, generator)
            self.times.mark("decoder and loss")
        if self.hints is not None:
            losses["hints"] = self.hints(batch.pixels, tokens)
        if (teacher := self._teacher[0]) is not None:
            count = max(1, round(self._taught * len(embedding)))
            with torch.no_grad():
                wanted = teacher(batch.pixels[:count]).float()
            losses["distil"] = F.mse_loss(embedding[:count].float(), wanted) / wanted.var()
            self.times.mark("teacher")
        return losses

    def _mask_losses(
        self, embedding: Tensor, batch: Batch, corrected: bool, generator: torch.Generator
    ) -> dict[str, Tensor]:
        target, valid = batch.masks.flatten(0, 1), batch.valid.flatten()
        coords, labels, single = first_prompts(batch.full.flatten(0, 1), generator)
        each = embedding[:, None].expand(-1, batch.masks.shape[1], -1, -1, -1).flatten(0, 1)
        answers = self.model.decode(each, coords, labels, None)
        first, logits = prediction_loss(*answers, target, single, valid)
        if not corrected:
            return {"mask": first}
        more, more_labels = corrections(logits, target, generator)
        coords, labels = torch.cat([coords, more], dim=1), torch.cat([labels, more_labels], dim=1)
        answers = self.model.decode(each, coords, labels, logits[:, None])
        second, _ = prediction_loss(*answers, target, torch.zeros_like(single), valid)
        return {"mask": first, "corrected": second}
