"""A photograph, cell by cell: a script, and a notebook in editors that know `# %%`.

    pip install -e ".[demo]"                           # in a clone of pedsam
    python photo.py                                    # a cup of coffee that comes with scikit-image
    PHOTO=photo.jpg OUT=results python photo.py        # your own

Everything is computed on this machine. With sites, `pedsam.open(sites="sites.toml")` is all that changes.
"""

# %% A photograph, RGB uint8 [height, width, 3]
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from skimage import data

import pedsam


def upright(path: Path) -> Image.Image:
    """A picture, turned as its EXIF says."""
    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


PHOTO, OUT = os.environ.get("PHOTO"), Path(os.environ.get("OUT", "photo_results"))
photo = np.asarray(upright(Path(PHOTO))) if PHOTO else data.coffee()
height, width = photo.shape[:2]
OUT.mkdir(exist_ok=True)

# %% What a box holds: left, top, right, bottom in pixels
session = pedsam.open()
box = np.array([0.13 * width, 0.04 * height, 0.8 * width, 0.97 * height])
masks = session.segment(photo, boxes=box)
print(
    f"{session.model}: {masks.area[0]} pixels, expected IoU {masks.scores[0]:.2f}, around it {masks.boxes[0]}"
)

# %% A single point may mean several things: three masks to choose from
point = np.array([0.45 * width, 0.38 * height])
three = session.segment(photo, points=point, multimask=True)
for area, score in zip(three.area[0], three.scores[0], strict=True):
    print(f"by a point: {area} pixels, expected IoU {score:.2f}")

# %% Correcting, as with segment_anything's SamPredictor: the image is encoded once, then each mask is quick
predictor = session.predictor()
predictor.set_image(photo)
found, scores, logits = predictor.predict(point_coords=point[None], point_labels=[1])
best = int(scores.argmax())
corner = np.array([0.02 * width, 0.02 * height])  # does not belong to it
refined, score, _ = predictor.predict(
    point_coords=np.stack([point, corner]),
    point_labels=[1, 0],
    mask_input=logits[best : best + 1],
    multimask_output=False,
)
print(f"refined: {np.count_nonzero(found[best])} pixels before, {np.count_nonzero(refined[0])} after")

# %% A cut-out with alpha, and COCO JSON
alpha = np.uint8(255) * masks.masks[0].astype(np.uint8)
Image.fromarray(np.dstack([photo, alpha])).save(OUT / "cut_out.png")
entry = {"segmentation": masks.rle()[0], "area": int(masks.area[0]), "score": float(masks.scores[0])}
(OUT / "mask.json").write_text(json.dumps(entry), encoding="utf-8")
print(f"{OUT}/cut_out.png and {OUT}/mask.json are written")

# %% The end: engines and threads go
session.close()
