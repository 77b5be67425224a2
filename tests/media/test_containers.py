"""What video files say of their own length, damaged ones too."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest

from media.containers import declared_bytes, lacks_index


def box(kind: bytes, content: bytes = b"", size: int | None = None) -> bytes:
    return struct.pack(">I", 8 + len(content) if size is None else size) + kind + content


@pytest.mark.parametrize("size", [1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_a_box_that_is_longer_than_any_file_is_the_last(size: int) -> None:
    large = box(b"mdat", struct.pack(">Q", size), size=1)
    assert lacks_index(io.BytesIO(box(b"ftyp") + large + box(b"moov")))
    assert not lacks_index(io.BytesIO(box(b"ftyp") + box(b"moov") + large))


def test_a_box_up_to_the_end_of_the_file_is_the_last() -> None:
    assert lacks_index(io.BytesIO(box(b"ftyp") + box(b"mdat", size=0)))
    assert not lacks_index(io.BytesIO(box(b"moov", size=0)))


@pytest.mark.parametrize("header", [b"\x01" + b"\xff" * 6 + b"\xfe", b"\x01" + b"\xff" * 7, b"\x00", b""])
def test_a_matroska_whose_header_is_damaged_says_nothing(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "a.mkv"  # where a file system refuses to go further than its largest file
    path.write_bytes(b"\x1a\x45\xdf\xa3" + header)
    with path.open("rb") as file:
        assert declared_bytes(file) is None
