"""A mask for every picture of a folder, by its middle, as one COCO results file.

pip install -e ".[demo]"                                        # in a clone of pedsam
python batch.py photos --out masks.json
python batch.py photos --out masks.json --sites sites.toml      # windows through sites

A picture that cannot be read or completed is named, left out, and the script ends with 1. Results are written
also where it is interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

import pedsam

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def pictures_of(folder: Path) -> list[Path]:
    """The pictures of a folder by their names. Ends the script where there are none."""
    if not folder.is_dir():
        sys.exit(f"Error: {folder} is no folder; give one of pictures")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        sys.exit(f"Error: {folder} holds no picture ({', '.join(sorted(SUFFIXES))})")
    return paths


def upright(path: Path) -> Image.Image:
    """A picture, turned as its EXIF says. Raises what Pillow does where it cannot be read."""
    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


def readable(paths: list[Path], problems: list[str]) -> Iterator[tuple[Path, Image.Image]]:
    """Each picture that can be read; the others are told of, and added to `problems` once."""
    for path in paths:
        try:
            picture = upright(path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
            left_out(f"{path.name} cannot be read ({exc})", problems)
        else:
            yield path, picture


def left_out(problem: str, problems: list[str]) -> None:
    if problem not in problems:
        problems.append(problem)
        print(f"left out: {problem}", file=sys.stderr)


def entry_of(path: Path, masks: pedsam.Masks) -> dict[str, Any]:
    """Of the one mask of a picture, as COCO results have it."""
    left, top, right, bottom = masks.boxes[0].tolist()
    return {
        "image": path.name,
        "segmentation": masks.rle()[0],
        "bbox": [left, top, right - left, bottom - top],
        "area": int(masks.area[0]),
        "score": round(float(masks.scores[0]), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("masks.json"))
    parser.add_argument("--sites", help="sites.toml; without it everything is computed here")
    given = parser.parse_args()

    paths, problems = pictures_of(given.folder), list[str]()
    try:
        given.out.open("a", encoding="utf-8").close()  # it is known now whether it can be written
    except OSError as exc:
        sys.exit(f"Error: {given.out} cannot be written ({exc.strerror})")
    # What operators may see is settled by the sizes of all pictures to come, before the first is sent.
    sizes = {picture.size[::-1] for _, picture in readable(paths, problems)} if given.sites else ()
    results: list[dict[str, Any]] = []
    try:
        with pedsam.open(sites=given.sites, sizes=sizes, films=False) as session:
            for path, picture in readable(paths, problems):
                try:
                    masks = session.segment(picture, points=[picture.width / 2, picture.height / 2])
                except pedsam.FrameLost as exc:
                    left_out(f"{path.name}: {exc}", problems)
                    continue
                results.append(entry_of(path, masks))
                print(f"{path.name}: {results[-1]['area']} pixels, expected IoU {results[-1]['score']}")
    except pedsam.PedsamError as exc:
        sys.exit(f"Error: {exc}")
    except KeyboardInterrupt:
        sys.exit(f"interrupted after {len(results)} pictures")
    finally:
        given.out.write_text(json.dumps(results), encoding="utf-8")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
