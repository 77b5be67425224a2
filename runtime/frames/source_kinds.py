"""What `--source` names. The disk is looked at first, so that no file's name is read as something else."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

from media.pictures import SUFFIXES
from media.videos import VIDEOS
from stages.address import Address, readable
from stages.errors import InputError

# Schemes that the FFmpeg inside OpenCV opens as live video.
STREAMS = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "rtmpt", "rtmpe", "udp", "tcp", "rtp")
_PATTERN = re.compile(r"[*]|%0?[0-9]*d|\[[0-9a-z]-[0-9a-z]\]")
_SPECIAL = {stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket", stat.S_ISBLK: "a disk"}


@dataclass(frozen=True)
class Device:
    """A camera of this machine: "/dev/video0", or a link to it that a udev rule makes."""

    path: str


@dataclass(frozen=True)
class Sensor:
    """A camera on a Jetson's CSI connector."""

    number: int


Place: TypeAlias = Path | Device | Sensor | Address  # Path: a file or a folder that is there


def place_of(text: str) -> Place:
    """Raises InputError, which repeats no password, for what names nothing."""
    if text and (found := _on_disk(Path(text))) is not None:
        return found
    text = text.strip()
    if not text:
        raise InputError("the source is empty; give a camera, a stream, a video, a picture or a folder")
    if (found := _on_disk(Path(text))) is not None:
        return found
    if text.startswith("~") and (found := _on_disk(_expanded(text))) is not None:
        return found
    if re.fullmatch("[0-9]{1,4}", text):
        return Device(f"/dev/video{int(text)}")
    if text.startswith("/dev/"):
        return Device(text)
    return _by_scheme(text)


def _by_scheme(text: str) -> Place:
    scheme, _, rest = text.partition(":")
    scheme = scheme.lower()
    if scheme == "file":
        return _file(rest)
    if scheme == "v4l2":
        return Device("/" + rest.lstrip("/"))
    if scheme == "csi":
        return _sensor(text, rest)
    if scheme in STREAMS and rest.startswith("//"):
        return _stream(f"{scheme}:{rest}")
    raise InputError(_unknown(text))


def _on_disk(path: Path) -> Path | Device | None:
    """A file, a folder or a camera that is there. Raises InputError for what can be no source."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as exc:  # ValueError: a NUL in it
        if isinstance(exc, PermissionError):
            raise InputError(f"source {_shown(str(path))} cannot be read ({exc.strerror})") from exc
        return None
    if stat.S_ISCHR(mode):
        return Device(str(path.absolute()))
    for is_kind, kind in _SPECIAL.items():
        if is_kind(mode):
            raise InputError(f"source {path} is {kind}; give a camera, a stream, a file or a folder")
    return path


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no such user
        return Path(text)


def _file(rest: str) -> Path | Device:
    """What a file: URL names."""
    host, slash, path = rest[2:].partition("/") if rest.startswith("//") else ("", "", rest)
    if host not in ("", "localhost"):
        raise InputError(f"source file://{_shown(host)}/… is on another machine; give a path of this one")
    name = os.fsdecode(unquote_to_bytes(os.fsencode(slash + path)))
    found = _on_disk(Path(name)) if name else None
    if found is None:
        raise InputError(f"source {_shown(name)} does not exist")
    return found


def _sensor(text: str, rest: str) -> Sensor:
    number = rest.removeprefix("//")
    if not (number.isascii() and number.isdigit()):
        raise InputError(f"source {Address(text)} names no camera; expected like csi://0")
    return Sensor(int(number))


def _stream(url: str) -> Address:
    if not url.isprintable():  # OpenCV ends the process where a text is no UTF-8
        raise InputError(f"source {Address(url)} has characters that no URL has; write them as %XX")
    return Address(url)


def _unknown(text: str) -> str:
    """What is wrong with a text that names nothing, in a sentence."""
    address = Address(text)
    if " ! " in text:
        return "the source is a pipeline of GStreamer; give the camera or stream in it, as csi://0"
    if text == "-":
        return "the source is -, and standard input is not read; give a file, a folder, a camera or a stream"
    if not address.scheme and _PATTERN.search(text):
        return f"source {_shown(text)} is a pattern, and no file is named so; give the folder of the pictures"
    if address.scheme:
        return f"source {address}: {address.scheme} is no kind of stream; known are {', '.join(STREAMS)}"
    return (
        f"source {_shown(text)} does not exist; give a camera, a stream (rtsp://...), a video, a picture or "
        "a folder"
    )


def _shown(text: str) -> str:
    return readable(text, SUFFIXES | VIDEOS)
