"""Pictures with instance masks, to train on and to measure with. Needs no torch.

Two layouts are read: a folder of NAME.jpg (or .png) with NAME.png label maps beside them (0 background, 1..N
instances), and COCO instance JSON with the pictures beside it.
"""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.progress import track

from stages.errors import InputError
from stages.geometry import Geometry

Pixels = npt.NDArray[np.uint8]
MAX_INSTANCES = 255  # a label map is 8-bit


class Sample(ABC):
    """One picture and its instances."""

    name: str

    @abstractmethod
    def image(self) -> Pixels:
        """RGB uint8 [H, W, 3]."""

    @abstractmethod
    def masks(self) -> npt.NDArray[np.bool_]:
        """Instance masks, bool [n, H, W], n >= 0."""

    def labels(self) -> Pixels:
        """Masks as one label map, uint8 [H, W]: bigger instances first, smaller ones on top."""
        masks = self.masks()[:MAX_INSTANCES]
        labels = np.zeros(self.image().shape[:2], np.uint8)
        for i in np.argsort([-mask.sum() for mask in masks]):
            labels[masks[i]] = i + 1
        return labels


@dataclass(frozen=True)
class PairSample(Sample):
    """A picture and its label map."""

    name: str
    picture: Path
    label_map: Path

    def image(self) -> Pixels:
        return _read_picture(self.picture)

    def labels(self) -> Pixels:
        labels = _read_labels(self.label_map)
        with Image.open(self.picture) as image:
            if image.size != labels.shape[::-1]:
                raise InputError(
                    f"{self.label_map} is {labels.shape[1]} x {labels.shape[0]} pixels, its picture "
                    f"{image.width} x {image.height}; they must be equal"
                )
        return labels

    def masks(self) -> npt.NDArray[np.bool_]:
        labels = self.labels()
        numbers = [number for number in np.unique(labels) if number]
        return np.stack([labels == n for n in numbers]) if numbers else np.zeros((0, *labels.shape), bool)


@dataclass(frozen=True)
class CocoSample(Sample):
    """A picture of a COCO instance JSON. Crowd regions are left out."""

    name: str
    picture: Path
    annotations: tuple[dict[str, Any], ...]

    def image(self) -> Pixels:
        return _read_picture(self.picture)

    def masks(self) -> npt.NDArray[np.bool_]:
        height, width = self.image().shape[:2]
        masks = [_coco_mask(each["segmentation"], height, width) for each in self.annotations]
        return np.stack(masks) if masks else np.zeros((0, height, width), bool)


def read_samples(path: Path) -> list[Sample]:
    """All samples of a folder or a COCO JSON, by name. Raises InputError when there are none."""
    samples = list(_coco_samples(path) if path.suffix == ".json" else _pair_samples(path))
    if not samples:
        raise InputError(
            f"{path} holds no pictures with masks: expected NAME.jpg with NAME.png label maps, or a COCO JSON"
        )
    return sorted(samples, key=lambda sample: sample.name)


def _pair_samples(folder: Path) -> Iterator[Sample]:
    if not folder.is_dir():
        raise InputError(f"{folder} is neither a folder nor a .json file")
    for picture in folder.glob("*.jpg"):
        label_map = picture.with_suffix(".png")
        if label_map.is_file():
            yield PairSample(picture.stem, picture, label_map)


def _coco_samples(path: Path) -> Iterator[Sample]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        by_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in data["images"]}
        for annotation in data["annotations"]:
            if not annotation.get("iscrowd"):
                by_image[annotation["image_id"]].append(annotation)
        for image in data["images"]:
            picture = _find_picture(path.parent, image["file_name"])
            yield CocoSample(picture.stem, picture, tuple(by_image[image["id"]]))
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise InputError(f"{path} is no COCO instance JSON ({exc!r})") from exc


def _find_picture(folder: Path, name: str) -> Path:
    for place in (folder, folder / "images", folder / "val2017", folder / "train2017", folder.parent):
        if (place / name).is_file():
            return place / name
    raise InputError(
        f"picture {name} is not beside its JSON in {folder} (nor in images/, val2017/, train2017/)"
    )


