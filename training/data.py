"""Pictures with instance masks, to train on and to measure with. Needs no torch.

Three layouts are read: folders of pictures with label maps NAME.png (0 background, 1..N instances), COCO
instance JSON with the pictures near it, and what `pack` wrote. To learn from a teacher, pictures may lie in a
folder of their own and have no masks. Whatever cannot be used is left out and counted in a Tally.
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from export.checks.pictures import photographs
from media.pictures import picture_info
from stages.errors import InputError
from stages.files import replacing, writing
from stages.geometry import Geometry
from stages.tensors import Pixels
from training.advice import expected_of_folder, expected_of_json
from training.coco import CocoReader
from training.pairs import NO_LABEL_MAP, read_pairs
from training.samples import CocoSample, PackedSample, PairSample, PlainSample, Sample
from training.tally import PICTURES, Tally


def read_samples(path: Path, pictures: Path | None, tally: Tally) -> list[Sample]:
    """All samples of a folder of pairs, a COCO JSON or a folder of files that `pack` wrote, by name.

    `pictures` is the folder of the pictures, where they are not beside their masks. Raises InputError when
    there are none.
    """
    if packed := _packed_samples(path):
        if pictures:
            raise InputError(f"{path} holds packed pictures; leave out the folder of pictures")
        tally.read[PICTURES] += len(packed)
        return packed
    if pictures and not pictures.is_dir():
        raise InputError(f"{pictures} is no folder of pictures")
    samples = _named(_labelled_samples(path, pictures, tally))
    if not samples:
        found = f" ({'; '.join(tally.sentences())})" if tally.sentences() else ""
        raise InputError(
            f"{path} holds no pictures with masks that can be used{found}: {_expected(path, tally)}"
        )
    return sorted(samples, key=lambda sample: sample.name)


def read_pictures(folder: Path, masks: Path | None, tally: Tally) -> list[Sample]:
    """All pictures of a folder and its folders; those that `masks` (a folder of label maps, a COCO JSON)
    knows have their masks. A folder of files that `pack` wrote has its own.

    Raises InputError when there are no pictures, or masks of none of them.
    """
    if packed := _packed_samples(folder):
        tally.read[PICTURES] += len(packed)
        return packed
    paths = photographs(folder)
    labelled: dict[Path, PairSample | CocoSample] = {}
    if masks:
        of_masks = Tally()
        labelled = {sample.picture: sample for sample in _labelled_samples(masks, folder, of_masks)}
        tally.add(of_masks, {PICTURES: "pictures that may have masks"}, NO_LABEL_MAP)
        if not labelled:
            found, expected = "; ".join(of_masks.sentences()), _expected(masks, of_masks)
            raise InputError(f"{masks} holds no masks of pictures in {folder} ({found}): {expected}")
    tally.read[PICTURES] += len(paths)
    samples: list[PairSample | CocoSample | PlainSample] = []
    for path in paths:
        try:
            picture_info(path)
        except InputError as exc:
            tally.leave_out(PICTURES, "that cannot be read", str(exc))
            continue
        name = path.relative_to(folder).as_posix()
        samples.append(replace(labelled[path], name=name) if path in labelled else PlainSample(name, path))
    if not samples:
        raise InputError(f"none of the pictures in {folder} can be read: {tally.sentences()[-1]}")
    return _named(samples)


def holds_objects(samples: Iterable[Sample]) -> bool:
    """Whether any of the samples that can be read has an instance."""
    for sample in samples:
        try:
            if sample.labels().any():
                return True
        except InputError:  # it is told when it is its turn
            continue
    return False


def is_coco(path: Path) -> bool:
    """Whether a path is taken for a COCO JSON."""
    return path.suffix.lower() == ".json"


def _labelled_samples(masks: Path, pictures: Path | None, tally: Tally) -> Sequence[PairSample | CocoSample]:
    return CocoReader(masks, pictures, tally).read() if is_coco(masks) else read_pairs(masks, pictures, tally)


def _expected(path: Path, tally: Tally) -> str:
    return expected_of_json(tally) if is_coco(path) else expected_of_folder(path)


def _named(samples: Sequence[PairSample | CocoSample | PlainSample]) -> list[Sample]:
    """Samples under the name of their file alone; where several share it, with folders and suffix."""
    stems = [PurePosixPath(sample.name).stem for sample in samples]
    counts = Counter(stems)
    named: list[Sample] = []
    for sample, stem in zip(samples, stems, strict=True):
        named.append(replace(sample, name=stem) if counts[stem] == 1 else sample)
    return named


def _packed_samples(folder: Path) -> list[Sample]:
    found: list[tuple[Path, PackedSample]] = []
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path, allow_pickle=False) as arrays:
                for name in arrays["names"].tolist():
                    picture, labels = arrays[f"{name}.picture"], arrays[f"{name}.labels"]
                    found.append((path, PackedSample(name, picture, labels)))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as exc:
            raise InputError(f"{path} is no file of packed pictures ({exc}); pack it again") from exc
    names = Counter(sample.name for _, sample in found)
    samples: list[Sample] = [
        sample if names[sample.name] == 1 else replace(sample, name=f"{path.stem}/{sample.name}")
        for path, sample in found
    ]
    return sorted(samples, key=lambda sample: sample.name)


def pack(samples: Sequence[Sample], geometry: Geometry, path: Path, quality: int) -> None:
    """Write samples, resized to the canvas and compressed, as one file that travels well."""
    arrays: dict[str, Any] = {"names": np.array([sample.name for sample in samples])}
    for sample in track(samples, "packing"):
        image, labels = on_canvas(sample, geometry)
        arrays[f"{sample.name}.picture"] = _compressed(image, quality=quality)
        arrays[f"{sample.name}.labels"] = _compressed(np.repeat(labels[..., None], 3, axis=2), lossless=True)
    with writing(path), replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def on_canvas(sample: Sample, geometry: Geometry) -> tuple[Pixels, Pixels]:
    """Picture uint8 [rows, cols, 3] and label map uint8 [rows, cols], resized as the canvas is."""
    image, labels = sample.image(), sample.labels()
    rows, cols = geometry.resized(*labels.shape)
    return (
        np.asarray(Image.fromarray(image).resize((cols, rows), Image.Resampling.BILINEAR)),
        np.asarray(Image.fromarray(labels).resize((cols, rows), Image.Resampling.NEAREST)),
    )


def _compressed(pixels: Pixels, **options: Any) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", **options)
    return np.frombuffer(buffer.getvalue(), np.uint8)
