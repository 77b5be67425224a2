"""Folders of pictures with label maps NAME.png, in one folder or in two."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from export.checks.pictures import is_png, label_map_names
from media.folders import find_pictures, folded
from media.pictures import picture_info
from stages.errors import InputError
from training.advice import expected_of_file
from training.samples import PairSample, orientation_for
from training.tally import LABEL_MAPS, PICTURES, Tally

# Folders of pictures and of label maps, where a folder has both; the last is PASCAL VOC's.
_LAYOUTS = (
    ("images", "masks"),
    ("images", "labels"),
    ("images", "label_maps"),
    ("JPEGImages", "SegmentationObject"),
)
# Formats that may change the numbers of a label map.
LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".jp2", ".avif")
NO_LABEL_MAP = "without a label map"


def read_pairs(folder: Path, pictures: Path | None, tally: Tally) -> list[PairSample]:
    """The pictures of `pictures`, or else of `folder`, that have a label map of their size in `folder`.

    A label map has the name of its picture with .png instead of the suffix, or behind it: of a.jpg it is
    a.png or a.jpg.png. Where both lie in one folder, .png are label maps and no pictures; where they do not,
    other suffixes than those of LOSSY are taken too. Capitals make no difference where that leaves no doubt.
    Raises InputError for what is no folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} {expected_of_file(folder)}")
    folder, photos_in = _places(folder, pictures)
    apart = photos_in.resolve() != folder.resolve()
    photos = [path for path in _found(photos_in, without=folder) if apart or not is_png(path)]
    drawn = [path for path in _found(folder, without=photos_in) if apart or is_png(path)]
    label_maps = [path for path in drawn if not _is_lossy(path)]
    names = {path: path.relative_to(photos_in) for path in photos}
    matched = _matched(names, _by_name(folder, label_maps))
    tally.read[PICTURES] += len(photos)
    tally.read[LABEL_MAPS] += len(label_maps)
    unmatched = {photo: name for photo, name in names.items() if photo not in matched}
    lossy = _matched(unmatched, _by_name(folder, filter(_is_lossy, drawn)))
    for photo, name in unmatched.items():
        if photo in lossy:
            found = f"{lossy[photo].relative_to(folder)}: save it as PNG"
            tally.leave_out(PICTURES, "with a label map in a format that changes its numbers", found)
        else:
            tally.leave_out(PICTURES, NO_LABEL_MAP, str(name))
    of_label_map: defaultdict[Path, list[Path]] = defaultdict(list)
    for photo, path in matched.items():
        of_label_map[path].append(photo)
    for path in label_maps:
        if path not in of_label_map:
            tally.leave_out(LABEL_MAPS, "without a picture", str(path.relative_to(folder)))
    samples = [_pair(photos_in, same, path, tally) for path, same in of_label_map.items()]
    return [sample for sample in samples if sample]


def _matched(names: Mapping[Path, Path], label_maps: Mapping[Path, Path]) -> dict[Path, Path]:
    """The label map of each picture of these names that has one: of its very name, else one of no other
    picture and of the only name that differs in capitals alone."""
    exact = {
        photo: label_maps[each]
        for photo, name in names.items()
        for each in reversed(label_map_names(name))
        if each in label_maps
    }
    taken = set(exact.values())
    alike: defaultdict[str, list[Path]] = defaultdict(list)
    for name, path in label_maps.items():
        if path not in taken:
            alike[folded(str(name))].append(path)
    loose = {
        photo: alike[folded(str(each))][0]
        for photo, name in names.items()
        for each in reversed(label_map_names(name))
        if photo not in exact and len(alike.get(folded(str(each)), ())) == 1
    }
    return exact | loose


def _pair(root: Path, photos: list[Path], label_map: Path, tally: Tally) -> PairSample | None:
    """A sample, if its files are what they should be."""
    name = photos[0].relative_to(root).as_posix()
    if len(photos) > 1:
        for photo in photos:
            found = f"{photo.relative_to(root)}: name its label map {photo.name}.png"
            tally.leave_out(PICTURES, "that share a label map with another", found)
        return None
    try:
        info, drawn = picture_info(photos[0]), picture_info(label_map)
    except InputError as exc:
        tally.leave_out(PICTURES, "that cannot be read, or their label map", str(exc))
        return None
    orientation = orientation_for(info, (drawn.height, drawn.width))
    if orientation is None:
        sizes = f"{drawn.width} x {drawn.height} pixels, its picture {info.width} x {info.height}"
        found = f"{label_map.relative_to(label_map.parent)} is {sizes}; they must be equal"
        tally.leave_out(PICTURES, "with a label map of another size", found)
        return None
    return PairSample(name, photos[0], label_map, orientation)


def _places(folder: Path, pictures: Path | None) -> tuple[Path, Path]:
    """The folder of the label maps and that of the pictures."""
    if pictures:
        return folder, pictures
    inner = sorted(path for path in _entries(folder) if path.is_dir())
    named = {folded(path.name): path for path in inner} | {path.name: path for path in inner}
    for images, masks in _LAYOUTS:
        places = [named.get(name) or named.get(folded(name)) for name in (masks, images)]
        if places[0] and places[1]:
            return places[0], places[1]
    return folder, folder


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as exc:
        raise InputError(f"folder {folder} cannot be read ({exc.strerror})") from exc


def _found(folder: Path, without: Path) -> list[Path]:
    """The pictures of a folder and its folders, but for those in a folder inside it."""
    paths = find_pictures(folder, inner=True).paths
    root, inner = folder.resolve(), without.resolve()
    if root == inner or not inner.is_relative_to(root):
        return list(paths)
    return [path for path in paths if not path.is_relative_to(folder / inner.relative_to(root))]


def _is_lossy(path: Path) -> bool:
    return path.suffix.lower() in LOSSY


def _by_name(folder: Path, paths: Iterable[Path]) -> dict[Path, Path]:
    """Files by their path inside the folder without suffix; of several of one name a PNG."""
    return {path.relative_to(folder).with_suffix(""): path for path in sorted(paths, key=is_png)}
