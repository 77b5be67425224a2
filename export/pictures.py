"""Training pictures on the device that trains: all of them where they fit, else read from disk as needed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track
from torch import Tensor

from export.data import Sample, on_canvas
from stages.geometry import Geometry

MEMORY = 8 * 2**30  # bytes of pictures and label maps that are kept in memory

Taken = tuple[Tensor, Tensor, Tensor]
Decoded = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


class Pictures(ABC):
    """Samples on the canvas, by number; `objects` is how many instances each has."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.count = len(samples)
        with ThreadPoolExecutor() as pool:
            counts = pool.map(lambda sample: sample.objects(), samples)
            self.objects = list(track(counts, "counting objects", total=self.count))

    @abstractmethod
    def take(self, chosen: Sequence[int]) -> Taken:
        """On the device: pictures uint8 [n, S, S, 3], label maps uint8 [n, S, S], and the rows and columns
        that
        are picture, fp32 [n, 2]."""

    @abstractmethod
    def expect(self, chosen: Sequence[int]) -> None:
        """These are taken next: time to begin reading them."""


def open_pictures(samples: Sequence[Sample], geometry: Geometry, device: torch.device) -> Pictures:
    """In memory up to MEMORY bytes, else on disk."""
    size = len(samples) * geometry.image_size**2 * 4
    return (InMemory if size <= MEMORY else OnDisk)(samples, geometry, device)


class InMemory(Pictures):
    """Decoded once, kept on the device."""

    def __init__(self, samples: Sequence[Sample], geometry: Geometry, device: torch.device) -> None:
        super().__init__(samples)
        self._device = device
        with ThreadPoolExecutor() as pool:
            decoded = pool.map(lambda sample: on_canvas(sample, geometry), samples)
            self._all = _filled(
                track(decoded, "reading pictures", total=self.count), self.count, geometry, device
            )

    def take(self, chosen: Sequence[int]) -> Taken:
        which = torch.tensor(chosen, device=self._device)
        images, labels, sizes = self._all
        return images[which], labels[which], sizes[which]

    def expect(self, chosen: Sequence[int]) -> None:
        """They are here already."""


class OnDisk(Pictures):
    """Decoded by threads (PIL works outside the interpreter lock) while the step before still computes."""

    def __init__(self, samples: Sequence[Sample], geometry: Geometry, device: torch.device) -> None:
        super().__init__(samples)
        self._samples = samples
        self._geometry = geometry
        self._device = device
        self._pool = ThreadPoolExecutor()
        self._coming: dict[tuple[int, ...], list[Future[Decoded]]] = {}

    def take(self, chosen: Sequence[int]) -> Taken:
        self.expect(chosen)
        decoded = self._coming.pop(tuple(chosen))
        return _filled((each.result() for each in decoded), len(chosen), self._geometry, self._device)

    def expect(self, chosen: Sequence[int]) -> None:
        if tuple(chosen) not in self._coming:
            read = [self._pool.submit(on_canvas, self._samples[n], self._geometry) for n in chosen]
            self._coming[tuple(chosen)] = read


def _filled(decoded: Iterable[Decoded], count: int, geometry: Geometry, device: torch.device) -> Taken:
    size = geometry.image_size
    images = np.zeros((count, size, size, 3), np.uint8)
    labels = np.zeros((count, size, size), np.uint8)
    sizes = np.zeros((count, 2), np.float32)
    for n, (image, label_map) in enumerate(decoded):
        rows, cols = label_map.shape
        images[n, :rows, :cols], labels[n, :rows, :cols] = image, label_map
        sizes[n] = rows, cols
    on_device = [torch.from_numpy(array).to(device) for array in (images, labels, sizes)]
    return on_device[0], on_device[1], on_device[2]
