"""What to give instead of a path without pictures with masks that can be used."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from stages.errors import InputError
from stages.words import some_of
from training.coco import read_coco_json
from training.layouts import NOT_FOUND, SEVERAL
from training.tally import PICTURES, Tally

MAX_JSON_BYTES = 16 << 20  # larger ones are taken for COCO JSON unread
_LOOKED_AT = 20  # files of a kind
_JSONS = ("_annotations.coco.json", "*/_annotations.coco.json", "annotations/*.json", "labels.json", "*.json")
_YOLO = ("labels/*.txt", "labels/*/*.txt", "*/labels/*.txt", "*.txt", "*/*.txt")
_YOLO_LINE = re.compile(rb"\s*\d+(\s+-?[\d.]+(e-?\d+)?){4,}\s*$", re.IGNORECASE)
_YAML = ("*.yaml", "*.yml")
_XML = ("*.xml", "[Aa]nnotations/*.xml", "*/*.xml")
_EXPORT = "is not read: export the annotations as COCO JSON"


def expected_of_json(tally: Tally) -> str:
    """What to do about a COCO JSON of which no picture can be used, for the reasons in the tally."""
    if {NOT_FOUND, SEVERAL} & set(tally.left_out().get(PICTURES, {})):
        return "--images FOLDER says where the pictures are"
    return "correct the JSON, or export it again"


def expected_of_folder(folder: Path) -> str:
    """What is expected of a folder, and what it seems to hold instead."""
    found = _coco(folder) or _yolo(folder) or _xml(folder)
    expected = "expected NAME.jpg with NAME.png label maps, or a COCO JSON"
    return f"{expected}; {found}" if found else expected


def expected_of_file(path: Path) -> str:
    """What is wrong with a path that is no folder and not named as a JSON is."""
    if not path.exists():
        return "does not exist"
    if path.suffix.lower() in (".yaml", ".yml"):
        return f"is a YAML file as YOLO has, which {_EXPORT}"
    return "is neither a folder nor a .json file"


def _coco(folder: Path) -> str | None:
    paths = sorted(_files(folder, _JSONS), key=lambda path: not path.name.startswith("instances"))
    refused = {path: _refusal(path) for path in paths}
    usable = [str(path) for path, words in refused.items() if not words]
    if len(usable) > 1:
        return f"it holds several COCO JSONs, give one of them: {some_of(usable)}"
    return f"there is {usable[0]}, give that" if usable else next(iter(refused.values()), None)


def _refusal(path: Path) -> str | None:
    """Why a JSON is no COCO instance JSON."""
    try:
        if path.stat().st_size <= MAX_JSON_BYTES:
            read_coco_json(path)
    except OSError as exc:
        return f"{path} cannot be read ({exc.strerror})"
    except InputError as exc:
        return str(exc)
    return None


def _yolo(folder: Path) -> str | None:
    files = [*filter(_is_yolo, _files(folder, _YOLO)), *_files(folder, _YAML)]
    return f"{files[0]} is as YOLO has it, which {_EXPORT}" if files else None


def _is_yolo(path: Path) -> bool:
    """Whether a text begins as YOLO's do: a class and at least four numbers."""
    try:
        with path.open("rb") as file:
            return bool(_YOLO_LINE.match(file.readline(10_000)))
    except OSError:
        return False


def _xml(folder: Path) -> str | None:
    files = _files(folder, _XML)
    return f"{files[0]} is XML as CVAT and PASCAL VOC have it, which {_EXPORT}" if files else None


def _files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """The first files of each pattern, none twice."""
    found = {
        path: None
        for each in patterns
        for path in sorted(islice(folder.glob(each), _LOOKED_AT))
        if path.is_file()
    }
    return list(found)
