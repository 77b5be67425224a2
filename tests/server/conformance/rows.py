"""What a row of the conformance tables is, and what the rows are made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stages import wire
from tests.support.clients import INFER
from tests.support.messages import Message, request
from tests.support.raw_http import http


@dataclass(frozen=True)
class Row:
    """One request, and how the answers of Triton 2.51 and of our site begin: status, then words.

    "none" is a connection that is closed without an answer. Where the statuses differ `why` is the reason.
    """

    name: str
    request: bytes
    triton: str
    ours: str
    why: str = ""


# Reasons that several rows have.
SENDER = "a malformed message is its sender's fault: 4xx, where 500 would blame the site"
SILENT = "Triton hangs up without a word"
HEAD_ASKED = "HTTP lets HEAD be asked wherever GET is; load balancers do"
EXTENSION = "an extension of Triton's that our metadata does not name"
CODING = "415 is HTTP's status for a coding that is not taken"
DIGITS = "Triton reads the digits it finds; a length is digits and nothing else"
UTF8 = "JSON is UTF-8; Triton echoes the bytes in an answer that then is none"
TWICE = "parsers differ in which one they keep: a proxy could see another request than the site"
NUMBERED = "some clients number their requests"
WRAPS = "Triton drops bits or nesting and answers for other values than were sent"
BOUNDS = "Triton does not know which values the graph can index with"
OFFERED = "an extension that is not offered here, and ignoring it would answer something else than was asked"

SERVED = "200 embedding_q8:JSON"
BODY = request()[0]  # two tiles; tile and index binary, extent JSON; embedding_q8 asked as JSON
LENGTH = str(request()[1])
HEADER, TENSORS_BYTES = BODY[: int(LENGTH)], BODY[int(LENGTH) :]


def post(body: bytes, headers: Mapping[str, str] | None = None, version: str = "1.1") -> bytes:
    """An inference request whose header is as long as BODY's, if `headers` do not say otherwise."""
    return http("POST", INFER, body, {wire.HEADER_LENGTH: LENGTH, **(headers or {})}, version)


def packed(body: bytes, encoding: str) -> bytes:
    """An inference request under a Content-Encoding."""
    return post(body, {"Content-Encoding": encoding})


def infer(message: Message, path: str = INFER) -> bytes:
    body, length = message
    return http("POST", path, body, {} if length is None else {wire.HEADER_LENGTH: length})


def says(name: str, message: Message, triton: str, ours: str, why: str = "") -> Row:
    """A row about a message."""
    return Row(name, infer(message), triton, ours, why)


def with_header(header: bytes) -> Message:
    """BODY under another JSON header."""
    return header + TENSORS_BYTES, str(len(header))
