"""The log of a site: its two forms, its events, and that nothing of a sender is in it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from server.logs import facts, logging_to
from stages import wire
from stages.bundle import Bundle
from stages.errors import EngineError
from tests.support.clients import INFER, connected
from tests.support.fakes import FakeEngine, fake_site
from tests.support.keys import keys_for, site_at
from tests.support.messages import request
from tests.support.processes import serving

log = logging.getLogger("pedsam.site")
SECRET = "5ecret"  # noqa: S105 (what senders write everywhere)
TIME = r"2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def logged(form: str | None = "json", stream: io.StringIO | None = None) -> Iterator[list[str]]:
    """The lines that were logged, once the block has ended."""
    stream = stream or io.StringIO()
    lines: list[str] = []
    with logging_to(stream, form):
        yield lines
    lines += stream.getvalue().splitlines()


def failure(exc: Exception) -> Exception:
    """The exception with a traceback."""
    try:
        raise exc
    except type(exc) as caught:
        return caught


# The two forms


def test_json_is_an_object_a_line_with_time_level_event_and_fields() -> None:
    with logged() as lines:
        log.info("version %d is\nloaded", 2, extra=facts("version_loaded", version=2))
    (entry,) = map(json.loads, lines)
    assert re.fullmatch(TIME, entry.pop("time"))
    assert entry == {
        "level": "info",
        "event": "version_loaded",
        "message": "version 2 is loaded",
        "version": 2,
    }


def test_text_holds_complaints_only() -> None:
    with logged("text") as lines:
        log.info("all is well", extra=facts("ready"))
        log.warning("the certificate ends", extra=facts("certificate_expires", days=3))
    (line,) = lines
    assert re.fullmatch(r"2\d{3}-\d\d-\d\d \d\d:\d\d:\d\dZ warning: the certificate ends", line)


@pytest.mark.parametrize(("stream", "is_json"), [(io.StringIO(), True), (Terminal(), False)])
def test_by_default_a_terminal_gets_text_and_everything_else_json(stream: io.StringIO, is_json: bool) -> None:
    with logged(None, stream) as lines:
        log.warning("one", extra=facts("one"))
    assert lines[0].startswith("{") == is_json


@pytest.mark.parametrize("form", ["json", "text"])
def test_an_exception_is_told_by_its_kind_and_places(form: str) -> None:
    with logged(form) as lines:
        log.error("a request failed", exc_info=failure(ValueError(SECRET)), extra=facts("request_failed"))
    (line,) = lines
    assert "ValueError" in line
    assert re.search(r"test_logs\.py:\d+", line)
    assert SECRET not in line


def test_what_this_project_says_of_an_error_is_kept() -> None:
    with logged() as lines:
        log.error("a request failed", exc_info=failure(EngineError("the device is\non fire")))
    (entry,) = map(json.loads, lines)
    assert entry["error"] == "EngineError: the device is on fire"


@pytest.mark.parametrize("form", ["json", "text"])
def test_text_of_other_libraries_is_left_out(form: str) -> None:
    with logged(form) as lines:
        logging.getLogger("asyncio").error("of %s", SECRET, exc_info=failure(KeyError(SECRET)))
        logging.getLogger("aiohttp.server").info("not even asked for")
    (line,) = lines
    assert SECRET not in line
    assert "asyncio logged this at test_logs:" in line


def test_afterwards_logging_is_as_it_was() -> None:
    before = (log.getEffectiveLevel(), list(logging.getLogger().handlers))
    with logged():
        assert (log.getEffectiveLevel(), list(logging.getLogger().handlers)) != before
    assert (log.getEffectiveLevel(), list(logging.getLogger().handlers)) == before


# Events


@pytest.mark.anyio
async def test_a_site_tells_its_life_and_its_failures() -> None:
    with logged() as lines:
        async with connected(FakeEngine(failures={"infer": ZeroDivisionError(SECRET)})) as client:
            assert (await client.infer(1)).status == 500
            for _ in range(3):
                assert (await client.ask("GET", f"/{SECRET}")).status == 404
    entries = [json.loads(line) for line in lines]
    assert [entry["event"] for entry in entries] == [
        "listening",
        "version_loaded",
        "request_failed",
        "refused",
        "drained",
        "refused",
    ]
    assert entries[1]["message"].startswith("version 1, tiny (untrained weights), fake 1.0 on nothing, runs")
    assert entries[2]["error"] == "ZeroDivisionError"
    assert any(place.startswith("batcher.py:") for place in entries[2]["at"])
    assert [entry.get("count") for entry in entries[3:]] == [1, None, 2]
    assert SECRET not in "".join(lines)


@pytest.mark.anyio
async def test_handshakes_and_tokens_that_are_refused_are_told(tmp_path: Path) -> None:
    with logged() as lines:
        async with fake_site(keys=keys_for(tmp_path)) as site:
            config = site_at(site.url, tmp_path / "a")
            async with (
                aiohttp.ClientSession() as session,
                session.get(site.url + "/v2", ssl=config.ssl_context() or False) as answer,
            ):
                assert answer.status == 401
            assert await send_raw(site.url, b"GET /v2 HTTP/1.1\r\n\r\n") == b""  # not TLS at all
            assert site.state.refusals.counts == {"token": 1, "tls_handshake": 1}
    reasons = [entry["reason"] for entry in map(json.loads, lines) if entry["event"] == "refused"]
    assert reasons == ["token", "tls_handshake"]


# Nothing of a sender


async def send_secrets(url: str, **tls: Any) -> set[int]:
    """Everything a client chooses, with the secret in it; the statuses that came back.

    Each on a connection of its own: a site that refuses a body unread hangs up.
    """

    def infer(head_change: dict[str, Any], **fields: Any) -> tuple[bytes, dict[str, str]]:
        body, length = request(lambda head: head["inputs"][0].update(head_change), SECRET.encode(), **fields)
        return body, {wire.HEADER_LENGTH: str(length)}

    asked = [
        ("GET", f"/{SECRET}?{SECRET}={SECRET}", b"", {SECRET: SECRET, "User-Agent": SECRET}),
        ("GET", f"/v2/models/{SECRET}/versions/{SECRET}", b"", {"Referer": SECRET, "Host": SECRET}),
        ("GET", f"/v2/models/window/versions/{SECRET}/config", b"", {"Cookie": f"{SECRET}={SECRET}"}),
        ("GET", "/v2", b"", {"Authorization": f"Bearer {SECRET}"}),
        ("DELETE", INFER, SECRET.encode(), {"Content-Type": SECRET}),
        ("POST", INFER, SECRET.encode() * 1000, {"If-Match": f'"{SECRET}"'}),
        ("POST", INFER, SECRET.encode(), {wire.HEADER_LENGTH: SECRET}),
        ("POST", INFER, SECRET.encode(), {"Content-Encoding": "gzip"}),
        ("POST", INFER, SECRET.encode(), {"X-Request-Id": SECRET}),
        ("POST", INFER, *infer({"name": SECRET})),
        ("POST", INFER, *infer({"datatype": SECRET, "shape": [SECRET]})),
        ("POST", INFER, *infer({"parameters": {SECRET: SECRET}}, id=SECRET, parameters={SECRET: SECRET})),
        ("POST", INFER, *infer({}, id=SECRET, outputs=[{"name": SECRET}])),
    ]
    statuses = set()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        for method, path, body, headers in asked:
            async with session.request(method, url + path, data=body, headers=headers, **tls) as answer:
                statuses.add(answer.status)
    return statuses


async def send_raw(url: str, message: bytes, **tls: Any) -> bytes:
    host, _, port = url.rpartition("/")[2].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), **tls)
    writer.write(message)
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.anyio
@pytest.mark.parametrize("form", ["json", "text"])
async def test_a_site_prints_nothing_that_a_sender_chose(mini_bundle: Bundle, form: str) -> None:
    with serving(mini_bundle.path, "--log", form) as site:
        assert await send_secrets(site.url) == {400, 404, 405, 412, 200}
        for message in (SECRET, f"{SECRET} / HTTP/1.1\r\n\r\n", f"GET / HTTP/1.1\r\n{SECRET}\0: x\r\n\r\n"):
            await send_raw(site.url, message.encode() + b"\r\n\r\n")
        site.process.terminate()
        code, errors = site.wait()
    assert code == 0
    everything = "\n".join([*site.lines, errors, json.dumps(site.log)])
    assert SECRET not in everything
    assert "malformed" in everything  # it did tell of them
    assert "unknown_path" in everything
    assert "no_http" in everything


@pytest.mark.anyio
async def test_a_site_with_keys_prints_no_token_and_no_server_name(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    keys = keys_for(tmp_path)
    with serving(mini_bundle.path, "--keys", str(keys), "--log", "json") as site:
        config = site_at(site.url, keys)
        context = config.ssl_context()
        assert context is not None
        assert config.token
        headers = {"Authorization": f"Bearer {config.token}"}
        assert await send_secrets(site.url, ssl=context) == {401}
        async with (
            aiohttp.ClientSession() as session,
            session.get(site.url + "/v2", ssl=context, headers=headers) as answer,
        ):
            assert answer.status == 200
        context.check_hostname = False
        message = f"GET /{SECRET} HTTP/1.1\r\nConnection: close\r\nHost: {SECRET}\r\n\r\n".encode()
        answered = await send_raw(site.url, message, ssl=context, server_hostname=f"{SECRET}.org")
        assert answered.startswith(b"HTTP/1.1 401")
        site.process.terminate()
        code, errors = site.wait()
    everything = "\n".join([*site.lines, errors, json.dumps(site.log)])
    assert code == 0
    assert SECRET not in everything
    assert config.token not in everything
    assert "token" in {entry.get("reason") for entry in site.log}
