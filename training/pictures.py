"""Training pictures on the device that trains: all of them where they fit, else read from disk as needed."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track
from torch import Tensor

from stages.errors import InputError
from stages.geometry import Geometry
from training.data import on_canvas
from training.samples import Sample
from training.tally import tell

MEMORY = 8 * 2**30  # bytes of pictures and label maps that are kept in memory

PictureBatch = tuple[Tensor, Tensor, Tensor]
Decoded = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


class Pictures(ABC):
    """Samples on the canvas, by number; `objects` is how many instances each has.

    In place of a sample that cannot be read comes the next one that can: hours of training do not end at a
    damaged file.
    """

    def __init__(self, samples: Sequence[Sample], geometry: Geometry) -> None:
        self.count = len(samples)
        self._samples = samples
        self._geometry = geometry
        self._damaged: set[int] = set()
        self._telling = threading.Lock()
        with ThreadPoolExecutor() as pool:
            counts = pool.map(self._count_objects, range(self.count))
            self.objects = list(track(counts, "counting objects", total=self.count))

    @abstractmethod
    def take(self, chosen: Sequence[int]) -> PictureBatch:
        """On the device: pictures uint8 [n, S, S, 3], label maps uint8 [n, S, S], and the rows and columns
        that are picture, fp32 [n, 2]."""

    @abstractmethod
    def prefetch(self, chosen: Sequence[int]) -> None:
        """Start reading the pictures that are taken next."""

    def _count_objects(self, number: int) -> int:
        try:
            return self._samples[number].objects()
        except InputError as exc:
            self._tell(number, exc)
            return 0

    def _decoded(self, number: int) -> Decoded:
        """A sample on the canvas, or the next one that can be read. Raises InputError when none can."""
        for other in range(number, number + self.count):
            other %= self.count
            if other not in self._damaged:
                try:
                    return on_canvas(self._samples[other], self._geometry)
                except InputError as exc:
                    self._tell(other, exc)
        raise InputError("none of the pictures can be read; the sentences above say why")

    def _tell(self, number: int, exc: InputError) -> None:
        with self._telling:
            if number not in self._damaged:
                self._damaged.add(number)
                tell([f"picture {self._samples[number].name} is left out, another is used instead: {exc}"])


def open_pictures(samples: Sequence[Sample], geometry: Geometry, device: torch.device) -> Pictures:
    """In memory up to MEMORY bytes, else on disk."""
    size = len(samples) * geometry.image_size**2 * 4
    return (InMemory if size <= MEMORY else OnDisk)(samples, geometry, device)


class InMemory(Pictures):
    """Decoded once, kept on the device."""

    def __init__(self, samples: Sequence[Sample], geometry: Geometry, device: torch.device) -> None:
        super().__init__(samples, geometry)
        self._device = device
        with ThreadPoolExecutor() as pool:
            decoded = pool.map(self._decoded, range(self.count))
            self._all = _filled(
                track(decoded, "reading pictures", total=self.count), self.count, geometry, device
            )

    def take(self, chosen: Sequence[int]) -> PictureBatch:
        which = torch.tensor(chosen).to(self._device, non_blocking=True)
        images, labels, sizes = self._all
        return images[which], labels[which], sizes[which]

    def prefetch(self, chosen: Sequence[int]) -> None:
        """All are in memory."""


class OnDisk(Pictures):
    """Decoded by threads (PIL works outside the interpreter lock) while the step before still computes."""

    def __init__(self, samples: Sequence[Sample], geometry: Geometry, device: torch.device) -> None:
        super().__init__(samples, geometry)
        self._device = device
        self._pool = ThreadPoolExecutor()
        self._prefetched: dict[tuple[int, ...], list[Future[Decoded]]] = {}

    def take(self, chosen: Sequence[int]) -> PictureBatch:
        self.prefetch(chosen)
        decoded = self._prefetched.pop(tuple(chosen))
        return _filled((each.result() for each in decoded), len(chosen), self._geometry, self._device)

    def prefetch(self, chosen: Sequence[int]) -> None:
        if tuple(chosen) not in self._prefetched:
            read = [self._pool.submit(self._decoded, n) for n in chosen]
            self._prefetched[tuple(chosen)] = read


def _filled(decoded: Iterable[Decoded], count: int, geometry: Geometry, device: torch.device) -> PictureBatch:
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
