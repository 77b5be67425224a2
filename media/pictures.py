"""Pictures as files: the one place that opens and writes them.

Every picture comes as RGB of 8 bits, upright, as a viewer shows it:

- EXIF orientation is applied wherever it stands; damaged EXIF counts as none.
- What is transparent lies on white.
- Of a file of several pictures (GIF, WebP, APNG, TIFF, MPO) the first is taken.
- What has more than 8 bits is scaled by the smallest of 8, 10, 12, 14, 16 and 32 bits (float: 1, 255, 65535)
  that holds its values, where these fill at least half of that, as cameras do. Otherwise, as of thermal
  cameras and depth, it is scaled from its 0.1th to its 99.9th percentile. NaN is black, and so is what
  stands for no data: GDAL's tag says which value, or one that is usual for that (the ends of the type, -9999,
  -3.4e38) is far from all others. What has 8 bits and is stored as 16 looks as it did.

Reading holds a decoded picture and what is returned: 7 bytes a pixel, 11 of colour of 9 to 16 bits that does
not fill its range, which is decoded twice, 3 more where it has to be turned; and a few strips of rows
(benchmarks.media measures 6 to 8 in all).
"""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, PngImagePlugin, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, PHOTOMETRIC_INTERPRETATION
from PIL.TiffImagePlugin import TiffImageFile as Tiff

from media.depth import fills_16_bits, is_deep_grey, scaled_colour, scaled_grey, tiles_of_low_bytes
from media.image_strips import filled, strips
from media.other_kinds import START_BYTES, not_a_picture
from media.value_range import ValueRange
from stages.errors import InputError, printable
from stages.files import replace_file
from stages.tensors import Pixels

SUFFIXES = frozenset(
    {
        ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff",
        ".gif", ".pbm", ".pgm", ".ppm", ".pnm", ".jp2", ".avif",
    }
)  # fmt: skip
MAX_PIXELS = 256_000_000
MAX_PICTURE_SIDE_PX = 65_500  # what a JPEG holds, in which overlays are written

# What is tried on a file, whatever its suffix. None of these starts a program, as Pillow does for EPS.
_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")

_ORIENTATION = 0x0112
_EXIF_BYTES = 1 << 17  # at the end of a PNG; no more than 64 KB are usual
_TURNS: Mapping[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}
_SIDES_SWAPPED = (5, 6, 7, 8)

_DAMAGED_TIFF = re.compile(rb"II[*+]\x00|MM\x00[*+]")


@dataclass(frozen=True)
class PictureInfo:
    """What the header of a file says: the size of the upright picture in pixels, how many pictures the file
    holds, and the EXIF orientation in which the pixels are stored, 1 (upright) to 8."""

    height: int
    width: int
    count: int
    orientation: int = 1


def read_picture(path: Path) -> Pixels:
    """RGB uint8 [H, W, 3]; the module says how it is converted. Blocks.

    Raises InputError, which names the file and the reason, for whatever cannot be read.
    """
    return read_scaled(path)[0]


def read_scaled(path: Path) -> tuple[Pixels, str | None]:
    """As `read_picture`, and which values became black and white, in words, where that was chosen for this
    picture: "3000 to 29100"."""
    with _readable(path), _regular_file(path) as file:
        return _decode(file)


def decode_picture(data: bytes, name: str) -> Pixels:
    """As `read_picture`, of a file's bytes; `name` is for the error."""
    with _readable(name):
        return _decode(io.BytesIO(data))[0]


def picture_info(path: Path) -> PictureInfo:
    """What is known without decoding. Raises InputError as `read_picture` does."""
    with _readable(path), _regular_file(path) as file, _opened(file) as image:
        orientation = _orientation(image, file)
        width, height = _stored_size(image)
        if orientation in _SIDES_SWAPPED:
            width, height = height, width
        return PictureInfo(height, width, _count(image), orientation)


