"""A mask for every picture of a folder, by its middle, as one COCO results file.

pip install "pedsam[demo]"
python batch.py photos --out masks.json
python batch.py photos --out masks.json --sites sites.toml      # windows through sites
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from PIL import Image, ImageOps

import pedsam

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def upright(path: Path) -> Image.Image:
    """A picture, turned as its EXIF says."""
    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("masks.json"))
    parser.add_argument("--sites", help="sites.toml; without it everything is computed here")
    given = parser.parse_args()

    paths = sorted(path for path in given.folder.iterdir() if path.suffix.lower() in SUFFIXES)
    # What operators may see is settled by the sizes of all pictures to come, before the first is sent.
    sizes = {upright(path).size[::-1] for path in paths} if given.sites else ()
    results = []
    try:
        with pedsam.open(sites=given.sites, sizes=sizes, films=False) as session:
            for path in paths:
                picture = upright(path)
                try:
                    masks = session.segment(picture, points=[picture.width / 2, picture.height / 2])
                except pedsam.FrameLost as exc:
                    print(f"{path.name}: {exc}", file=sys.stderr)
                    continue
                left, top, right, bottom = masks.boxes[0].tolist()
                results.append(
                    {
                        "image": path.name,
                        "segmentation": masks.rle()[0],
                        "bbox": [left, top, right - left, bottom - top],
                        "area": int(masks.area[0]),
                        "score": round(float(masks.scores[0]), 4),
                    }
                )
                print(f"{path.name}: {results[-1]['area']} pixels, expected IoU {results[-1]['score']}")
    except pedsam.PedsamError as exc:
        sys.exit(f"Error: {exc}")
    given.out.write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
