"""The messages between a viewer and the preview, version 1: PROTOCOL.md in code.

Whatever a viewer says is checked here and nowhere else; what comes out is right in type, size and range.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard, Union

from runtime.objects.prompts import MASKS, MAX_POINTS, PromptRequest
from runtime.preview.saving import FILES
from stages.errors import InputError
from stages.json_values import no_constant

VERSION = 1
PATH = f"/v{VERSION}/live"
MESSAGE_BYTES = 16_384
NAME_CHARACTERS = 40
TOKEN_CHARACTERS = 200
MAX_COORDINATE_PX = 1e6
MAX_INTEGER = 2**53 - 1  # the largest that every JSON reader holds exactly

_HEADER_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Hello:
    """Always the first message."""

    token: str = field(repr=False)
    id: int | None = None


@dataclass(frozen=True)
class PromptCommand:
    request: PromptRequest
    id: int | None = None


@dataclass(frozen=True)
class RemoveCommand:
    name: str
    id: int | None = None


@dataclass(frozen=True)
class RenameCommand:
    name: str
    new: str
    id: int | None = None


@dataclass(frozen=True)
class PauseCommand:
    paused: bool
    id: int | None = None


@dataclass(frozen=True)
class ConfirmCommand:
    """The mask of the object is right as it is on the frame of this number."""

    name: str
    number: int
    id: int | None = None


@dataclass(frozen=True)
class PromptsCommand:
    """The viewer wants the objects as they were asked for."""

    id: int | None = None


@dataclass(frozen=True)
class SaveCommand:
    """The viewer wants a file (see runtime.preview.saving.FILES) of a frame it was sent: of the object of
    this name, or of all."""

    number: int
    file: str
    name: str | None = None
    id: int | None = None


@dataclass(frozen=True)
class ChooseCommand:
    """Take mask 1, 2 or 3 of those that the only point of an object may mean."""

    name: str
    mask: int
    id: int | None = None


@dataclass(frozen=True)
class UndoCommand:
    id: int | None = None


@dataclass(frozen=True)
class RedoCommand:
    id: int | None = None


@dataclass(frozen=True)
class PlayCommand:
    playing: bool
    id: int | None = None


@dataclass(frozen=True)
class SeekCommand:
    time_s: float
    id: int | None = None


@dataclass(frozen=True)
class StepCommand:
    """One frame on, or back."""

    by: int
    id: int | None = None


@dataclass(frozen=True)
class Try:
    """What would this prompt find? The newest takes the place of one that waits."""

    request: PromptRequest
    id: int | None = None


@dataclass(frozen=True)
class Hold:
    """The viewer works on the frame of this number, and gets no other; None: it goes on."""

    number: int | None
    id: int | None = None


@dataclass(frozen=True)
class FrameShown:
    """The frame of this number was shown; the next one may come."""

    number: int


@dataclass(frozen=True)
class Look:
    """The viewer wants to see what an operator holds, once that is newer than its picture `after`; None: it
    does not any more."""

    operator: str | None
    after: int = 0
    id: int | None = None


# Not in Python 3.10's form, since these are evaluated.
Move = Union[PlayCommand, SeekCommand, StepCommand]  # noqa: UP007
Change = Union[  # noqa: UP007
    PromptCommand, ConfirmCommand, RemoveCommand, RenameCommand, ChooseCommand, UndoCommand, RedoCommand
]
Command = Union[Change, PauseCommand, Move]  # noqa: UP007
Message = Union[Hello, FrameShown, Look, Try, Hold, PromptsCommand, SaveCommand, Command]  # noqa: UP007


class ProtocolError(InputError):
    """A message breaks the protocol; `id` is that of the message, for the answer."""

    def __init__(self, text: str, message_id: int | None = None) -> None:
        super().__init__(text)
        self.id = message_id


def decode(text: str) -> Message:
    """The message in a text frame. Raises ProtocolError in one sentence for anything else."""
    body = _parsed(text)
    kind = body.pop("type", None)
    message_id = _id(body)
    decoder = _DECODERS.get(kind) if isinstance(kind, str) else None
    if decoder is None:
        expected = ", ".join(_DECODERS)
        raise ProtocolError(f"a message has the type {_quoted(kind)}, expected one of {expected}", message_id)
    try:
        message = decoder(body, message_id)
        if body:
            raise InputError(f"it has the unknown key {_quoted(min(body))}")
    except InputError as exc:
        raise ProtocolError(f"the message {kind} is refused: {exc}", message_id) from exc
    return message


def encode(kind: str, **content: Any) -> str:
    """A text message of the preview. ValueError for NaN, which JSON cannot hold."""
    return json.dumps({"type": kind, **content}, allow_nan=False, separators=(",", ":"))


def encode_frame(header: Mapping[str, Any], jpeg: bytes) -> bytes:
    """A frame message, with a JPEG file."""
    return encode_picture("frame", header, jpeg)


def encode_picture(kind: str, header: Mapping[str, Any], file: bytes) -> bytes:
    """A binary message: length of the header (u32, little-endian), the header as JSON, a picture's file."""
    head = encode(kind, **header).encode()
    return _HEADER_LENGTH.pack(len(head)) + head + file


