"""COCO instance JSON: every image and annotation is checked, and what cannot be used is left out and told."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import track

from media.pictures import picture_info
from stages.errors import InputError
from stages.json_values import brief
from stages.text_files import read_text
from training.layouts import NotFound, PictureFinder
from training.samples import CocoSample, orientation_for
from training.segmentations import BadSegmentation, Frame, Segmentation, read_segmentation
from training.tally import ANNOTATIONS, PICTURES, Tally

EXPECTED = 'expected a COCO instance JSON, {"images": [...], "annotations": [...]}'
MEMORY_FACTOR = 4  # bytes of memory for a byte of JSON, at least: numbers in lists take 5 to 6
MANY = 2000  # images from which on a progress bar is shown

# What other JSON is, by keys of its top level or, of a list, of its first entry.
_OTHERS: tuple[tuple[set[str], str], ...] = (
    ({"shapes", "imagePath"}, "it is labelme's JSON of one picture: convert all of them with labelme2coco"),
    ({"_via_img_metadata"}, "it is a project of VGG Image Annotator: export it as COCO there"),
    ({"regions", "filename"}, "it is VGG Image Annotator's own JSON: export it as COCO there"),
    ({"segments_info", "image_id"}, "it is a list of COCO panoptic annotations"),
    ({"image", "annotations"}, "it is JSON of single pictures (SA-1B, CreateML): convert it to COCO"),
    ({"image_id", "score"}, "it is a list of detections (COCO results) and not what they are compared with"),
    ({"image_id", "segmentation"}, "it is the list of annotations only"),
    ({"data", "annotations"}, "it is Label Studio's own JSON: export it as COCO there"),
    ({"objects", "size"}, "it is Supervisely's JSON of one picture: export it as COCO there"),
    ({"objects", "imgHeight"}, "it is a Cityscapes JSON of one picture: convert it to COCO"),
    ({"items", "categories"}, "it is Datumaro's own JSON: export it as COCO there"),
    ({"type", "features"}, "it is GeoJSON"),
)


@dataclass(eq=False)
class _Image:
    """An image of the JSON whose picture can be used; `frame` is what its annotations are drawn on."""

    name: str
    picture: Path
    frame: Frame
    orientation: int
    segmentations: list[Segmentation] = field(default_factory=list)


class CocoReader:
    """Reads the samples of one JSON. `pictures` is a folder, None where they lie as in `training.layouts`."""

    def __init__(self, path: Path, pictures: Path | None, tally: Tally) -> None:
        self._path = path
        self._tally = tally
        self._finder = PictureFinder(path, pictures)
        self._images: dict[str, _Image] = {}  # by id
        self._left_out: set[str] = set()  # ids of images
        self._seen: dict[str, Mapping[str, Any]] = {}  # annotations by id

    def read(self) -> list[CocoSample]:
        """The pictures that can be used, with the masks that can be used; a picture may have none.

        Raises InputError for a file that is no COCO instance JSON, and says what it is.
        """
        content = read_coco_json(self._path)
        self._read_images(content["images"])
        for number, annotation in enumerate(content["annotations"], 1):
            self._tally.read[ANNOTATIONS] += 1
            self._read_annotation(number, annotation)
        return [
            CocoSample(each.name, each.picture, each.frame, each.orientation, tuple(each.segmentations))
            for each in dict.fromkeys(self._images.values())
        ]

    def _read_images(self, images: list[Any]) -> None:
        self._tally.read[PICTURES] += len(images)
        by_id: defaultdict[str, list[tuple[str, Any]]] = defaultdict(list)
        by_picture: defaultdict[Path, list[str]] = defaultdict(list)
        for number, image in enumerate(images, 1):
            key = _key(image.get("id")) if isinstance(image, dict) else None
            if key is None:
                self._tally.leave_out(PICTURES, "without an id", f"image {number} of the JSON")
            else:
                by_id[key].append((_name(image, number), image))
        for key, same in track(by_id.items(), "finding pictures", disable=len(images) < MANY, transient=True):
            for name, image in same[: 1 if _all_equal(same) else None]:
                if len(same) > 1 and not _all_equal(same):
                    self._leave_out(key, "with the id of another", name)
                elif found := self._image(key, name, image):
                    self._images[key] = found
                    by_picture[found.picture].append(key)
        for keys in by_picture.values():
            if len(keys) > 1:
                self._join(keys)

    def _image(self, key: str, name: str, image: Mapping[str, Any]) -> _Image | None:
        try:
            picture = self._finder.find(image)
            info = picture_info(picture)
        except NotFound as exc:
            self._leave_out(key, exc.reason, f"{name}: {exc.found}" if exc.found else name)
            self._tally.note(f"pictures were looked for in {self._finder.looked}")
            return None
        except InputError as exc:
            self._leave_out(key, "that cannot be read", str(exc))
            return None
        height, width = _side(image.get("height")), _side(image.get("width"))
        frame = (height, width) if height and width else (info.height, info.width)
        orientation = orientation_for(info, frame)
        if orientation is None:
            sizes = f"{width} x {height} in the JSON, the picture {info.width} x {info.height}"
            self._leave_out(key, "of another size than the JSON says", f"{name}: {sizes}")
            return None
        return _Image(name, picture, frame, orientation)

    def _leave_out(self, key: str, reason: str, name: str) -> None:
        self._tally.leave_out(PICTURES, reason, name)
        self._images.pop(key, None)
        self._left_out.add(key)

    def _join(self, keys: list[str]) -> None:
        """Images of one file: under one name they are one image, under several nobody knows whose it is."""
        first, *others = (self._images[key] for key in keys)
        for key, image in zip(keys, (first, *others), strict=True):
            if any(each.name != first.name for each in others):
                self._leave_out(key, "for which one file was found several times", f"{image.name}")
            elif image is not first:
                self._images[key] = first

    def _read_annotation(self, number: int, annotation: Any) -> None:
        if not isinstance(annotation, dict):
            return self._refuse(f"number {number} of the list", "that are no objects", brief(annotation))
        key = _key(annotation.get("image_id"))
        identity = _key(annotation.get("id"))
        title = f"annotation {identity}" if identity else f"number {number} of the list"
        if key is None or key not in self._images:
            reason = (
                "of pictures that are left out" if key in self._left_out else "of an image that is not listed"
            )
            return self._refuse(title, reason, f"image_id {brief(annotation.get('image_id'))}")
        image = self._images[key]
        title = f"{title} of {image.name}"
        if annotation.get("iscrowd") not in (None, 0, "0", ""):
            return self._refuse(title, "of crowds")
        first = self._seen.setdefault(identity, annotation) if identity else annotation
        if first is not annotation and first == annotation:
            return self._refuse(title, "that are there twice")
        try:
            image.segmentations.append(read_segmentation(annotation.get("segmentation"), image.frame))
        except BadSegmentation as exc:
            only_box = exc.reason == "without a mask" and annotation.get("bbox")
            self._refuse(title, "with a box and no mask" if only_box else exc.reason, exc.found)

    def _refuse(self, title: str, reason: str, found: str = "") -> None:
        self._tally.leave_out(ANNOTATIONS, reason, f"{title}: {found}" if found else title)


def read_coco_json(path: Path) -> dict[str, list[Any]]:
    """The JSON, which has lists of images and annotations. Raises InputError that says what it is instead."""
    content: Any = _parsed(path)
    keys = {key for key in ("images", "annotations") if isinstance(content, dict) and key in content}
    if len(keys) < 2:
        raise InputError(f"{path} cannot be used: {_other(content, keys)}; {EXPECTED}")
    for key in sorted(keys):
        if not isinstance(content[key], list):
            raise InputError(f'{path} cannot be used: "{key}" is no list; {EXPECTED}')
    first = next((each for each in content["annotations"] if isinstance(each, dict)), {})
    if "segments_info" in first:
        raise InputError(
            f"{path} cannot be used: it is COCO panoptic JSON; convert it with panopticapi's "
            "panoptic2detection_coco_format.py"
        )
    if not content["images"]:
        raise InputError(f'{path} cannot be used: its list "images" is empty')
    return {"images": content["images"], "annotations": content["annotations"]}


def check_fits(path: Path, available: int) -> None:
    """Raises InputError for a file that would take more than the `available` bytes of memory, and OSError."""
    size = path.stat().st_size
    needed = size * MEMORY_FACTOR
    if needed > available:
        raise InputError(
            f"{path} is {size / 1e9:.1f} GB and needs at least {needed / 1e9:.1f} GB of memory, of which "
            f"{available / 1e9:.1f} GB are free; split it by images"
        )


def _parsed(path: Path) -> Any:
    try:
        free = _free_memory()
        check_fits(path, free)
        return json.loads(read_text(path, "COCO JSON", free // MEMORY_FACTOR))
    except OSError as exc:
        raise InputError(f"{path} cannot be read ({exc.strerror})") from exc
    except RecursionError as exc:
        raise InputError(f"{path} is nested too deeply; {EXPECTED}") from exc
    except MemoryError as exc:
        raise InputError(f"{path} does not fit into memory; split it by images") from exc
    except ValueError as exc:
        lines = " (it may be JSON Lines)" if "Extra data" in str(exc) else ""
        raise InputError(f"{path} is no JSON: {exc}{lines}; {EXPECTED}") from exc


def _free_memory() -> int:
    """Bytes of memory that Linux can give; more than any file needs where it does not say."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return 2**62
    found = re.search(r"MemAvailable: +(\d+) kB", text)
    return int(found[1]) * 1024 if found else 2**62


