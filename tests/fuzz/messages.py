"""Messages that are almost well-formed, and what must hold of a decoder whatever it reads."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from random import Random
from typing import Any

from stages import json_header, wire
from stages.errors import WireError
from stages.tensors import TensorSpec
from tests.support.fakes import INPUTS, OUTPUTS
from tests.support.messages import Message, json_request, message, request, response

MAX_BATCH = 25
OVERHEAD_BYTES = 50_000  # exceptions, arrays of the tests' tiny tiles
FP32 = (TensorSpec("embedding", "float32", ("n", 2)),)
FP32_RESPONSE = message(
    {"outputs": [{"name": "embedding", "datatype": "FP32", "shape": [1, 2], "data": [[0.5, -2]]}]}
)
SEEDS: Sequence[Message] = (
    request(),
    request(id="7", parameters={"binary_data_output": True}),
    json_request(3, 7),
    response(),
    FP32_RESPONSE,
    (b'{"error": "no such model"}', None),
)


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else []


VALUES: Sequence[Any] = (
    None, True, False, 0, 1, -1, 2, 25, 26, 255, 256, 2**31, 2**63, 10**400, -(10**400), 0.5, -0.0, 1e308,
    "", "tile", "scale", "UINT8", "FP16", "FP32", "BYTES", "\ud800", "\x1b[2J", "\0", "x" * 2000,
    [], {}, [0], [[0]], [0] * 100, [[]] * 100, {"": {}}, nested(60), {"binary_data_size": 96},
    {"binary_data": True}, {"classification": 1}, {"shared_memory_region": "a"},
)  # fmt: skip
TOKENS: Sequence[bytes] = (
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf",
    b"\\ud800", b"NaN", b"-Infinity", b"-0", b"1e999999", b"007", b"9" * 5000, b"null", b'"a":1,"a":2',
    b"[" * 2000, b'{"a":' * 250, b"[[[]]]," * 50, b'"' + b"x" * 500 + b'"',
)  # fmt: skip
LENGTHS = ("", "0", "-1", "+5", "1e3", "9" * 30, "\u0661", "1\u00b2", " 5")


def mutated(seed: Message, random: Random) -> Message:
    """A message with up to four things wrong: in its JSON, in its text, or in its framing."""
    body, length = seed
    size = len(body) if length is None else int(length)
    header, binary = body[:size], body[size:]
    head = json.loads(header)
    for _ in range(random.randint(0, 3)):
        _change(head, random)
    header = json.dumps(head).encode()
    if random.random() < 0.3:
        header = _splice(header, random)
    if random.random() < 0.3:
        binary = _splice(binary, random)
    return header + binary, _length(len(header), length is None, random)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value with each of its keys."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from _places(value[key])


def _change(head: Any, random: Random) -> None:
    """Put another value somewhere, or take one away."""
    places = list(_places(head))
    if not places:
        return
    container, key = random.choice(places)
    action = random.randrange(4)
    if action == 0:
        del container[key]
    elif action == 1:
        other, place = random.choice(places)
        container[key] = deepcopy(other[place])
    elif action == 2 and isinstance(container, dict):
        container[str(random.choice(VALUES))[:50]] = _value(random)
    else:
        container[key] = _value(random)


def _value(random: Random) -> Any:
    """A copy, as later changes may go into it."""
    return deepcopy(random.choice(VALUES))


def _splice(data: bytes, random: Random) -> bytes:
    """Cut a few bytes out and put a token or random bytes in."""
    start = random.randint(0, len(data))
    stop = min(len(data), start + random.randint(0, 8))
    new = random.choice(TOKENS) if random.random() < 0.7 else random.randbytes(random.randint(0, 4))
    return data[:start] + new * random.choice((1, 1, 1, 1, 20)) + data[stop:]


def _length(header: int, absent: bool, random: Random) -> str | None:
    action = random.randrange(20)
    if action == 0:
        return random.choice(LENGTHS)
    if action == 1:
        return str(header + random.randint(-3, 3))
    return None if absent != (action == 2) else str(header)


def check_bounded(body: bytes, header_length: str | None) -> None:
    """`check` holds, and takes no more memory than json_header says."""
    tracemalloc.start()
    try:
        check(body, header_length)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= json_header.MEMORY_FACTOR * len(body) + OVERHEAD_BYTES


def check(body: bytes, header_length: str | None) -> None:
    """Every decoder answers, or raises WireError with one short sentence that a terminal can show."""
    for decode in _decoders(body, header_length):
        try:
            decode()
        except WireError as exc:
            _check_sentence(exc)
    text = wire.error_text(body)
    assert 0 < len(text) <= 300
    assert text.isprintable()


def _check_sentence(error: WireError) -> None:
    assert error.status == 400
    assert 0 < len(str(error)) < 300
    assert str(error).isprintable()


def _decoders(body: bytes, header_length: str | None) -> tuple[Callable[[], None], ...]:
    return (
        lambda: _check_request(body, header_length),
        lambda: _check_response(body, header_length, OUTPUTS, 2),
        lambda: _check_response(body, header_length, FP32, 1),
    )


def _check_request(body: bytes, header_length: str | None) -> None:
    got = wire.decode_request(body, header_length, INPUTS, OUTPUTS, MAX_BATCH)
    assert list(got.inputs) == [spec.name for spec in INPUTS]
    for spec in INPUTS:
        array = got.inputs[spec.name]
        assert spec.problem(array.shape, array.dtype.name) is None
        assert spec.value_problem(array) is None
    assert 1 <= got.batch <= MAX_BATCH
    assert set(got.outputs) <= {spec.name for spec in OUTPUTS}
    assert got.id is None or len(got.id) <= 256
    wire.encode_response({}, {}, got.id)


def _check_response(body: bytes, header_length: str | None, specs: Sequence[TensorSpec], batch: int) -> None:
    got = wire.decode_response(body, header_length, specs, batch)
    for spec in specs:
        assert spec.problem(got[spec.name].shape, got[spec.name].dtype.name) is None
        assert len(got[spec.name]) == batch
