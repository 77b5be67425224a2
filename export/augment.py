"""Training batches, cut, mirrored and coloured on the device that trains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from export.data import Packed
from export.sam import PIXEL_MEAN, PIXEL_STD

MIN_OBJECT = 0.0015  # of the canvas: smaller objects are not asked for


@dataclass(frozen=True)
class Batch:
    """What one training step sees.

    pixels float [B, 3, S, S] as SAM's preprocess leaves them, masks float [B, K, M, M] in 0..1 (the share of
    each low-resolution pixel that is object), full bool [B, K, S, S], valid bool [B, K].
    """

    pixels: Tensor
    masks: Tensor
    full: Tensor
    valid: Tensor


class Batches:
    """Draws random batches from pictures that lie in device memory."""

    def __init__(self, packed: Packed, device: torch.device, seed: int) -> None:
        self.count = len(packed.images)
        self.generator = torch.Generator(device).manual_seed(seed)
        self._device = device
        self._images = torch.from_numpy(packed.images).to(device)
        self._labels = torch.from_numpy(packed.labels).to(device)
        self._sizes = torch.from_numpy(packed.sizes).to(device).float()
        self._mean = torch.tensor(PIXEL_MEAN, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(PIXEL_STD, device=device).view(1, 3, 1, 1)

    def draw(self, pictures: int, objects: int) -> Batch:
        """A random batch: `pictures` crops, `objects` instances of each."""
        chosen = torch.randint(self.count, (pictures,), generator=self.generator, device=self._device)
        pixels = self._images[chosen].permute(0, 3, 1, 2).float()
        pixels, labels, extent = self._cut(pixels, self._labels[chosen], self._sizes[chosen])
        pixels = (self._colour(pixels) - self._mean) / self._std
        pixels = torch.where(_inside(extent, pixels.shape[-1])[:, None], pixels, torch.zeros_like(pixels))
        return self._with_objects(pixels, labels, objects)

    def _uniform(self, shape: tuple[int, ...], low: float, high: float) -> Tensor:
        return torch.empty(shape, device=self._device).uniform_(low, high, generator=self.generator)

    def _cut(self, pixels: Tensor, labels: Tensor, extent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A random crop of each picture, its longest side scaled to the canvas, half of them mirrored."""
        n, _, size, _ = pixels.shape
        side = self._uniform((n, 1), 0.3, 1.0).sqrt()
        ratio = self._uniform((n, 1), -0.3, 0.3).exp()
        share = torch.cat([side * ratio, side / ratio], dim=1).clamp(0.2, 1.0)  # of rows, of columns
        crop = extent * share
        start = (extent - crop) * self._uniform((n, 2), 0.0, 1.0)
        new = (crop * (size / crop.amax(dim=1, keepdim=True))).round().clamp(1, size)
        steps = torch.arange(size, device=self._device) + 0.5
        y = start[:, :1] + steps * (crop / new)[:, :1]  # [n, S], pixels of the picture
        x = start[:, 1:] + steps * (crop / new)[:, 1:]
        mirrored = self._uniform((n, 1), 0.0, 1.0) < 0.5
        x = torch.where(mirrored, 2 * start[:, 1:] + crop[:, 1:] - x, x)
        where = [x[:, None, :].expand(n, size, size), y[:, :, None].expand(n, size, size)]
        grid = torch.stack(where, dim=-1) * (2 / size) - 1
        cut = F.grid_sample(pixels, grid, align_corners=False)
        cut_labels = F.grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)
        inside = _inside(new, size)
        return cut, torch.where(inside, cut_labels[:, 0], 0).to(torch.uint8), new

    def _colour(self, pixels: Tensor) -> Tensor:
        """Brightness, contrast, saturation and channel gains; one picture in ten becomes grey."""
        n = len(pixels)
        grey = pixels.mean(dim=1, keepdim=True)
        saturation = self._uniform((n, 1, 1, 1), 0.5, 1.5)
        saturation[self._uniform((n,), 0.0, 1.0) < 0.1] = 0
        mean = grey.mean(dim=(2, 3), keepdim=True)
        pixels = grey + (pixels - grey) * saturation
        pixels = mean + (pixels - mean) * self._uniform((n, 1, 1, 1), 0.7, 1.3)
        return (pixels * self._uniform((n, 3, 1, 1), 0.85, 1.15)).clamp(0, 255)

    def _with_objects(self, pixels: Tensor, labels: Tensor, objects: int) -> Batch:
        n, _, size, _ = pixels.shape
        area = torch.zeros((n, 256), device=self._device)
        area.scatter_add_(1, labels.flatten(1).long(), torch.ones_like(labels.flatten(1), dtype=torch.float))
        area[:, 0] = 0
        eligible = (area >= MIN_OBJECT * size**2).float()
        valid = eligible.sum(dim=1) > 0
        chosen = torch.multinomial(
            eligible + 1e-9, objects, replacement=True, generator=self.generator
        )  # an empty row draws anything, and does not count
        full = labels[:, None] == chosen[:, :, None, None].to(torch.uint8)
        masks = F.avg_pool2d(full.float(), 4)
        return Batch(pixels, masks, full, valid[:, None].expand(-1, objects) & full.any(dim=(2, 3)))


def _inside(extent: Tensor, size: int) -> Tensor:
    """bool [n, S, S]: the part of the canvas that is picture; `extent` [n, 2] are rows and columns."""
    steps = torch.arange(size, device=extent.device)
    return (steps[None, :, None] < extent[:, :1, None]) & (steps[None, None, :] < extent[:, 1:, None])
