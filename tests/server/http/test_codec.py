"""Large JSON is read and written in a process of its own, small JSON and binary data here."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import numpy as np
import pytest

from server.http import json_process
from server.http.codec import Codec, answer_bytes, json_bytes
from server.http.json_process import JsonUnavailable
from server.limits import JSON_VALUES
from stages import wire
from stages.errors import WireError
from stages.tensors import Array, TensorSpec
from tests.support.few_files import few_files
from tests.support.processes import children, until_gone

pytestmark = pytest.mark.anyio

SIDE = 80
INPUTS = (TensorSpec("tile", "uint8", ("n", SIDE, SIDE, 3)),)
OUTPUTS = (TensorSpec("embedding", "float32", ("n", 100, 100)), TensorSpec("scale", "float16", ("n", 1)))
PIXELS = np.random.default_rng(1).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
SMALL = wire.encode_request({"tile": PIXELS}, ["embedding"])


@asynccontextmanager
async def opened() -> AsyncIterator[Codec]:
    codec = Codec(60.0)
    try:
        yield codec
    finally:
        await codec.close()


def json_request(pixels: Array = PIXELS, **changes: Any) -> bytes:
    tensor = {"name": "tile", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.tolist()}
    return json.dumps({"inputs": [{**tensor, **changes}], "outputs": [{"name": "embedding"}]}).encode()


async def decode(codec: Codec, body: bytes, header_length: str | None = None) -> wire.InferRequest:
    return await codec.decode(body, header_length, INPUTS, OUTPUTS, 25)


async def test_binary_data_needs_no_other_process() -> None:
    before = children(os.getpid())
    sent = wire.encode_request({"tile": np.repeat(PIXELS, 25, axis=0)}, ["embedding"])
    async with opened() as codec:
        request = await decode(codec, sent.body, str(sent.header_length))
        await codec.encode(
            {"embedding": np.zeros((25, 100, 100), np.float32)}, {"embedding": True}, None, "1"
        )
        assert children(os.getpid()) == before
    assert (request.inputs["tile"] == PIXELS).all()


async def test_large_json_is_read_and_written_in_another_process_which_ends() -> None:
    before = children(os.getpid())
    embedding = np.random.default_rng(2).normal(size=(1, 100, 100)).astype(np.float32)
    async with opened() as codec:
        request = await decode(codec, json_request())
        message = await codec.encode({"embedding": embedding}, {"embedding": False}, "7", "2")
        assert len(children(os.getpid())) == len(before) + 1
    assert children(os.getpid()) == before
    assert (request.inputs["tile"] == PIXELS).all()
    assert message == wire.encode_response({"embedding": embedding}, {"embedding": False}, "7", "2")


async def test_errors_come_back_as_they_are() -> None:
    async with opened() as codec:
        with pytest.raises(WireError, match="tile is float32, expected uint8"):
            await decode(codec, json_request(datatype="FP32"))


async def test_a_process_that_is_gone_is_replaced() -> None:
    before = set(children(os.getpid()))
    async with opened() as codec:
        await decode(codec, json_request())
        (process,) = set(children(os.getpid())) - before
        os.kill(process, signal.SIGKILL)
        await until_gone(process)
        with suppress(JsonUnavailable):  # when the loop has not heard of it yet
            await decode(codec, json_request())
        assert (await decode(codec, json_request())).batch == 1


async def test_one_that_cannot_be_started_is_lost_until_it_can() -> None:
    async with opened() as codec:
        with few_files(0), pytest.raises(JsonUnavailable):
            await decode(codec, json_request())
        assert (await decode(codec, json_request())).batch == 1


async def test_when_closed_it_reads_no_more_large_json_and_starts_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(json_process, "_started")
    async with opened() as codec:
        await codec.close()
        with pytest.raises(JsonUnavailable):
            await decode(codec, json_request())
        assert (await decode(codec, SMALL.body, str(SMALL.header_length))).batch == 1


async def test_a_call_that_nobody_waits_for_any_more_leaves_the_process_in_order() -> None:
    async with opened() as codec:
        await decode(codec, json_request())
        for steps in range(1, 9):
            given_up = asyncio.create_task(decode(codec, json_request()))
            for _ in range(steps):
                await asyncio.sleep(0)
            given_up.cancel()
            other = np.flip(PIXELS, axis=1)
            request = await decode(codec, json_request(other))
            assert (request.inputs["tile"] == other).all()


async def test_an_answer_of_too_many_json_numbers_is_refused() -> None:
    async with opened() as codec:
        tiles = JSON_VALUES // 10_000 + 1
        body = wire.encode_request({"tile": np.repeat(PIXELS, 25, axis=0)}, ["embedding"])
        text = body.body.replace(b'"binary_data":true', b'"binary_data":false')
        assert tiles > 25  # so more than a batch of these; of larger ones
        large = (TensorSpec("embedding", "float32", ("n", 200, 100)), OUTPUTS[1])
        with pytest.raises(WireError, match="would hold 500000 JSON numbers, at most 262144 are sent"):
            await codec.decode(
                text, str(body.header_length + 1 if body.header_length else 0), INPUTS, large, 25
            )


@pytest.mark.parametrize("binary", [True, False])
def test_what_an_answer_takes_is_known_before(binary: bool) -> None:
    values = np.full((3, 100, 100), np.finfo(np.float32).min, np.float32)
    request = wire.InferRequest({"tile": np.repeat(PIXELS, 3, axis=0)}, {"embedding": binary}, None)
    message = wire.encode_response({"embedding": values}, {"embedding": binary})
    assert len(message.body) <= answer_bytes(request, OUTPUTS) + 1000
    assert answer_bytes(request, OUTPUTS) <= len(message.body) + 1000


@pytest.mark.parametrize(
    ("header", "expected"), [(None, 99), ("7", 7), ("x", 0), ("-7", 0), ("\u0667", 0), ("9" * 5000, 0)]
)
def test_how_much_of_a_body_is_json(header: str | None, expected: int) -> None:
    assert json_bytes(header, 99) == expected
