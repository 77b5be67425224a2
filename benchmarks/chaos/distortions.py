"""What becomes of a good answer: pure functions of the answer, the fault and a random number."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from benchmarks.chaos.faults import Fault
from benchmarks.chaos.messages import HEADER_LENGTH, Arrays, Message, answer, read_tensors, with_tensors

ESCAPES = "\x1b]0;chaos\x07\x1b[2J\x9b31m"  # a title, a cleared screen, a colour
RETRY_AFTER = (
    *("\u00b2".encode(), "1\u00b3".encode(), "\u0661".encode()),  # digits; int takes the last one alone
    *(b"\xb2", b"-1", b"9" * 40, b"1e9", b"", b"nan", b"0", b"soon", b"1, 2"),
)
HEAD_LINES = (
    (b"x-chaos", b"\x1b[2J\x07"),
    (b"x-chaos", bytes(range(0x80, 0x100))),
    (b"x-chaos", b"\0"),
    (b"x-chaos", b"y" * 70_000),
    (b"x ch\x01aos", b"1"),
    (b"", b"no name"),
    (HEADER_LENGTH, b"7"),
    (b"content-length", b"3"),
    (b"content-encoding", b"gzip"),
    (b"transfer-encoding", b"chunked"),
)
BODIES = (
    b"",
    b"null",
    b"[" * 20_000,
    b'{"outputs": 7}',
    b'{"outputs": [{"name": "embedding", "datatype": "FP16", "shape": [1e400], "parameters": []}]}',
    b'{"outputs": [{"name": "embedding", "datatype": "FP16", "shape": [-1, 5, 5, 192], '
    b'"parameters": {"binary_data_size": 99999999999999999999}}]}',
    b"\xff\xfe\x00",
    b'{"outputs": [null, null]}',
)
_Value = TypeVar("_Value")


def distort(fault: Fault, message: Message, rng: np.random.Generator) -> Message:
    """The answer that is sent instead of `message`, an infer answer of one or more tiles."""
    return _DISTORTIONS[fault.kind](fault, message, rng)


def pick(choices: Sequence[_Value], value: float) -> _Value:
    return choices[int(value * len(choices))]


def with_digest(message: Message) -> Message:
    """The model config with the digest of other weights."""
    config = json.loads(message.body)
    config["parameters"]["site_digest"]["string_value"] = "sha256:" + "0" * 64
    return answer(b"200 OK", json.dumps(config).encode())


def _nan(fault: Fault, message: Message, rng: np.random.Generator) -> Message:
    return _changed(message, lambda array: np.full_like(array, pick((np.nan, np.inf), fault.value)))


def _zeros(fault: Fault, message: Message, rng: np.random.Generator) -> Message:
    return _changed(message, lambda array: np.zeros_like(array) if array.ndim == 4 else array)


def _noise(fault: Fault, message: Message, rng: np.random.Generator) -> Message:
    """1 % of each value's own size."""
    return _changed(message, lambda array: array * (1 + 0.01 * rng.standard_normal(array.shape)))


def _other_weights(fault: Fault, message: Message, rng: np.random.Generator) -> Message:
    return _changed(message, lambda array: array * -1.5)


def _changed(message: Message, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Message:
    """With its floats changed: those are the embedding, or the scale of one in int8."""
    head, arrays = read_tensors(message, "outputs")
    changed: Arrays = {
        name: change(array).astype(array.dtype) if array.dtype.kind == "f" else array
        for name, array in arrays.items()
    }
    return with_tensors(message, head, changed)


def _shape(fault: Fault, message: Message, rng: np.random.Generator) -> Message:
    head, arrays = read_tensors(message, "outputs")
    first = head["outputs"][0]
    first["shape"] = pick(
        ([*first["shape"][:3], 96, 2], first["shape"][::-1], [], [0, 5, 5, 192]), fault.value
    )
    return with_tensors(message, head, arrays)


def _dtype(fault: Fault, message: Message, rng: np.random.Generator) -> Message:
    head, arrays = read_tensors(message, "outputs")
    head["outputs"][0]["datatype"] = pick(("FP32", "BYTES", "BF16", "float16", 7, None), fault.value)
    return with_tensors(message, head, arrays)


def _json(fault: Fault, message: Message, rng: np.random.Generator) -> Message:
    return answer(b"200 OK", pick(BODIES, fault.value))


def _busy(fault: Fault, message: Message, rng: np.random.Generator) -> Message:
    return answer(b"503 Busy", b'{"error": "busy"}', retry_after=pick(RETRY_AFTER, fault.value))


def _headers(fault: Fault, message: Message, rng: np.random.Generator) -> Message:
    return Message(message.start, (pick(HEAD_LINES, fault.value), *message.headers), message.body)


def _error_text(fault: Fault, message: Message, rng: np.random.Generator) -> Message:
    status = pick((b"500 Oh \x1b[31m", b"400 No", b"404 Gone", b"999 Odd", b"429 Slow"), fault.value)
    return answer(status, json.dumps({"error": ESCAPES}).encode())


def _refused(fault: Fault, message: Message, rng: np.random.Generator) -> Message:
    return answer(b"412 Precondition Failed", b'{"error": "other weights are served here"}')


def _redirect(fault: Fault, message: Message, rng: np.random.Generator) -> Message:
    return answer(b"307 Temporary Redirect", b"", location=b"http://127.0.0.1:9/elsewhere")


_DISTORTIONS: dict[str, Callable[[Fault, Message, np.random.Generator], Message]] = {
    "nan": _nan,
    "zeros": _zeros,
    "noise": _noise,
    "other_weights": _other_weights,
    "shape": _shape,
    "dtype": _dtype,
    "json": _json,
    "busy": _busy,
    "headers": _headers,
    "error_text": _error_text,
    "refused": _refused,
    "redirect": _redirect,
}
