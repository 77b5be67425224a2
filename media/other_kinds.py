"""What a file is that bears the name of a picture or of a video and is none, told by how it begins."""

from __future__ import annotations

import re
from collections.abc import Iterable

from stages.errors import InputError

START_BYTES = 64  # as many are enough
RAW_PHOTOS = frozenset(
    {".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw", ".x3f"}
)
_CONVERT = "convert it to PNG or JPEG first"
_Kinds = tuple[tuple[bytes, str], ...]
_VIDEOS: _Kinds = (
    (rb".{4}ftyp(?!avif|avis|hei[cx]|mif1|msf1)", "it is an MP4 or MOV video: name it .mp4"),
    (rb"\x1a\x45\xdf\xa3", "it is a Matroska or WebM video: name it .mkv"),
    (rb"RIFF.{4}AVI ", "it is an AVI video: name it .avi"),
    (rb"FLV\x01", "it is an FLV video: name it .flv"),
)
_PICTURES: _Kinds = (
    (rb"\xff\xd8\xff", "it is a JPEG picture: name it .jpg"),
    (rb"\x89PNG\r\n", "it is a PNG picture: name it .png"),
    (rb"RIFF.{4}WEBP", "it is a WebP picture: name it .webp"),
    (rb"II[*+]\x00|MM\x00[*+]", "it is a TIFF picture: name it .tif"),
    (rb".{4}ftyp(avif|avis)", "it is an AVIF picture: name it .avif"),
)
_OTHERS: _Kinds = (
    (rb"\s*<(!doctype html|html|head)", "it is an HTML page"),
    (rb"\s*<(\?xml|svg)", "it is XML or SVG, which is drawn and not a picture of pixels"),
    (rb"\s*\{", "it is JSON"),
    (rb"version https://git-lfs", "it is a pointer of Git LFS: fetch the file with `git lfs pull`"),
    (rb".{4}ftyp(heic|heix|mif1|msf1)", f"it is HEIC: {_CONVERT}"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", f"it is JPEG XL: {_CONVERT}"),
    (rb"v/1\x01", f"it is OpenEXR: {_CONVERT}"),
    (rb"#\?(RADIANCE|RGBE)", f"it is a Radiance HDR picture: {_CONVERT}"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", f"it is PostScript: {_CONVERT}"),
    (rb"%PDF", "it is a PDF: convert its pages to pictures first"),
    (rb"8BPS", f"it is a Photoshop document: {_CONVERT}"),
    (rb"\x93NUMPY", "it is an array of NumPy: write it as a picture, PNG for instance"),
    (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!", "it is an archive: unpack it"),
    (rb"\x00{16}", "it holds zeros alone: copy it again"),
)


def not_a_picture(start: bytes) -> str | None:
    """In words, by the first START_BYTES of a file; None where they do not tell."""
    return _kind(start, (*_VIDEOS, *_OTHERS))


def not_a_video(start: bytes) -> str | None:
    """As `not_a_picture`, of what is no video."""
    return _kind(start, (*_PICTURES, *_OTHERS))


def check_no_raw_photo(name: str, suffix: str) -> None:
    """Raises InputError: a decoder of TIFF would take the small preview for the photo. `suffix` is in small
    letters."""
    if suffix in RAW_PHOTOS:
        raise InputError(f"{name} is a raw photo: convert it to TIFF, PNG or JPEG first")


def _kind(start: bytes, kinds: Iterable[tuple[bytes, str]]) -> str | None:
    found = (words for pattern, words in kinds if re.match(pattern, start, re.IGNORECASE | re.DOTALL))
    return next(found, None)
