"""The messages between a viewer and the preview, version 1: PROTOCOL.md in code.

Whatever a viewer says is checked here and nowhere else; what comes out is right in type, size and range.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard, Union

from runtime.live import Request
from stages.errors import InputError

VERSION = 1
PATH = f"/v{VERSION}/live"
MESSAGE_BYTES = 16_384
NAME_CHARACTERS = 40
TOKEN_CHARACTERS = 200
POINTS = 64
FARTHEST_PX = 1e6
LATEST = 2**53 - 1  # the largest integer that JSON holds exactly for everybody

_HEADER_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Hello:
    """Always the first message."""

    token: str


@dataclass(frozen=True)
class Prompted:
    request: Request
    id: int | None = None


@dataclass(frozen=True)
class Removed:
    name: str
    id: int | None = None


@dataclass(frozen=True)
class Renamed:
    name: str
    new: str
    id: int | None = None


@dataclass(frozen=True)
class Paused:
    paused: bool
    id: int | None = None


@dataclass(frozen=True)
class Seen:
    """The frame of this number was shown; the next one may come."""

    number: int


Command = Union[Prompted, Removed, Renamed, Paused]  # noqa: UP007  (evaluated, so not in Python 3.10's form)
Message = Union[Hello, Seen, Command]  # noqa: UP007


class Refused(InputError):
    """A message breaks the protocol; `id` is the one it bears, so that its sender knows which it was."""

    def __init__(self, text: str, bears: int | None = None) -> None:
        super().__init__(text)
        self.id = bears


def decode(text: str) -> Message:
    """The message in a text frame. Raises Refused in one sentence for anything else."""
    body = _parsed(text)
    kind = body.pop("type", None)
    decoder = _DECODERS.get(kind) if isinstance(kind, str) else None
    if decoder is None:
        raise Refused(f"a message has the type {_quoted(kind)}, expected one of {', '.join(_DECODERS)}")
    bears = _id(body)
    try:
        message = decoder(body, bears)
        if body:
            raise InputError(f"it has the unknown key {_quoted(min(body))}")
    except InputError as exc:
        raise Refused(f"the message {kind} is refused: {exc}", bears) from exc
    return message


def encode(kind: str, **content: Any) -> str:
    """A text message of the preview. ValueError for NaN, which JSON has no word for."""
    return json.dumps({"type": kind, **content}, allow_nan=False, separators=(",", ":"))


def encode_frame(header: Mapping[str, Any], jpeg: bytes) -> bytes:
    """A frame message: length of the header (u32, little-endian), the header as JSON, a JPEG file."""
    head = encode("frame", **header).encode()
    return _HEADER_LENGTH.pack(len(head)) + head + jpeg


def decode_frame(message: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and JPEG file of a frame message."""
    (length,) = _HEADER_LENGTH.unpack_from(message)
    start = _HEADER_LENGTH.size
    header: dict[str, Any] = json.loads(message[start : start + length])
    return header, message[start + length :]


def _parsed(text: str) -> dict[str, Any]:
    try:
        body = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as exc:
        raise Refused("a message is no JSON") from exc
    if not isinstance(body, dict):
        raise Refused("a message is no JSON object")
    return body


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number in JSON")


def _quoted(value: object) -> str:
    """A value from a viewer as a sentence may show it: short, in ASCII."""
    return ascii(value)[:60]


def _id(body: dict[str, Any]) -> int | None:
    """Takes the id out; one that is none is told about, for lack of another place, without it."""
    found = body.pop("id", None)
    if found is None or _is_count(found):
        return found
    raise Refused(f"a message has the id {_quoted(found)}, expected a whole number from 0 on")


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= LATEST


def _hello(body: dict[str, Any], bears: int | None) -> Hello:
    token = body.pop("token", None)
    if not isinstance(token, str) or not 0 < len(token) <= TOKEN_CHARACTERS:
        raise InputError("it bears no token")
    return Hello(token)


def _seen(body: dict[str, Any], bears: int | None) -> Seen:
    return Seen(_number(body))


def _prompt(body: dict[str, Any], bears: int | None) -> Prompted:
    number = _number(body)
    name = _name(body, "name") if body.get("name") is not None else body.pop("name", None)
    points, box = body.pop("points", None) or [], body.pop("box", None)
    if not isinstance(points, list) or len(points) > POINTS:
        raise InputError(f"points is no list of at most {POINTS}")
    if box is None and not points:
        raise InputError("it has neither points nor a box")
    return Prompted(Request(number, name, tuple(map(_point, points)), _box(box)), bears)


def _remove(body: dict[str, Any], bears: int | None) -> Removed:
    return Removed(_name(body, "name"), bears)


def _rename(body: dict[str, Any], bears: int | None) -> Renamed:
    return Renamed(_name(body, "name"), _name(body, "new"), bears)


def _pause(body: dict[str, Any], bears: int | None) -> Paused:
    paused = body.pop("paused", None)
    if not isinstance(paused, bool):
        raise InputError(f"paused is {_quoted(paused)}, expected true or false")
    return Paused(paused, bears)


_DECODERS: Mapping[str, Callable[[dict[str, Any], int | None], Message]] = {
    "hello": _hello,
    "shown": _seen,
    "prompt": _prompt,
    "remove": _remove,
    "rename": _rename,
    "pause": _pause,
}


def _number(body: dict[str, Any]) -> int:
    number = body.pop("number", None)
    if not _is_count(number):
        raise InputError(f"number is {_quoted(number)}, expected the number of a frame")
    return number


def _name(body: dict[str, Any], key: str) -> str:
    name = body.pop(key, None)
    if not isinstance(name, str) or not name.isprintable() or not name.strip() or len(name) > NAME_CHARACTERS:
        raise InputError(f"{key} is {_quoted(name)}, expected 1 to {NAME_CHARACTERS} printable characters")
    return name.strip()


def _point(value: object) -> tuple[float, float, int]:
    if (
        not isinstance(value, list)
        or len(value) != 3
        or type(value[2]) is not int
        or value[2] not in (0, 1)
        or not all(map(_is_coordinate, value[:2]))
    ):
        raise InputError(f"a point is {_quoted(value)}, expected [x, y, 1] or, in the background, [x, y, 0]")
    return float(value[0]), float(value[1]), value[2]


def _box(value: object) -> tuple[float, float, float, float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_coordinate, value)):
        raise InputError(f"box is {_quoted(value)}, expected [left, top, right, bottom]")
    left, top, right, bottom = map(float, value)
    if left >= right or top >= bottom:
        raise InputError(f"box is {_quoted(value)}, which is empty: left < right and top < bottom are needed")
    return left, top, right, bottom


def _is_coordinate(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= FARTHEST_PX
