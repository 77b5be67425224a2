"""Picture files for tests, and how far what is read of them is from what it should be."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from media.pictures import picture_info, read_picture

GREY = np.tile(np.arange(256, dtype=np.uint8), (32, 1))  # every value, left to right
NOISE = np.random.default_rng(1).integers(0, 256, (24, 32, 3), np.uint8)


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) of the upright picture, by its header."""
    info = picture_info(path)
    return info.height, info.width


def differs(path: Path, expected: npt.NDArray[Any]) -> int:
    """By how much a picture differs from grey values [H, W] or colours [H, W, 3] at most."""
    found = read_picture(path).astype(int)
    assert found.shape[:2] == picture_size(path)
    return int(np.abs(found - (expected if expected.ndim == 3 else expected[..., None])).max())


def deep(path: Path, values: npt.NDArray[Any]) -> Path:
    """Written by OpenCV where it can."""
    if values.dtype == np.int32:
        Image.fromarray(values).save(path)
    else:
        assert cv2.imwrite(str(path), values)
    return path


def set_tag(path: Path, tag: int, value: int) -> None:
    """Changes one small number in the header of a TIFF."""
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<HHI", tag, 3, 1)) + 8] = value
    path.write_bytes(content)


def grey_alpha_png(path: Path, values: npt.NDArray[np.uint16]) -> Path:
    """A PNG of uint16 [H, W, 2], grey and alpha, which neither Pillow nor OpenCV writes."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 4, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
    return path
