"""How a request travels: framing, codings and the length of its header."""

from __future__ import annotations

import gzip
import zlib

from stages import wire
from tests.server.conformance.rows import (
    BODY,
    CODING,
    DIGITS,
    LENGTH,
    SENDER,
    SERVED,
    SILENT,
    TWICE,
    Row,
    infer,
    packed,
    post,
)
from tests.support.clients import INFER
from tests.support.messages import json_request
from tests.support.raw_http import chunked, http

GZIP, DEFLATE = gzip.compress(BODY), zlib.compress(BODY)
HEADLESS_DEFLATE = DEFLATE[2:-4]
JSON_ONLY = json_request(3, 7)

TRANSPORT = [
    Row("one body", post(BODY), SERVED, SERVED),
    Row("in chunks", post(chunked(BODY, 50), {"Transfer-Encoding": "chunked"}), SERVED, SERVED),
    Row(
        "chunk sizes that are no numbers",
        post(b"xyz\r\n" + BODY, {"Transfer-Encoding": "chunked"}),
        "none",
        "400",
        SILENT,
    ),
    Row(
        "chunks beside a length",
        post(chunked(BODY, 50), {"Transfer-Encoding": "chunked", "Content-Length": "10"}),
        "400 inference header size should be in range (0, 10), got: 333",
        "400",
    ),
    Row("expecting 100", post(BODY, {"Expect": "100-continue"}), SERVED, SERVED),
    Row("HTTP/1.0", post(BODY, version="1.0"), SERVED, SERVED),
    Row(
        "header names in lower case",
        http("POST", INFER, BODY, {wire.HEADER_LENGTH.lower(): LENGTH}),
        SERVED,
        SERVED,
    ),
    Row("JSON as text/plain", post(BODY, {"Content-Type": "text/plain"}), SERVED, SERVED),
    Row("JSON as a form", post(BODY, {"Content-Type": "application/x-www-form-urlencoded"}), SERVED, SERVED),
    Row(
        "a length of 0",
        http("POST", INFER, b"", {"Content-Length": "0"}),
        "400 Raw request must only have 1 input (found 1) to be deduced",
        "400 the JSON header cannot be parsed",
    ),
    Row("a length that is no number", post(BODY, {"Content-Length": "many"}), "none", "400", SILENT),
    Row("a negative length", post(BODY, {"Content-Length": "-5"}), "none", "400", SILENT),
    Row(
        "two lengths",
        post(BODY, {"Content-Length": str(len(BODY)), "content-length": "5"}),
        "400 unexpected size for request JSON, expecting 328 more bytes",
        "400",
    ),
    Row("gzip", packed(GZIP, "gzip"), SERVED, SERVED),
    Row("deflate", packed(DEFLATE, "deflate"), SERVED, SERVED),
    Row(
        "deflate without zlib's header",
        packed(HEADLESS_DEFLATE, "deflate"),
        "400 inference header size should be in range (0, 0), got: 333",
        SERVED,
        "many senders leave it out, and it unpacks to the same bytes",
    ),
    Row(
        "gzip in chunks",
        post(chunked(GZIP, 50), {"Transfer-Encoding": "chunked", "Content-Encoding": "gzip"}),
        SERVED,
        SERVED,
    ),
    Row(
        "x-gzip",
        packed(GZIP, "x-gzip"),
        "501 Unsupported compression type",
        "415 Content-Encoding 'x-gzip' is not taken; send gzip, deflate",
        CODING,
    ),
    Row("identity", post(BODY, {"Content-Encoding": "identity"}), SERVED, SERVED),
    Row(
        "gzip cut short",
        packed(GZIP[:-9], "gzip"),
        SERVED,
        "400 the body cannot be read",
        "a body without its end and its checksum may have lost anything",
    ),
    Row(
        "bytes after gzip",
        packed(GZIP + b"more", "gzip"),
        SERVED,
        "400 the body cannot be read: its Content-Encoding or its chunks",
        "they are no part of the tensors, as bytes after the last tensor are not",
    ),
    Row(
        "gzip that is none",
        post(BODY, {"Content-Encoding": "gzip"}),
        "400 inference header size should be in range (0, 0), got: 333",
        "400 the body cannot be read: its Content-Encoding or its chunks",
    ),
    Row(
        "deflate that is none",
        post(BODY, {"Content-Encoding": "deflate"}),
        "400 inference header size should be in range (0, 0), got: 333",
        "400 the body cannot be read: its Content-Encoding or its chunks",
    ),
    Row(
        "gzip of nothing",
        http("POST", INFER, gzip.compress(b""), {"Content-Encoding": "gzip"}),
        "400 Raw request must only have 1 input (found 1) to be deduced",
        "400 the JSON header cannot be parsed",
    ),
    Row(
        "an unknown encoding",
        post(BODY, {"Content-Encoding": "zip"}),
        "501 Unsupported compression type",
        "415 Content-Encoding 'zip' is not taken; send gzip, deflate or",
        CODING,
    ),
    Row(
        "gzip twice",
        packed(gzip.compress(GZIP), "gzip, gzip"),
        "501 Unsupported compression type",
        "415 Content-Encoding 'gzip, gzip' is not taken; send gzip,",
        CODING,
    ),
    Row(
        "16 MB as 16 KB of gzip",
        packed(gzip.compress(bytes(1 << 24)), "gzip"),
        "500 failed to parse the request JSON buffer: The document is",
        "413",
        "Triton unpacks all of it; here unpacking stops at the largest batch",
    ),
    Row(
        "16 MB as 16 KB of deflate",
        packed(zlib.compress(bytes(1 << 24)), "deflate"),
        "500 failed to parse the request JSON buffer: The document is",
        "413",
        "Triton unpacks all of it; here unpacking stops at the largest batch",
    ),
    Row("an answer asked as gzip", post(BODY, {"Accept-Encoding": "gzip"}), "200", SERVED),
    Row("an answer asked as deflate", post(BODY, {"Accept-Encoding": "deflate"}), "200", SERVED),
    Row("a header field of 10 KB", post(BODY, {"X-Long": "x" * 10000}), "none", "400", SILENT),
    Row(
        "a field without a colon",
        post(BODY).replace(b"Host: site", b"Host: site\r\nnonsense"),
        "none",
        "400",
        SILENT,
    ),
    Row("no HTTP", b"\x16\x03\x01\x02\x00 nothing like HTTP\r\n\r\n", "none", "400", SILENT),
]


