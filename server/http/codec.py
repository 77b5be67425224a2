"""Decoding requests and encoding responses without blocking the event loop.

Binary tensors are views of the body and cost nothing. JSON numbers do: Python's parser holds the GIL from
start to end, 20 ms for the pixels of one tile and far longer for hostile text. So large JSON is parsed in a
process of its own (server/http/json_process.py), started by the first request that needs it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from server.http.json_process import JsonProcess
from server.limits import JSON_VALUES
from stages import wire
from stages.errors import WireError
from stages.tensors import Array, TensorSpec

SMALL_JSON_BYTES = 16 * 1024  # hostile JSON of this size is parsed in about 1 ms
SMALL_JSON_VALUES = 4096
BYTES_A_VALUE = 24  # of JSON text, at most: a float32 with its comma


class Codec:
    """`wire`'s decode_request and encode_response, for an event loop.

    JSON that takes another process has `json_s` there. Decoding and encoding raise JsonUnavailable when that
    is lost, late or closed.
    """

    def __init__(self, json_s: float) -> None:
        self._json = JsonProcess(json_s)

    async def decode(
        self,
        body: bytes,
        header_length: str | None,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        max_batch: int,
    ) -> wire.InferRequest:
        """Raises WireError for what is no request, or one whose answer would be too much JSON."""
        arguments = (body, header_length, inputs, outputs, max_batch)
        if min(json_bytes(header_length, len(body)), len(body)) > SMALL_JSON_BYTES:
            request = await self._json.run(wire.decode_request, *arguments)
        else:
            request = wire.decode_request(*arguments)
        _check_answer(request, outputs)
        return request

    async def encode(
        self, outputs: Mapping[str, Array], binary: Mapping[str, bool], request_id: str | None, version: str
    ) -> wire.Message:
        if sum(array.size for name, array in outputs.items() if not binary[name]) > SMALL_JSON_VALUES:
            return await self._json.run(wire.encode_response, outputs, binary, request_id, version)
        return wire.encode_response(outputs, binary, request_id, version)

    async def close(self) -> None:
        await self._json.close()


def json_bytes(header_length: str | None, body_bytes: int) -> int:
    """How much of a body is JSON, as its sender says; a header that is no number is refused in decoding."""
    if header_length is None:
        return body_bytes
    is_number = header_length.isascii() and header_length.isdigit() and len(header_length) < 12
    return int(header_length) if is_number else 0


def answer_bytes(request: wire.InferRequest, outputs: Sequence[TensorSpec]) -> int:
    """What the tensors of the answer to a request take, at most; its header is some hundred bytes."""
    return sum(
        _values(request, spec) * (np.dtype(spec.dtype).itemsize if binary else BYTES_A_VALUE)
        for spec in outputs
        if (binary := request.outputs.get(spec.name)) is not None
    )


def _check_answer(request: wire.InferRequest, outputs: Sequence[TensorSpec]) -> None:
    values = sum(_values(request, spec) for spec in outputs if request.outputs.get(spec.name) is False)
    if values > JSON_VALUES:
        raise WireError(
            f"the answer would hold {values} JSON numbers, at most {JSON_VALUES} are sent; ask for binary "
            "data or for fewer tiles"
        )


def _values(request: wire.InferRequest, spec: TensorSpec) -> int:
    return request.batch * math.prod(map(int, spec.shape[1:]))
