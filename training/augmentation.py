"""Training batches, cut, mirrored and coloured on the device that trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from export.sam import PIXEL_MEAN, PIXEL_STD
from stages.tile_code import RGB, TileCode
from training.pictures import Pictures
from training.transport import CodedPixels

MIN_OBJECT = 0.001  # of the canvas: smaller objects are not prompted for
MAX_SAMPLING_WEIGHT = 16  # objects beyond these do not make a picture more likely
PASTED = 0.3  # share of pictures that get an object of another pasted on
LARGEST_PASTED = 0.3  # of the canvas
AREA_PARTS = 16  # divides the rows of every canvas


@dataclass(frozen=True)
class Batch:
    """What one training step sees.

    pixels float [B, 3, S, S] as SAM's preprocess leaves them, coded the same of tiles that were coded and
    decoded, masks float [B, K, M, M] in 0..1 (the share of each low-resolution pixel that is object), full
    bool [B, K, S, S], valid bool [B, K].
    """

    pixels: Tensor
    coded: Tensor
    masks: Tensor
    full: Tensor
    valid: Tensor


class Batches:
    """Draws random batches; `held_back` of the pictures are never drawn.

    Pictures of more objects come more often, so that objects come about equally often: most pictures of most
    data show one large object, and a model that saw little else could not segment the small ones of a street.
    Which pictures follows from the seed and how many batches were `drawn`, all else from `generator`.
    `tiles` is the code that the model sees them in.
    """

    def __init__(
        self,
        pictures: Pictures,
        device: torch.device,
        seed: int,
        held_back: int = 0,
        tiles: TileCode = RGB,
    ) -> None:
        order = torch.randperm(pictures.count, generator=torch.Generator().manual_seed(0)).tolist()
        self.drawn = 0
        self.generator = torch.Generator(device).manual_seed(seed)
        self._held_back, self._for_training = order[:held_back], order[held_back:]
        weights = [min(max(1, pictures.objects[n]), MAX_SAMPLING_WEIGHT) for n in self._for_training]
        self._weights = torch.tensor(weights, dtype=torch.float)
        self._pictures = pictures
        self._device = device
        self._seed = seed
        self._coded_pixels = CodedPixels(tiles).to(device) if tiles != RGB else None
        self._mean = torch.tensor(PIXEL_MEAN, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(PIXEL_STD, device=device).view(1, 3, 1, 1)

    def draw(self, pictures: int, objects: int, size: int) -> Batch:
        """A random batch: `pictures` crops on a canvas of `size` pixels, `objects` instances of each."""
        images, labels, sizes = self._pictures.take(self._chosen(pictures))
        self.drawn += 1
        self._pictures.prefetch(self._chosen(pictures))
        pixels = images.permute(0, 3, 1, 2).float()
        pixels, labels, extent = self._cut(pixels, labels, sizes, size)
        pixels, labels = self._paste(self._colour(pixels), labels, extent)
        return self._with_objects(pixels, extent, labels, objects, self.generator)

    def held_back(self, pictures: int, objects: int) -> Iterator[Batch]:
        """The pictures never drawn, as they are, `pictures` at a time; always the same objects."""
        generator = torch.Generator(self._device).manual_seed(0)
        for start in range(0, len(self._held_back), pictures):
            images, labels, sizes = self._pictures.take(self._held_back[start : start + pictures])
            pixels = images.permute(0, 3, 1, 2).float()
            yield self._with_objects(pixels, sizes, labels, objects, generator)

    def _chosen(self, pictures: int) -> list[int]:
        generator = torch.Generator().manual_seed(self._seed * 2**32 + self.drawn)
        which = torch.multinomial(self._weights, pictures, replacement=True, generator=generator)
        return [self._for_training[n] for n in which.tolist()]

    @property
    def count(self) -> int:
        """Pictures that are drawn from."""
        return len(self._for_training)

    def _uniform(self, shape: tuple[int, ...], low: float, high: float) -> Tensor:
        return torch.empty(shape, device=self._device).uniform_(low, high, generator=self.generator)

    def _normalised(self, pixels: Tensor, extent: Tensor) -> Tensor:
        pixels = (pixels - self._mean) / self._std
        return torch.where(_inside(extent, pixels.shape[-1])[:, None], pixels, torch.zeros_like(pixels))

    def _cut(
        self, pixels: Tensor, labels: Tensor, extent: Tensor, size: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A random crop of each picture, its longest side scaled to the canvas, half of them mirrored."""
        n, _, full, _ = pixels.shape
        shrunk = min(full, round(1.25 * size))  # crops are smaller than pictures; what is left is bilinear
        if shrunk < full:
            pixels = F.interpolate(pixels, (shrunk, shrunk), mode="bilinear", antialias=True)
        side = self._uniform((n, 1), 0.5, 1.25)
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
        grid = torch.stack(where, dim=-1) * (2 / full) - 1
        cut = F.grid_sample(pixels, grid, align_corners=False)
        cut_labels = F.grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)
        inside = _inside(new, size)
        return cut, torch.where(inside, cut_labels[:, 0], 0).to(torch.uint8), new

    def _colour(self, pixels: Tensor) -> Tensor:
        """Brightness, contrast, saturation and channel gains; one picture in ten becomes grey."""
        n = len(pixels)
        grey = pixels.mean(dim=1, keepdim=True)
        saturation = self._uniform((n, 1, 1, 1), 0.5, 1.5)
        saturation = saturation.masked_fill(self._uniform((n, 1, 1, 1), 0.0, 1.0) < 0.1, 0)
        mean = grey.mean(dim=(2, 3), keepdim=True)
        pixels = grey + (pixels - grey) * saturation
        pixels = mean + (pixels - mean) * self._uniform((n, 1, 1, 1), 0.7, 1.3)
        return (pixels * self._uniform((n, 3, 1, 1), 0.85, 1.15)).clamp(0, 255)

    def _paste(self, pixels: Tensor, labels: Tensor, extent: Tensor) -> tuple[Tensor, Tensor]:
        """One object of the next picture of the batch pasted on some of the pictures."""
        area = _areas(labels) * self._uniform((len(labels), 256), 0.0, 1.0)  # larger ones more often
        number = area.argmax(dim=1).to(torch.uint8)
        cut = (labels == number[:, None, None]) & (number > 0)[:, None, None]
        cut &= (cut.float().mean(dim=(1, 2)) < LARGEST_PASTED)[:, None, None]
        cut &= self._uniform((len(labels), 1, 1), 0.0, 1.0) < PASTED
        cut = cut.roll(1, dims=0) & _inside(extent, labels.shape[-1])
        pixels = torch.where(cut[:, None], pixels.roll(1, dims=0), pixels)
        return pixels, torch.where(cut, torch.full_like(labels, 255), labels)

    def _with_objects(
        self, pixels: Tensor, extent: Tensor, labels: Tensor, objects: int, generator: torch.Generator
    ) -> Batch:
        size = pixels.shape[-1]
        eligible = (_areas(labels) >= MIN_OBJECT * size**2).float()
        valid = eligible.sum(dim=1) > 0
        random_order = eligible * (1 + torch.rand(eligible.shape, generator=generator, device=self._device))
        turn = (
            torch.arange(objects, device=self._device) % eligible.sum(dim=1, keepdim=True).clamp(min=1).long()
        )
        chosen = random_order.argsort(dim=1, descending=True).gather(
            1, turn
        )  # from the first again when all were chosen
        full = labels[:, None] == chosen[:, :, None, None].to(torch.uint8)
        masks = F.avg_pool2d(full.float(), 4)
        plain = coded = self._normalised(pixels, extent)
        if self._coded_pixels is not None:
            coded = self._normalised(self._coded_pixels(pixels, extent), extent)
        return Batch(plain, coded, masks, full, valid[:, None].expand(-1, objects) & full.any(dim=(2, 3)))


def _areas(labels: Tensor) -> Tensor:
    """Pixels of each instance, float [n, 256], of label maps uint8 [n, S, S]; background has none."""
    rows = labels.reshape(len(labels) * AREA_PARTS, -1).long()  # in parts: fewer additions meet in one number
    parts = torch.zeros((len(rows), 256), device=labels.device)
    parts.scatter_add_(1, rows, torch.ones_like(rows, dtype=torch.float))
    area = parts.view(len(labels), AREA_PARTS, 256).sum(dim=1)
    area[:, 0] = 0
    return area


def _inside(extent: Tensor, size: int) -> Tensor:
    """bool [n, S, S]: the part of the canvas that is picture; `extent` [n, 2] are rows and columns."""
    steps = torch.arange(size, device=extent.device)
    return (steps[None, :, None] < extent[:, :1, None]) & (steps[None, None, :] < extent[:, 1:, None])
