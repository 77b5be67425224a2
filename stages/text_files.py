"""Text files that people write: UTF-8 with or without its mark, and a sentence that says where one is wrong.

The same for TOML and JSON. A folder, a device and a pipe that nobody writes to are refused; none is waited
for without end, and no more than `max_bytes` of a file are read.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import select
import stat
import sys
import time
from pathlib import Path
from typing import Any

from stages.errors import InputError
from stages.json_values import finite, no_constant, no_key_twice, whole

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 64 << 20  # larger than any configuration, prompts file or manifest
# How a person calls the types of TOML and JSON.
TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
PIPE_S = 10.0  # for what a shell gives as <(command)
# Its marks, which UTF-32 shares, or two letters of English; a film begins with three zeros, weights end so.
_UTF_16 = re.compile(rb"\xff\xfe|\xfe\xff|([^\0]\0){2}|(\0[^\0]){2}|([^\0]\0{3}){2}|(\0{3}[^\0]){2}")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|-?Infinity|[^\s"{}\[\],:]+', re.DOTALL)
_COLON = re.compile(r"\s*:")


class Mistake(InputError):
    """What is wrong with one table of a file, and the key that has it, or lacks, if one does."""

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


def read_text(path: Path, what: str = "file", max_bytes: int = MAX_BYTES) -> str:
    """The text of a UTF-8 file, without its mark. Blocks, for a pipe up to PIPE_S.

    Raises InputError, which begins with `what` and the path, for what cannot be read or is no UTF-8.
    """
    try:
        return _decoded(read_bytes(path, max_bytes))
    except (OSError, ValueError) as exc:
        raise _unreadable(path, what, exc) from exc


def read_toml(path: Path, what: str = "file", max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The tables of a TOML file. Raises InputError like `read_text`, with line and column of a mistake."""
    return parse_toml(read_text(path, what, max_bytes), path, what)


def parse_toml(text: str, path: Path, what: str = "file") -> dict[str, Any]:
    """The tables of the text of a TOML file. Raises InputError like `read_toml`."""
    try:
        tables: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        raise _unreadable(path, what, exc) from exc
    return tables


def read_json(path: Path, what: str = "file", max_bytes: int = MAX_BYTES) -> Any:
    """The value of a JSON file. Raises InputError like `read_text`, with line and column of a mistake.

    A key that stands twice in one object is one. So are NaN, Infinity and numbers too large for a float.
    """
    text = read_text(path, what, max_bytes)
    try:
        return _JSON.decode(text)
    except json.JSONDecodeError as exc:
        said = exc.msg if text.strip() else "it is empty"
        raise _unreadable(path, what, ValueError(f"{said} ({position(text, exc.pos)})")) from exc
    except (ValueError, RecursionError) as exc:
        found = exc if isinstance(exc, RecursionError) else _first_mistake(text) or exc
        raise _unreadable(path, what, found) from exc


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a file, or of a pipe whose writer ends within PIPE_S.

    Raises OSError, and ValueError with a clause for a person when it is no file or larger than `max_bytes`.
    """
    with open(path, "rb", buffering=0, opener=_without_waiting) as file:
        kind = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISFIFO(kind):
            raise ValueError("it is a device, expected a file")
        until = time.monotonic() + PIPE_S
        content = bytearray()
        while len(content) <= max_bytes:
            part = file.read(1 << 20)
            if part == b"":
                break
            content += part or b""
            if part is None and not select.select([file], [], [], max(0, until - time.monotonic()))[0]:
                raise ValueError(f"it is a pipe whose writer did not end within {PIPE_S:g} s")
    if stat.S_ISFIFO(kind) and not content:
        raise ValueError("it is a pipe that nobody writes to")
    if len(content) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes / (1 << 20):g} MiB")
    return bytes(content)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # which a pipe without a writer would do


def escaped(name: str) -> str:
    """A file's name as text that UTF-8 can hold: what stands for a byte that is none becomes \\udce9."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def position(text: str, at: int) -> str:
    """Line and column of a character, as a person counts them."""
    before = text[:at]
    return f"line {before.count(chr(10)) + 1}, column {at - (before.rfind(chr(10)) + 1) + 1}"


def line_of(text: str, table: str, number: int | None = None, key: str | None = None) -> int | None:
    """The line of a TOML text where `key` of a table stands, else where the table begins, counted from 1.

    `number` says which [[table]] of several, counted from 0. None where the table has no line of its own.
    """
    left, right = ("[", "]") if number is None else ("[[", "]]")
    header = re.compile(rf"\s*{re.escape(left)}\s*[\"']?{re.escape(table)}[\"']?\s*{re.escape(right)}")
    lines = text.splitlines()
    starts = [at for at, line in enumerate(lines) if header.match(line)]
    if len(starts) <= (number or 0):
        return None
    start = starts[number or 0]
    wanted = re.compile(rf"\s*[\"']?{re.escape(key or '')}[\"']?\s*=")
    for at in range(start + 1, len(lines) if key else 0):
        if re.match(r"\s*\[", lines[at]) and "=" not in lines[at]:
            break
        if wanted.match(lines[at]):
            return at + 1
    return start + 1


def _decoded(content: bytes) -> str:
    if _UTF_16.match(content):
        raise ValueError(
            "it is UTF-16, as Windows writes it (PowerShell's >, Notepad's \"Unicode\"); save it as UTF-8"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        before = exc.object[: exc.start].decode("utf-8", "replace")
        where, byte = position(before, len(before)), exc.object[exc.start]
        raise ValueError(f"byte 0x{byte:02x} in {where} is no UTF-8; save the file as UTF-8") from exc


def _unreadable(path: Path, what: str, exc: Exception) -> InputError:
    if isinstance(exc, RecursionError):
        said = "its lists or tables are nested too deeply"
    else:
        said = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return InputError(f"{what} {path} cannot be read: {said}")


_JSON = json.JSONDecoder(
    object_pairs_hook=no_key_twice, parse_constant=no_constant, parse_float=finite, parse_int=whole
)


def _first_mistake(text: str) -> ValueError | None:
    """What the decoder refuses without saying where, found again in text that is JSON otherwise."""
    seen: list[set[str] | None] = []  # of each open object the keys, None for a list
    for token in _TOKEN.finditer(text):
        word = token[0]
        if word in "{[":
            seen.append(set() if word == "{" else None)
        elif word in "}]":
            seen.pop()
        elif word[0] == '"' and seen and seen[-1] is not None and _COLON.match(text, token.end()):
            if json.loads(word) in seen[-1]:
                return ValueError(
                    f"the key {word:.80} stands twice in one object ({position(text, token.start())})"
                )
            seen[-1].add(json.loads(word))
        elif word[0] in "-NI0123456789":
            with contextlib.suppress(ValueError):
                if math.isfinite(float(word)):
                    continue
            return ValueError(f"{word:.40} is no number that can be used ({position(text, token.start())})")
    return None