def _coco_mask(segmentation: Any, height: int, width: int) -> npt.NDArray[np.bool_]:
    from pycocotools import mask as coco

    if isinstance(segmentation, list):
        rle = coco.merge(coco.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = coco.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    decoded: npt.NDArray[np.bool_] = coco.decode(rle).astype(bool)
    return decoded


def _read_picture(path: Path) -> Pixels:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"), np.uint8)
    except (OSError, ValueError, SyntaxError) as exc:
        raise InputError(f"picture {path} cannot be read ({exc})") from exc


def _read_labels(path: Path) -> Pixels:
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P"):
                raise InputError(f"label map {path} has mode {image.mode}, expected 8-bit single channel")
            return np.asarray(image, np.uint8)
    except (OSError, ValueError, SyntaxError) as exc:
        raise InputError(f"label map {path} cannot be read ({exc})") from exc


@dataclass(frozen=True)
class Packed:
    """Samples on the canvas, ready for a GPU: images uint8 [n, S, S, 3], labels uint8 [n, S, S], and the
    rows and columns that are picture, int32 [n, 2]."""

    images: Pixels
    labels: Pixels
    sizes: npt.NDArray[np.int32]


def read_packed(path: Path, geometry: Geometry) -> Packed:
    """Samples on the canvas, from whatever `read_samples` reads or from a file of `pack`."""
    if path.suffix == ".npz":
        return _unpack(path, geometry)
    samples = read_samples(path)
    packed = _blank(len(samples), geometry)
    for n, sample in enumerate(track(samples, "reading")):
        _fill(packed, n, *_on_canvas(sample, geometry))
    return packed


def pack(samples: Sequence[Sample], geometry: Geometry, path: Path, quality: int = 45) -> None:
    """Write samples, resized to the canvas and compressed, as one file that travels well."""
    arrays: dict[str, Any] = {"image_size": np.array(geometry.image_size)}
    for number, sample in enumerate(track(samples, "packing")):
        image, labels = _on_canvas(sample, geometry)
        arrays[f"i{number}"] = _compressed(image, "WEBP", quality=quality)
        arrays[f"l{number}"] = _compressed(labels, "PNG", optimize=True)
    np.savez(path, **arrays)


def _on_canvas(sample: Sample, geometry: Geometry) -> tuple[Image.Image, Image.Image]:
    image, labels = sample.image(), sample.labels()
    rows, cols = geometry.resized(*labels.shape)
    return (
        Image.fromarray(image).resize((cols, rows), Image.Resampling.BILINEAR),
        Image.fromarray(labels).resize((cols, rows), Image.Resampling.NEAREST),
    )


def _compressed(image: Image.Image, form: str, **options: Any) -> Pixels:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def _unpack(path: Path, geometry: Geometry) -> Packed:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if int(arrays["image_size"]) != geometry.image_size:
                raise InputError(
                    f"{path} is packed for {int(arrays['image_size'])} pixels, expected {geometry.image_size}"
                )
            packed = _blank((len(arrays.files) - 1) // 2, geometry)
            for n in track(range(len(packed.images)), "decoding"):
                image, labels = (Image.open(io.BytesIO(arrays[f"{kind}{n}"].tobytes())) for kind in "il")
                _fill(packed, n, image, labels)
    except (OSError, ValueError, KeyError) as exc:
        raise InputError(f"{path} is no file of packed pictures ({exc}); pack it again") from exc
    return packed


def _blank(count: int, geometry: Geometry) -> Packed:
    shape = (count, geometry.image_size, geometry.image_size)
    return Packed(np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8), np.zeros((count, 2), np.int32))


def _fill(packed: Packed, n: int, image: Image.Image, labels: Image.Image) -> None:
    cols, rows = labels.size
    packed.images[n, :rows, :cols] = np.asarray(image)
    packed.labels[n, :rows, :cols] = np.asarray(labels)
    packed.sizes[n] = rows, cols
