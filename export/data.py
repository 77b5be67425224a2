"""Pictures with instance masks, to train on and to measure with. Needs no torch.

Two layouts are read: a folder of NAME.jpg with NAME.png label maps beside them (0 background, 1..N
instances), and COCO instance JSON with the pictures beside it. To learn from a teacher, pictures may lie in a
folder of their own and have no masks.
"""

from __future__ import annotations

import io
import json
import zipfile
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
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
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

    def objects(self) -> int:
        """How many instances there are."""
        return int(self.labels().max())

    def labels(self) -> Pixels:
        """Masks as one label map, uint8 [H, W]: bigger instances first, smaller ones on top."""
        masks = self.masks()[:MAX_INSTANCES]
        labels = np.zeros(self.image().shape[:2], np.uint8)
        for i in np.argsort([-mask.sum() for mask in masks]):
            labels[masks[i]] = i + 1
        return labels


class LabelledSample(Sample):
    """A picture whose masks come as a label map."""

    def masks(self) -> npt.NDArray[np.bool_]:
        labels = self.labels()
        numbers = [number for number in np.unique(labels) if number]
        return np.stack([labels == n for n in numbers]) if numbers else np.zeros((0, *labels.shape), bool)


@dataclass(frozen=True)
class PairSample(LabelledSample):
    """A picture and its label map, two files."""

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


@dataclass(frozen=True)
class PackedSample(LabelledSample):
    """A picture and its label map in memory, compressed."""

    name: str
    picture: Pixels
    label_map: Pixels

    def image(self) -> Pixels:
        return np.asarray(Image.open(io.BytesIO(self.picture.tobytes())).convert("RGB"), np.uint8)

    def labels(self) -> Pixels:
        return np.asarray(Image.open(io.BytesIO(self.label_map.tobytes())), np.uint8)


@dataclass(frozen=True)
class CocoSample(Sample):
    """A picture of a COCO instance JSON. Crowd regions are left out."""

    name: str
    picture: Path
    annotations: tuple[dict[str, Any], ...]

    def image(self) -> Pixels:
        return _read_picture(self.picture)

    def objects(self) -> int:
        return len(self.annotations)

    def masks(self) -> npt.NDArray[np.bool_]:
        height, width = self.image().shape[:2]
        masks = [_coco_mask(each["segmentation"], height, width) for each in self.annotations]
        return np.stack(masks) if masks else np.zeros((0, height, width), bool)


@dataclass(frozen=True)
class PlainSample(Sample):
    """A picture nobody has drawn masks for."""

    name: str
    picture: Path

    def image(self) -> Pixels:
        return _read_picture(self.picture)

    def objects(self) -> int:
        return 0

    def masks(self) -> npt.NDArray[np.bool_]:
        return np.zeros((0, *self.image().shape[:2]), bool)


def read_samples(path: Path) -> list[Sample]:
    """All samples of a folder of pairs, a COCO JSON or a folder of files that `pack` wrote, by name.

    Raises InputError when there are none.
    """
    samples = _packed_samples(path)
    if not samples:
        samples = list(_labelled_samples(path, path.parent if path.suffix == ".json" else path))
    if not samples:
        raise InputError(
            f"{path} holds no pictures with masks: expected NAME.jpg with NAME.png label maps, or a COCO JSON"
        )
    return sorted(samples, key=lambda sample: sample.name)


def read_pictures(folder: Path, masks: Path | None = None) -> list[Sample]:
    """All pictures of a folder and its folders; those that `masks` (a folder of label maps, a COCO JSON)
    knows have their masks. A folder of files that `pack` wrote has its own.

    Raises InputError when there are no pictures, or masks of none of them.
    """
    if packed := _packed_samples(folder):
        return packed
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in PICTURES]
    paths = [path for path in paths if path.suffix != ".png" or not path.with_suffix(".jpg").is_file()]
    if not paths:
        raise InputError(f"{folder} holds no pictures: expected a folder of {', '.join(PICTURES)} files")
    labelled = {sample.picture: sample for sample in _labelled_samples(masks, folder)} if masks else {}
    if masks and not labelled:
        raise InputError(
            f"{masks} holds no masks of pictures in {folder}: expected NAME.png label maps of NAME.jpg"
        )
    return [labelled.get(path) or PlainSample(path.stem, path) for path in paths]


def _labelled_samples(masks: Path, pictures: Path) -> Iterator[PairSample | CocoSample]:
    return _coco_samples(masks, pictures) if masks.suffix == ".json" else _pair_samples(masks, pictures)


def _pair_samples(folder: Path, pictures: Path) -> Iterator[PairSample]:
    if not folder.is_dir():
        raise InputError(f"{folder} is neither a folder nor a .json file")
    for picture in pictures.glob("*.jpg"):
        label_map = folder / f"{picture.stem}.png"
        if label_map.is_file():
            yield PairSample(picture.stem, picture, label_map)


def _coco_samples(path: Path, pictures: Path) -> Iterator[CocoSample]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        by_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in data["images"]}
        for annotation in data["annotations"]:
            if not annotation.get("iscrowd"):
                by_image[annotation["image_id"]].append(annotation)
        for image in data["images"]:
            picture = _find_picture(pictures, image["file_name"])
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


def _packed_samples(folder: Path) -> list[Sample]:
    samples: list[Sample] = []
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path, allow_pickle=False) as arrays:
                for name in arrays["names"].tolist():
                    samples.append(PackedSample(name, arrays[f"{name}.webp"], arrays[f"{name}.png"]))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as exc:
            raise InputError(f"{path} is no file of packed pictures ({exc}); pack it again") from exc
    return samples


def pack(samples: Sequence[Sample], geometry: Geometry, path: Path, quality: int) -> None:
    """Write samples, resized to the canvas and compressed, as one file that travels well."""
    arrays: dict[str, Any] = {"names": np.array([sample.name for sample in samples])}
    for sample in track(samples, "packing"):
        image, labels = on_canvas(sample, geometry)
        arrays[f"{sample.name}.webp"] = _compressed(image, "WEBP", quality=quality)
        arrays[f"{sample.name}.png"] = _compressed(labels, "PNG", optimize=True)
    np.savez(path, **arrays)


def on_canvas(sample: Sample, geometry: Geometry) -> tuple[Pixels, Pixels]:
    """Picture uint8 [rows, cols, 3] and label map uint8 [rows, cols], resized as the canvas is."""
    image, labels = sample.image(), sample.labels()
    rows, cols = geometry.resized(*labels.shape)
    return (
        np.asarray(Image.fromarray(image).resize((cols, rows), Image.Resampling.BILINEAR)),
        np.asarray(Image.fromarray(labels).resize((cols, rows), Image.Resampling.NEAREST)),
    )


def _compressed(pixels: Pixels, form: str, **options: Any) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return np.frombuffer(buffer.getvalue(), np.uint8)
