"""What a video file says of its own length: how a copy that broke off is told from a whole file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

_MAX_BOXES = 1000
_ZEROS = 1024  # bytes
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def declared_bytes(file: BinaryIO) -> int | None:
    """How long an AVI or Matroska file says that it is; None for others, and where it does not tell."""
    file.seek(0)
    head = file.read(4)
    if head == b"RIFF":
        return _riff_end(file)
    return _segment_end(file) if head == _EBML else None


def lacks_index(file: BinaryIO) -> bool:
    """Whether it is an MP4 without the index (`moov`) that is written when a recording is closed."""
    kinds = list(_boxes(file))
    return kinds[:1] in ([b"ftyp"], [b"mdat"], [b"wide"]) and b"moov" not in kinds


def ends_in_zeros(file: BinaryIO) -> bool:
    """Whether space was set aside for the file's end, and nothing was written there."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - _ZEROS))
    return end > 0 and not any(file.read(_ZEROS))


def gif_breaks_off(file: BinaryIO) -> bool:
    """Whether a GIF ends inside one of its blocks, or goes on with what is none."""
    file.seek(10)
    _skip_colours(file)
    file.seek(2, os.SEEK_CUR)
    while kind := file.read(1):
        if kind == b";":
            return False
        if kind == b",":  # a picture: its place, its colours and its data
            file.seek(8, os.SEEK_CUR)
            _skip_colours(file)
            file.seek(1, os.SEEK_CUR)
        elif kind == b"!":
            file.seek(1, os.SEEK_CUR)
        else:
            return True
        while size := file.read(1):
            if size == b"\0":
                break
            file.seek(size[0], os.SEEK_CUR)
        else:
            return True
    return False  # its end mark alone is missing


def _skip_colours(file: BinaryIO) -> None:
    """Goes behind the flags of a GIF's screen or picture, and of the table of colours that they announce."""
    flags = (file.read(1) or b"\0")[0]
    if flags & 0x80:
        colours = 2 << (flags & 7)
        file.seek(3 * colours, os.SEEK_CUR)


def _boxes(file: BinaryIO) -> Iterator[bytes]:
    """The kind of each box at the top of an MP4."""
    start, end = 0, file.seek(0, os.SEEK_END)
    for _ in range(_MAX_BOXES):
        if start >= end:
            return
        file.seek(start)
        head = file.read(16)
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if kind.isalnum():
            yield kind
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8:  # 0: up to the end of the file
            return
        start += size


def _riff_end(file: BinaryIO) -> int | None:
    """Large AVIs have several RIFF chunks. A size of 0 or the largest one is of a recording not closed."""
    start = 0
    while True:
        file.seek(start)
        head = file.read(8)
        if head[:4] != b"RIFF":
            return start or None
        size = int.from_bytes(head[4:], "little")
        if size in (0, 0xFFFFFFFF):
            return None
        start += 8 + size + size % 2


def _segment_end(file: BinaryIO) -> int | None:
    """The end of Matroska's segment, which holds all behind the header; None where it is left open."""
    end = file.seek(0, os.SEEK_END)
    file.seek(4)
    header = _vint(file)
    if header is None or header > end:
        return None
    file.seek(header, os.SEEK_CUR)
    if file.read(4) != _SEGMENT:
        return None
    size = _vint(file)
    return None if size is None else file.tell() + size


def _vint(file: BinaryIO) -> int | None:
    """A number of Matroska's: as many more bytes as its first one has zero bits ahead. All ones: unknown."""
    first = file.read(1)
    if not first or first == b"\0":
        return None
    more = 8 - first[0].bit_length()
    bits = 7 * (more + 1)
    value = int.from_bytes(first + file.read(more), "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value
