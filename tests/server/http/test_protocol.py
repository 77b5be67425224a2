"""What aiohttp refuses itself is answered as everything else is, in JSON."""

from __future__ import annotations

import json

import pytest

from tests.support.clients import connected, dial

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked_loop")]


@pytest.mark.parametrize(
    ("head", "status", "words"),
    [
        (b"POST /v2 HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4", 400, "is no HTTP that can be read"),
        (b"\x16\x03\x01 nothing", 400, "is no HTTP that can be read"),
        (b"GET /v2 HTTP/1.1\r\nHost: x\r\nExpect: a miracle", 417, "Expect is something else"),
        (b"GET /v3 HTTP/1.1\r\nHost: x\r\nExpect: a miracle", 417, "Expect is something else"),
    ],
)
async def test_refusals_of_the_parser_are_json(head: bytes, status: int, words: str) -> None:
    async with connected() as client:
        reader, writer = await dial(client.site)
        writer.write(head + b"\r\nConnection: close\r\n\r\n")
        first, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
    assert first.split(b" ")[1] == str(status).encode()
    assert b"Content-Type: application/json" in first
    (error,) = json.loads(body).values()
    assert words in error
    assert "\n" not in error