def turned(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """An array [H, W, ...] of pixels as they are stored, turned upright; `orientation` is EXIF's, 1 to 8."""
    return np.ascontiguousarray(_TURNS[orientation](pixels)) if orientation in _TURNS else pixels


def read_label_map(path: Path) -> npt.NDArray[np.int64]:
    """The numbers of a label map as they are stored, int64 [H, W]: no orientation, no scaling.

    Grey of 1 to 32 bits, also as colour with equal channels, or a palette, of which the indices count and
    255 is 0: PASCAL VOC marks the borders of objects with it. Negative numbers are 0 too.

    Raises InputError for anything else.
    """
    with _readable(path, "label map"), _regular_file(path) as file, _opened(file) as image:
        numbers = np.asarray(image)
        if numbers.ndim == 3 and (numbers[..., :3] == numbers[..., :1]).all():
            numbers = numbers[..., 0]
        if numbers.ndim == 3 or image.mode == "F":
            raise InputError(
                f"label map {printable(path)} has colours or fractions (mode {image.mode}), expected grey or "
                "a palette: 0 is background, each other number an instance"
            )
        numbers = np.maximum(numbers.astype(np.int64), 0)
        return np.where(numbers == 255, 0, numbers) if image.mode == "P" else numbers


def write_picture(path: Path, rgb: Pixels) -> None:
    """Write RGB uint8 [H, W, 3] in the format that the suffix names, whole or not at all. Blocks.

    It is encoded in memory and written by Python, so that any name and any error of the disk goes through.
    Raises OSError, and InputError for more pixels than the format can hold.
    """
    file_format = Image.registered_extensions()[path.suffix.lower()]
    data = io.BytesIO()
    try:
        Image.fromarray(rgb).save(data, file_format, **({"quality": 95} if file_format == "JPEG" else {}))
    except (OSError, ValueError) as exc:
        raise InputError(
            f"cannot write {printable(path)}: a {file_format} cannot hold {rgb.shape[1]} x {rgb.shape[0]} "
            "pixels"
        ) from exc
    replace_file(path, data.getbuffer())


class _RefusedError(Exception):
    """Says, in words for a person, why a file is not taken."""


@contextmanager
def _readable(path: Path | str, kind: str = "picture") -> Iterator[None]:
    """Turns whatever is raised inside the block into one sentence about the picture."""
    try:
        yield
    except InputError:
        raise
    except Exception as exc:  # for damaged files decoders raise nearly anything
        raise InputError(f"{kind} {printable(path)} cannot be read ({_reason(exc)})") from exc


def _reason(exc: Exception) -> str:
    if isinstance(exc, MemoryError):
        return "there is not enough memory for it"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    words = printable(f"{exc}") or type(exc).__name__
    if isinstance(exc, _RefusedError):
        return words
    if "truncated" in words.lower():
        return "the file ends before the picture does: copy it again"
    return f"its data are damaged: {words}"


@contextmanager
def _regular_file(path: Path) -> Iterator[IO[bytes]]:
    """The file, open. Of a pipe or a device nothing is read, which could wait for ever."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise _RefusedError("it is a folder")
    if not stat.S_ISREG(mode):
        raise _RefusedError("it is no regular file")
    with path.open("rb") as file:
        yield file


@contextmanager
def _opened(file: IO[bytes]) -> Iterator[ImageFile.ImageFile]:
    """The picture, not decoded yet, of a size that is taken."""
    try:
        image = Image.open(file, formats=_formats())
    except UnidentifiedImageError as exc:
        raise _RefusedError(_kind_of(file)) from exc
    with image:
        _check_size(*image.size)
        yield image


@cache
def _formats() -> tuple[str, ...]:
    """Those of _FORMATS that this Pillow has, which is set up for them.

    Not when this module is imported: a program that imports pedsam and reads no file with it keeps Pillow's
    own limits and warnings.
    """
    # Pillow's own limit is lower than what cameras take; this module has one of its own.
    Image.MAX_IMAGE_PIXELS = None
    # What a program keeps in a PNG, as its settings or colours of a printer, may be more than Pillow's 1 MB.
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 1 << 26
    # What Pillow finds odd about a file is either an error, told here, or does not matter.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _kind_of(file: IO[bytes]) -> str:
    """What a file is that is no picture."""
    file.seek(0)
    start = file.read(START_BYTES)
    if not start:
        return "it is empty"
    if _DAMAGED_TIFF.match(start):
        return (
            "it is damaged, or a TIFF of a kind that is not read, such as colour in float or numbers of 64 "
            "bits"
        )
    return not_a_picture(start) or f"it is damaged, or of another kind than {', '.join(_formats())}"


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise _RefusedError(f"it has {width} x {height} pixels")
    if width * height > MAX_PIXELS or max(width, height) > MAX_PICTURE_SIDE_PX:
        raise _RefusedError(
            f"it has {width} x {height} pixels; at most {MAX_PIXELS // 1_000_000} megapixels and "
            f"{MAX_PICTURE_SIDE_PX} a side are taken: make it smaller, or cut it"
        )


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) as it is stored. Newer versions of Pillow have turned that of TIFF already."""
    if isinstance(image, Tiff):
        return image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
    return image.size


def _count(image: Image.Image) -> int:
    """How many pictures the file holds, as far as it is whole."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # what is damaged is not the picture that is taken
        return 1


def _orientation(image: Image.Image, file: IO[bytes]) -> int:
    """How to turn the picture, 1 to 8, as EXIF or XMP say; 1, upright, where they are damaged."""
    with suppress(Exception):  # as many kinds as there are kinds of damage
        if image.format == "PNG" and "exif" not in image.info and (found := _exif_of_png(file)):
            image.info["exif"] = found
        # Not image.getexif(): that of PNG decodes the picture, to look for EXIF behind it.
        value = Image.Image.getexif(image).get(_ORIENTATION)
        return value if isinstance(value, int) and value in _TURNS else 1
    return 1


def _exif_of_png(file: IO[bytes]) -> bytes | None:
    """The eXIf chunk behind the picture's data, known by its checksum.

    It is looked for from the end on: to go there from chunk to chunk takes 13 ms for a file of 6 MB.
    """
    place = file.tell()
    try:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _EXIF_BYTES))
        end = file.read()
    finally:
        file.seek(place)
    for found in re.finditer(b"eXIf", end):
        size = int.from_bytes(end[found.start() - 4 : found.start()], "big")
        content = end[found.end() : found.end() + size]
        checksum = end[found.end() + size : found.end() + size + 4]
        if zlib.crc32(b"eXIf" + content) == int.from_bytes(checksum, "big"):
            return b"Exif\x00\x00" + content
    return None


def _decode(file: IO[bytes]) -> tuple[Pixels, str | None]:
    scale: ValueRange | None = None
    with _opened(file) as image:
        orientation = _orientation(image, file)
        inverted = isinstance(image, Tiff) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0
        low_bytes = tiles_of_low_bytes(image)
        image.load()
        if isinstance(image, Tiff):  # by now Pillow has turned it, but for old versions
            orientation = _orientation(image, file)
        if is_deep_grey(image):
            pixels, scale = scaled_grey(image, inverted)
        elif low_bytes and not fills_16_bits(image):
            with _opened(file) as lower:
                lower.tile = low_bytes
                pixels, scale = scaled_colour(image, lower)
        else:
            pixels = _colour(image)
    return turned(pixels, orientation), scale.told() if scale else None


def _colour(image: Image.Image) -> Pixels:
    """What has at most 8 bits as RGB uint8 [H, W, 3]."""
    return filled(image, ((rows, np.asarray(_rgb(part))) for rows, part in strips(image)))


def _rgb(part: Image.Image) -> Image.Image:
    """On white where it is transparent."""
    if part.has_transparency_data:
        flat = Image.new("RGBA", part.size, "white")
        flat.alpha_composite(part.convert("RGBA"))
        part = flat
    return part if part.mode == "RGB" else part.convert("RGB")
