"""HTTP as bytes: what a client library would tidy up goes out as it is, and what comes back is all seen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import anyio

from stages import wire

PATIENCE_S = 60.0  # for any answer, on a busy machine


@dataclass(frozen=True)
class Reply:
    """One response; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def fact(self) -> str:
        """What it says, in a line: status, then the error, the outputs, or the body."""
        return f"{self.status} {' '.join(self._words().split())}".rstrip()

    def _words(self) -> str:
        if "content-encoding" in self.headers:
            return f"in {self.headers['content-encoding']}"
        length = int(self.headers.get(wire.HEADER_LENGTH.lower(), len(self.body)))
        try:
            said = json.loads(self.body[:length])
        except ValueError:
            return self.body.decode("latin-1")
        if isinstance(said, dict) and "model_version" in said:
            return _outputs(said)
        return str(said.get("error", ",".join(said))) if isinstance(said, dict) else str(said)


def _outputs(said: Mapping[str, Any]) -> str:
    """Outputs by name (servers have their own order), how each was sent, and the id."""
    form = sorted(f"{each['name']}:{'JSON' if 'data' in each else 'binary'}" for each in said["outputs"])
    return " ".join([*form, *([f"id={said['id']!r}"] if "id" in said else [])])


def http(
    method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, version: str = "1.1"
) -> bytes:
    """A request; Content-Length is added where neither it nor a Transfer-Encoding is given."""
    sent = {"Host": "site", **(headers or {})}
    if body and not {"Content-Length", "Transfer-Encoding"} & sent.keys():
        sent["Content-Length"] = str(len(body))
    lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in sent.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(body: bytes, size: int) -> bytes:
    """A body in chunks of `size` bytes."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])


async def exchange(url: str, request: bytes, half_close: bool = False) -> Reply | None:
    """The answer to these bytes, after which the sender says no more; None: hung up without one.

    `half_close`: it says that it says no more, by closing its half of the connection.
    """
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        with anyio.fail_after(PATIENCE_S):
            writer.write(request)
            if b"Expect: 100" not in request.partition(b"\r\n\r\n")[0]:
                await writer.drain()
            if half_close:
                writer.write_eof()
            return await read_reply(reader, no_body=request.startswith(b"HEAD"))
    except (ConnectionError, asyncio.IncompleteReadError):
        return None
    finally:
        writer.close()


async def read_reply(reader: asyncio.StreamReader, no_body: bool = False) -> Reply:
    """The next response that is not "100 Continue"."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    headers.pop("", None)
    status = int(first.split()[1])
    if status == 100:
        return await read_reply(reader, no_body)
    return Reply(status, headers, b"" if no_body else await _body(reader, headers))


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    if headers.get("transfer-encoding") == "chunked":
        return await _chunks(reader)
    return await reader.read()


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    return body
