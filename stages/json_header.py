"""The JSON header of a message, read in bounded memory.

Reading takes at most MEMORY_FACTOR times the bytes of the JSON, whatever it holds: Python's objects are
large, and `[[[]]],` over and over would take 45 times its bytes. So a header with more lists and objects than
a message needs is refused before it is parsed.
"""

from __future__ import annotations

import json
from typing import Any

from stages.errors import WireError
from stages.json_values import KeyTwice, no_constant, no_key_twice

MEMORY_FACTOR = 32  # measured: 24, keys that are all different
_MAX_OBJECTS = 256  # 16 inputs and 16 outputs with their parameters are 65
_MIN_LIST_BYTES = 7  # the innermost lists of a tile are its pixels: [0,0,0]


def read(header: bytes) -> dict[str, Any]:
    """The object in a JSON header. Raises WireError for anything but one object in UTF-8."""
    if (
        header.count(b"{") > _MAX_OBJECTS
        or header.count(b"[") > _MAX_OBJECTS + len(header) // _MIN_LIST_BYTES
    ):
        raise WireError("the JSON header has more lists or objects than any message needs")
    try:
        head = _DECODER.decode(header.decode("utf-8-sig"))
    except KeyTwice as exc:  # a proxy could see another request than the site
        raise WireError("the JSON header has a key twice in one object") from exc
    except (ValueError, RecursionError) as exc:
        raise WireError("the JSON header cannot be parsed") from exc
    if not isinstance(head, dict):
        raise WireError("the JSON header is no object")
    return head


_DECODER = json.JSONDecoder(parse_constant=no_constant, object_pairs_hook=no_key_twice)
