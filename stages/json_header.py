"""The JSON header of a message, read in bounded memory.

Reading takes at most MEMORY_FACTOR times the bytes of the JSON, whatever it holds: Python's objects are
large, and `[[[]]],` over and over would take 45 times its bytes. So a header with more lists and objects than
a message needs is refused before it is parsed.
"""

from __future__ import annotations

import json
import reprlib
from typing import Any

from stages.errors import WireError

MEMORY_FACTOR = 32  # measured: 24, keys that are all different
_MAX_OBJECTS = 256  # 16 inputs and 16 outputs with their parameters are 65
_MIN_LIST_BYTES = 7  # the innermost lists of a tile are its pixels: [0,0,0]
_BRIEF = 80


def read(header: bytes) -> dict[str, Any]:
    """The object in a JSON header. Raises WireError for anything but one object in UTF-8."""
    if (
        header.count(b"{") > _MAX_OBJECTS
        or header.count(b"[") > _MAX_OBJECTS + len(header) // _MIN_LIST_BYTES
    ):
        raise WireError("the JSON header has more lists or objects than any message needs")
    try:
        head = _DECODER.decode(header.decode("utf-8-sig"))
    except (ValueError, RecursionError) as exc:
        raise WireError("the JSON header cannot be parsed") from exc
    if not isinstance(head, dict):
        raise WireError("the JSON header is no object")
    return head


def brief(value: object) -> str:
    """A remote value for a sentence: short, printable, and made without writing all of it out first."""
    return _REPR.repr(value)[:_BRIEF]


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")  # Python's parser would take NaN and Infinity


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Parsers differ in which one they keep, so that a proxy could see another request than the site."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise WireError("the JSON header has a key twice in one object")
    return fields


_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_no_key_twice)
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxlong = 60