def decode_frame(message: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and picture's file of a binary message."""
    (length,) = _HEADER_LENGTH.unpack_from(message)
    start = _HEADER_LENGTH.size
    header: dict[str, Any] = json.loads(message[start : start + length])
    return header, message[start + length :]


def _parsed(text: str) -> dict[str, Any]:
    try:
        body = json.loads(text, parse_constant=no_constant)
    except (ValueError, RecursionError) as exc:
        raise ProtocolError("a message is not JSON") from exc
    if not isinstance(body, dict):
        raise ProtocolError("a message is not a JSON object")
    return body


def _quoted(value: object) -> str:
    """A value from a viewer as a sentence may show it: short, in ASCII."""
    return ascii(value)[:60]


def _id(body: dict[str, Any]) -> int | None:
    """Take the id out; the answer to one that is not a whole number has none."""
    found = body.pop("id", None)
    if found is None or _is_count(found):
        return found
    raise ProtocolError(f"a message has the id {_quoted(found)}, expected a whole number from 0 on")


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MAX_INTEGER


def _hello(body: dict[str, Any], message_id: int | None) -> Hello:
    token = body.pop("token", None)
    if not isinstance(token, str) or not 0 < len(token) <= TOKEN_CHARACTERS:
        raise InputError("it has no token")
    return Hello(token, message_id)


def _seen(body: dict[str, Any], message_id: int | None) -> FrameShown:
    return FrameShown(_number(body))


def _look(body: dict[str, Any], message_id: int | None) -> Look:
    operator, after = body.pop("operator", None), body.pop("after", 0)
    if operator is not None and not isinstance(operator, str):
        raise InputError(f"operator is {_quoted(operator)}, expected the name of one, or null")
    if not _is_count(after):
        raise InputError(f"after is {_quoted(after)}, expected the number of a picture")
    return Look(operator, after, message_id)


def _prompt(body: dict[str, Any], message_id: int | None) -> PromptCommand:
    new_name, request = _optional_name(body, "new"), _prompt_request(body)
    if request.name is not None and new_name is not None:
        raise InputError("it has a name, of an object there is, and new, of one to start; give one of them")
    return PromptCommand(replace(request, new_name=new_name), message_id)


def _try(body: dict[str, Any], message_id: int | None) -> Try:
    return Try(_prompt_request(body), message_id)


def _prompt_request(body: dict[str, Any]) -> PromptRequest:
    number = _number(body)
    name = _optional_name(body, "name")
    points, box = body.pop("points", None) or [], body.pop("box", None)
    if not isinstance(points, list) or len(points) > MAX_POINTS:
        raise InputError(f"points is not a list of at most {MAX_POINTS}")
    if box is None and not points:
        raise InputError("it has neither points nor a box")
    return PromptRequest(number, name, tuple(map(_point, points)), _box(box))


def _confirm(body: dict[str, Any], message_id: int | None) -> ConfirmCommand:
    return ConfirmCommand(_name(body, "name"), _number(body), message_id)


def _prompts(body: dict[str, Any], message_id: int | None) -> PromptsCommand:
    return PromptsCommand(message_id)


def _save(body: dict[str, Any], message_id: int | None) -> SaveCommand:
    file = body.pop("file", None)
    if file not in FILES:
        raise InputError(f"file is {_quoted(file)}, expected one of {', '.join(FILES)}")
    return SaveCommand(_number(body), file, _optional_name(body, "name"), message_id)


def _remove(body: dict[str, Any], message_id: int | None) -> RemoveCommand:
    return RemoveCommand(_name(body, "name"), message_id)


def _rename(body: dict[str, Any], message_id: int | None) -> RenameCommand:
    return RenameCommand(_name(body, "name"), _name(body, "new"), message_id)


def _pause(body: dict[str, Any], message_id: int | None) -> PauseCommand:
    paused = body.pop("paused", None)
    if not isinstance(paused, bool):
        raise InputError(f"paused is {_quoted(paused)}, expected true or false")
    return PauseCommand(paused, message_id)


def _choose(body: dict[str, Any], message_id: int | None) -> ChooseCommand:
    name, mask = _name(body, "name"), body.pop("mask", None)
    if type(mask) is not int or mask not in MASKS:
        raise InputError(f"mask is {_quoted(mask)}, expected 1, 2 or 3")
    return ChooseCommand(name, mask, message_id)


def _undo(body: dict[str, Any], message_id: int | None) -> UndoCommand:
    return UndoCommand(message_id)


def _redo(body: dict[str, Any], message_id: int | None) -> RedoCommand:
    return RedoCommand(message_id)


def _play(body: dict[str, Any], message_id: int | None) -> PlayCommand:
    playing = body.pop("playing", None)
    if not isinstance(playing, bool):
        raise InputError(f"playing is {_quoted(playing)}, expected true or false")
    return PlayCommand(playing, message_id)


def _seek(body: dict[str, Any], message_id: int | None) -> SeekCommand:
    time_s = body.pop("time_s", None)
    if not _is_coordinate(time_s) or time_s < 0:
        raise InputError(f"time_s is {_quoted(time_s)}, expected seconds from the start of the file")
    return SeekCommand(float(time_s), message_id)


def _step(body: dict[str, Any], message_id: int | None) -> StepCommand:
    by = body.pop("by", None)
    if type(by) is not int or by not in (-1, 1):
        raise InputError(f"by is {_quoted(by)}, expected 1 or -1")
    return StepCommand(by, message_id)


def _hold(body: dict[str, Any], message_id: int | None) -> Hold:
    if body.get("number") is None:
        body.pop("number", None)
        return Hold(None, message_id)
    return Hold(_number(body), message_id)


_DECODERS: Mapping[str, Callable[[dict[str, Any], int | None], Message]] = {
    "hello": _hello,
    "shown": _seen,
    "look": _look,
    "prompt": _prompt,
    "confirm": _confirm,
    "remove": _remove,
    "rename": _rename,
    "pause": _pause,
    "prompts": _prompts,
    "save": _save,
    "choose": _choose,
    "undo": _undo,
    "redo": _redo,
    "play": _play,
    "seek": _seek,
    "step": _step,
    "try": _try,
    "hold": _hold,
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


def _optional_name(body: dict[str, Any], key: str) -> str | None:
    if body.get(key) is not None:
        return _name(body, key)
    body.pop(key, None)
    return None


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


def _is_coordinate(value: object) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= MAX_COORDINATE_PX