def _other(content: Any, keys: set[str]) -> str:
    """What a JSON is that is no COCO instance JSON."""
    entry = content[0] if isinstance(content, list) and content else content
    if isinstance(content, dict) and content and not keys:
        inner = next(iter(content.values()))
        candidates = [content, inner if isinstance(inner, dict) else {}]
    else:
        candidates = [entry if isinstance(entry, dict) else {}]
    for needed, words in _OTHERS:
        if any(needed <= set(each) for each in candidates):
            return words
    if "images" in keys:
        return 'it lists images and has no "annotations", as the JSON of a test set does'
    if "annotations" in keys:
        return 'it has no list "images"'
    return f"it is {brief(content)}"


def _key(value: Any) -> str | None:
    """An id as text, so that 7, 7.0 and "7" are one; None for what is no id."""
    if isinstance(value, bool) or value is None or isinstance(value, (list, dict)):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip() or None


def _side(value: Any) -> int | None:
    """A width or height; None where the JSON has none."""
    key = _key(value)
    return int(key) if key and key.isascii() and key.isdigit() and len(key) < 20 else None


def _name(image: Mapping[str, Any], number: int) -> str:
    """What to call an image: its file name with its folders, in one line."""
    name = image.get("file_name") or image.get("coco_url")
    return name.replace("\\", "/") if isinstance(name, str) else f"image {number} of the JSON"


def _all_equal(same: list[tuple[str, Any]]) -> bool:
    return all(name == same[0][0] for name, _ in same)
