"""Bytes that are almost an answer of HTTP, on a real socket."""

from __future__ import annotations

from random import Random

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.sites.client import SiteClient
from stages.bundle import Bundle
from stages.errors import SiteError
from tests.support.edge import PATIENT, config
from tests.support.raw_sites import CONFIG, RawSite, chunked, digest, http

ANSWERS = (
    digest(b'"x"'),
    chunked(b"2\r\n{}\r\n0\r\nX: y\r\n\r\n"),
    http("503 no", b"Retry-After: 1", body=b"full"),
    http("200 OK", b"Content-Encoding: gzip", b"Set-Cookie: a=b", b"Connection: close", body=b"{}"),
    b"HTTP/1.1 100 Continue\r\n\r\n" + http(body=b"{}"),
    http("302 x", b"Location: /y"),
    http("101 x", b"Upgrade: websocket", b"Connection: upgrade"),
    b"HTTP/1.0 200 OK\r\n\r\n{}",
)
TOKENS = (
    b"\r\n", b"\n", b"\0", b":", b" ", b"\t", b";", b"-", b"+", b"\xff", b"\xc2\xb2", b"\x1b[2J",
    b"9" * 30, b"x" * 9000, b"HTTP/1.1 100 C\r\n\r\n", b"Keep-Alive: timeout=\xb2\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n", b"Content-Encoding: br\r\n", b"HTTP/",
    b"Connection: upgrade\r\n", b"Upgrade: h2c\r\n", b"Content-Type: \xff;charset=\xfe\r\n", b"0\r\n\r\n",
)  # fmt: skip


def spliced(random: Random) -> bytes:
    """An answer with up to four places overwritten."""
    data = random.choice(ANSWERS)
    for _ in range(random.randint(1, 4)):
        start = random.randint(0, len(data))
        stop = start + random.choice((0, 0, 1, 2, 8, 40))
        new = random.choice(TOKENS) if random.random() < 0.7 else random.randbytes(random.randint(0, 5))
        data = data[:start] + new + data[stop:]
    return data


async def refusal(bundle: Bundle, answer: bytes) -> str:
    """What is said of a site that answers this when it is asked for its digest."""
    site = RawSite(bundle, CONFIG, answer)
    async with site.running() as url, SiteClient(config("a", url), bundle, "fp16", PATIENT) as client:
        try:
            await client.check_digest()
        except SiteError as exc:
            return str(exc)
    return ""


@given(st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_whatever_comes_is_foreseen_and_told_in_a_sentence(mini_bundle: Bundle, random: Random) -> None:
    said = anyio.run(refusal, mini_bundle, spliced(random))
    assert said.startswith("site a: ")
    assert said.isprintable()
    assert len(said) < 1000
    assert "not foreseen" not in said
    assert "the request failed" not in said
