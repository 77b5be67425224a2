"""Follow one object through a camera or a video, with OpenCV reading and writing.

pip install -e ".[demo]"                                                   # in a clone of pedsam
python camera.py 0 --box 100,80,420,360                                    # camera 0, until Ctrl-C
python camera.py clip.mp4 --box 100,80,420,360 --out overlay.mp4
python camera.py 0 --box 100,80,420,360 --sites sites.toml --in-flight 3   # windows through sites
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

import cv2
import numpy as np

import pedsam

COLOUR = np.array([0, 79, 115], np.uint8)  # BGR, half of an orange


def frames_of(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """BGR uint8 [height, width, 3], a new array each time."""
    while True:
        there, frame = capture.read()
        if not there:
            return
        yield frame


def overlay(result: pedsam.TrackedFrame) -> np.ndarray:
    """The frame in BGR with its masks tinted."""
    picture = np.ascontiguousarray(result.pixels[..., ::-1])
    for mask in result.masks.values():
        picture[mask] = picture[mask] // 2 + COLOUR
    return picture


def box_of(text: str) -> list[float]:
    """Left, top, right, bottom."""
    try:
        left, top, right, bottom = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not left,top,right,bottom in pixels") from None
    return [left, top, right, bottom]


def writer_of(path: str, fps: float, frame: np.ndarray) -> cv2.VideoWriter:
    """A video of pictures like this. Ends the script where it cannot be written."""
    height, width = frame.shape[:2]
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
    if not writer.isOpened():
        sys.exit(f"Error: {path} cannot be written; give the path of an .mp4 file in a folder that is there")
    return writer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="the number of a camera, or a video file")
    parser.add_argument(
        "--box",
        type=box_of,
        required=True,
        metavar="LEFT,TOP,RIGHT,BOTTOM",
        help="around the object on the first frame, in pixels",
    )
    parser.add_argument("--out", default="overlay.mp4")
    parser.add_argument("--frames", type=int, help="how many; default: until the end, or Ctrl-C")
    parser.add_argument("--sites", help="sites.toml; without it everything is computed here")
    parser.add_argument("--in-flight", type=int, default=1)
    given = parser.parse_args()

    capture = cv2.VideoCapture(int(given.source) if given.source.isdigit() else given.source)
    if not capture.isOpened():
        sys.exit(f"Error: {given.source} cannot be opened")
    fps = capture.get(cv2.CAP_PROP_FPS) or 10.0
    objects = [{"name": "object", "box": given.box}]
    writer = None
    try:
        with pedsam.open(sites=given.sites) as session, suppress(KeyboardInterrupt):
            frames = islice(frames_of(capture), given.frames)
            for result in session.track(frames, objects, image_format="BGR", in_flight=given.in_flight):
                picture = overlay(result)
                writer = writer or writer_of(given.out, fps, picture)
                writer.write(picture)
                for each in result.objects:
                    print(f"frame {result.number}: {each.name} {each.state.value}, {each.area} pixels")
            for name, operator in session.exposure().operators.items():
                print(
                    f"{name} has seen {len(operator.seen)} windows, {operator.seen_share:.0%} of the picture"
                )
    except pedsam.PedsamError as exc:
        sys.exit(f"Error: {exc}")
    finally:
        capture.release()
        if writer is not None:
            writer.release()


if __name__ == "__main__":
    main()
