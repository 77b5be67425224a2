"""What of a tile is copied on its way from the socket to the engine and back."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import anyio
import numpy as np
import pytest
from aiohttp.base_protocol import BaseProtocol

from server.http.admission import Admission
from server.limits import Limits, Quotas
from server.model.batcher import _concatenated
from stages import wire
from stages.tensors import TensorSpec

pytestmark = pytest.mark.anyio

N = 1 << 20
TILE = (TensorSpec("tile", "uint8", ("n", N)),)
EMBEDDING = (TensorSpec("embedding", "float16", ("n", N // 2)),)


def allocated(function: Callable[[], object]) -> float:
    """The most memory that it held at a time, in tiles."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1] / N
    finally:
        tracemalloc.stop()


async def body_of(*chunks: bytes) -> tuple[bytes, float]:
    """What a site reads of a body that comes in these chunks, and what that allocates, in tiles."""
    loop = asyncio.get_running_loop()
    protocol = BaseProtocol(loop)
    protocol.connection_made(asyncio.Transport())
    stream = aiohttp.StreamReader(protocol, 4 * N, loop=loop)
    request: Any = SimpleNamespace(content=stream)
    admission = Admission(Limits(), Quotas(Limits()))

    async def feed() -> None:
        for chunk in chunks:
            stream.feed_data(chunk)
            await anyio.sleep(0.001)
        stream.feed_eof()

    tracemalloc.start()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(feed)
            body = await admission._read(request, None, 2 * N)
        return body, tracemalloc.get_traced_memory()[1] / N
    finally:
        tracemalloc.stop()


async def test_a_body_of_one_chunk_is_not_copied_and_one_of_many_once() -> None:
    whole = bytes(N)
    body, copies = await body_of(whole)
    assert body == whole
    assert copies < 0.1
    parts = [bytes([number]) * (N // 16) for number in range(16)]
    body, copies = await body_of(*parts)
    assert body == b"".join(parts)
    assert copies < 1.1


def test_a_request_is_read_and_given_to_the_engine_without_a_copy() -> None:
    message = wire.encode_request({"tile": np.zeros((1, N), np.uint8)}, ["embedding"])
    assert message.header_length is not None
    body = np.frombuffer(message.body, np.uint8)

    def decoded() -> wire.InferRequest:
        return wire.decode_request(message.body, str(message.header_length), TILE, EMBEDDING, 4)

    assert allocated(decoded) < 0.1
    inputs = decoded().inputs
    assert np.shares_memory(inputs["tile"], body)
    assert _concatenated([inputs])["tile"] is inputs["tile"]  # alone in its batch


def test_an_answer_is_copied_once_into_its_body() -> None:
    embedding = np.zeros((2, N // 2), np.float16)
    one = embedding[1:]  # of a batch of two
    assert allocated(lambda: wire.encode_response({"embedding": one}, {"embedding": True})) < 1.1
