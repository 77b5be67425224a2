"""HTTP messages as bytes, and the tensors in them (Open Inference Protocol v2)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

HEADER_LENGTH = b"inference-header-content-length"
_DTYPES = {"UINT8": "u1", "INT32": "<i4", "INT8": "i1", "FP16": "<f2", "FP32": "<f4"}

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Message:
    """A request or an answer: its first line, its header lines with lower-case names, its body."""

    start: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def path(self) -> str:
        """Of a request."""
        return self.start.split()[1].decode("latin-1")

    def encode(self) -> bytes:
        lines = [self.start, *(name + b": " + value for name, value in self.headers)]
        return b"\r\n".join([*lines, b"", self.body])


async def read_message(reader: asyncio.StreamReader) -> Message | None:
    """The next message, None where the connection ends between two. Bodies without a length are not read."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as exc:
        if exc.partial:
            raise
        return None
    start, *lines = head[:-4].split(b"\r\n")
    pairs = (line.partition(b":") for line in lines)
    headers = tuple((name.strip().lower(), value.strip()) for name, _, value in pairs)
    message = Message(start, headers, b"")
    body = await reader.readexactly(int(message.header(b"content-length") or 0))
    return Message(start, headers, body)


def read_tensors(message: Message, key: str) -> tuple[dict[str, Any], Arrays]:
    """The JSON head and the binary tensors of an infer request (`key` "inputs") or answer ("outputs")."""
    length = int(message.header(HEADER_LENGTH) or len(message.body))
    head: dict[str, Any] = json.loads(message.body[:length])
    arrays: Arrays = {}
    at = length
    for entry in head[key]:
        size = entry["parameters"]["binary_data_size"]
        data = message.body[at : at + size]
        arrays[entry["name"]] = np.frombuffer(data, _DTYPES[entry["datatype"]]).reshape(entry["shape"])
        at += size
    return head, arrays


def answer(
    status: bytes, body: bytes, content_type: bytes = b"application/json", **headers: bytes
) -> Message:
    """An answer with this body."""
    lines = ((b"content-type", content_type), (b"content-length", str(len(body)).encode()))
    more = tuple((name.replace("_", "-").encode(), value) for name, value in headers.items())
    return Message(b"HTTP/1.1 " + status, (*lines, *more), body)


def with_tensors(message: Message, head: Mapping[str, Any], arrays: Arrays) -> Message:
    """An infer answer with another JSON head and other tensors."""
    text = json.dumps(head).encode()
    body = text + b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    sizes = {HEADER_LENGTH: str(len(text)).encode(), b"content-length": str(len(body)).encode()}
    headers = tuple((name, sizes.get(name, value)) for name, value in message.headers)
    return Message(message.start, headers, body)