HEADER_LENGTH = [
    Row("header length: none and all JSON", infer(JSON_ONLY), SERVED, SERVED),
    Row(
        "header length: all of an all-JSON body",
        infer((JSON_ONLY[0], str(len(JSON_ONLY[0])))),
        SERVED,
        SERVED,
    ),
    Row(
        "header length: none before binary data",
        infer((BODY, None)),
        "500 failed to parse the request JSON buffer: The document root",
        "400 the JSON header cannot be parsed",
        SENDER,
    ),
    Row(
        "header length: 0",
        post(BODY, {wire.HEADER_LENGTH: "0"}),
        "400 Raw request must only have 1 input (found 1) to be deduced",
        "400 Inference-Header-Content-Length must be a positive number",
    ),
    Row(
        "header length: negative",
        post(BODY, {wire.HEADER_LENGTH: "-5"}),
        "400 inference header size should be in range (0, 437), got: -5",
        "400 Inference-Header-Content-Length must be a positive number",
    ),
    Row(
        "header length: empty",
        post(BODY, {wire.HEADER_LENGTH: ""}),
        "400 Raw request must only have 1 input (found 1) to be deduced",
        "400 Inference-Header-Content-Length must be a positive number",
    ),
    Row(
        "header length: with a sign",
        post(BODY, {wire.HEADER_LENGTH: "+" + LENGTH}),
        SERVED,
        "400 Inference-Header-Content-Length must be a positive number",
        DIGITS,
    ),
    Row(
        "header length: in words",
        post(BODY, {wire.HEADER_LENGTH: "ten"}),
        "400 Raw request must only have 1 input (found 1) to be deduced",
        "400 Inference-Header-Content-Length must be a positive number",
    ),
    Row(
        "header length: a number and words",
        post(BODY, {wire.HEADER_LENGTH: LENGTH + " bytes"}),
        SERVED,
        "400 Inference-Header-Content-Length must be a positive number",
        DIGITS,
    ),
    Row(
        "header length: with zeros before", post(BODY, {wire.HEADER_LENGTH: "0000" + LENGTH}), SERVED, SERVED
    ),
    Row(
        "header length: 5000 digits",
        post(BODY, {wire.HEADER_LENGTH: "9" * 5000}),
        "400 inference header size should be in range (0, 437), got:",
        "400 Inference-Header-Content-Length must be a positive number",
    ),
    Row(
        "header length: 2^32 more than it is",
        post(BODY, {wire.HEADER_LENGTH: str(2**32 + int(LENGTH))}),
        SERVED,
        "400 Inference-Header-Content-Length is 4294967629, this body",
        "Triton counts modulo 2^32",
    ),
    Row(
        "header length: 2^64 more than it is",
        post(BODY, {wire.HEADER_LENGTH: str(2**64 + int(LENGTH))}),
        "400 inference header size should be in range (0, 437), got:",
        "400 Inference-Header-Content-Length must be a positive number",
    ),
    Row(
        "header length: past the end",
        post(BODY, {wire.HEADER_LENGTH: str(len(BODY) + 1)}),
        "400 inference header size should be in range (0, 437), got: 438",
        "400 Inference-Header-Content-Length is 438, this body has 437",
    ),
    Row(
        "header length: all of the body",
        post(BODY, {wire.HEADER_LENGTH: str(len(BODY))}),
        "500 failed to parse the request JSON buffer: The document root",
        "400 the JSON header cannot be parsed",
        SENDER,
    ),
    Row(
        "header length: too short",
        post(BODY, {wire.HEADER_LENGTH: "10"}),
        "500 failed to parse the request JSON buffer: Invalid value. at",
        "400 the JSON header cannot be parsed",
        SENDER,
    ),
    Row(
        "header length: twice",
        post(BODY, {wire.HEADER_LENGTH.lower(): "10"}),
        SERVED,
        "400 Inference-Header-Content-Length is given 2 times; send it once",
        TWICE,
    ),
    Row(
        "header length: 0 and the bytes of one tensor",
        post(bytes(96), {wire.HEADER_LENGTH: "0"}),
        "400 Raw request must only have 1 input (found 1) to be deduced",
        "400 Inference-Header-Content-Length must be a positive number",
    ),
]
