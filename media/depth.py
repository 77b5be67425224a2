"""Pictures of more than 8 bits a channel, scaled to 8; `media.pictures` says how.

The picture that was decoded and the result are in memory, and a few strips of what is between them.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import SAMPLEFORMAT
from PIL.TiffImagePlugin import TiffImageFile as Tiff

from media.image_strips import filled, strips
from media.value_range import ValueRange, find_range
from stages.tensors import Array, Pixels

_GDAL_NODATA = 42113  # a tag of TIFF, text
_GREY_ALPHA, _BYTES = "LA;16B", "RGBA"  # as Pillow names what a file holds


def is_deep_grey(image: Image.Image) -> bool:
    """Whether it is grey of more than 8 bits, the only kind that Pillow decodes in full."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def scaled_grey(image: Image.Image, inverted: bool) -> tuple[Pixels, ValueRange]:
    """Grey of more than 8 bits as RGB uint8 [H, W, 3]; `inverted` where the file says that 0 is white, which
    Pillow ignores."""
    # Pillow has 32 bits without a sign as int32.
    unsigned = isinstance(image, Tiff) and image.tag_v2.get(SAMPLEFORMAT) in (None, 1, (1,))
    kind = np.dtype(np.uint32) if image.mode == "I" and unsigned else None

    def values() -> Iterator[tuple[slice, Array]]:
        """The values of each strip, [rows, W, 1]."""
        for rows, part in strips(image):
            found = np.asarray(part)[..., None]
            yield rows, found.view(kind or found.dtype)

    found = find_range((part for _, part in values()), image.width * image.height, _declared_no_data(image))
    if inverted:
        found = found.turned()
    return _scaled(image, values(), found), found


def _declared_no_data(image: Image.Image) -> float | None:
    text = image.tag_v2.get(_GDAL_NODATA) if isinstance(image, Tiff) else None
    try:
        value = float(str(text).strip("\0 "))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def tiles_of_low_bytes(image: ImageFile.ImageFile) -> list[Any]:
    """What makes Pillow decode the lower bytes of 16-bit colour, or of grey with alpha, instead of the upper
    ones; empty for other pictures."""
    names = [_rawmode(tile) for tile in image.tile]
    if not names or not all(re.fullmatch("RGBA?;16[BLN]|LA;16B", name) for name in names):
        return []
    other = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
    swapped = [_BYTES if name == _GREY_ALPHA else name[:-1] + other[name[-1]] for name in names]
    return [
        tile._replace(args=(name, *tile.args[1:]) if isinstance(tile.args, tuple) else name)
        for tile, name in zip(image.tile, swapped, strict=True)
    ]


def fills_16_bits(upper: Image.Image) -> bool:
    """Whether 16-bit colour, of which these are the upper bytes, fills more than half of its range."""
    counts = np.reshape(upper.histogram(), (-1, 256))[:3].sum(0)
    low, high = np.searchsorted(np.cumsum(counts), (counts.sum() * 0.001, counts.sum() * 0.999))
    return bool(high - low > 128)


def scaled_colour(upper: Image.Image, lower: ImageFile.ImageFile) -> tuple[Pixels, ValueRange]:
    """Colour stored as 16 bits as RGB uint8 [H, W, 3], scaled as grey is, from two pictures of its upper and
    of its lower bytes; transparency is dropped."""
    # Of grey with alpha the four bytes of a pixel are decoded: two of grey, then two of alpha.
    low_bytes = slice(1, 2) if _rawmode(lower.tile[0]) == _BYTES else slice(0, 3)

    def values() -> Iterator[tuple[slice, Array]]:
        """The values of each strip, uint16 [rows, W, 3]."""
        for (rows, high), (_, low) in zip(strips(upper), strips(lower), strict=True):
            yield rows, np.asarray(high)[..., :3].astype(np.uint16) << 8 | np.asarray(low)[..., low_bytes]

    found = find_range((part for _, part in values()), upper.width * upper.height * 3)
    return _scaled(upper, values(), found), found


def _rawmode(tile: Any) -> str:
    return str(tile.args[0] if isinstance(tile.args, tuple) else tile.args)


def _scaled(image: Image.Image, values: Iterable[tuple[slice, Array]], found: ValueRange) -> Pixels:
    """RGB uint8 [H, W, 3] of the values of each strip, [rows, W, 1 or 3]."""
    convert = found.converter()
    return filled(image, ((rows, convert(part)) for rows, part in values))
