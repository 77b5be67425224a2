"""One site as the edge sees it: honest ones, wrong ones, and every way of failing a tile."""

from __future__ import annotations

import gzip
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import numpy as np
import pytest
from aiohttp import web

from runtime.sites.client import TIMEOUTS, SiteClient, SiteTimeout, Timeouts
from runtime.sites.config import SiteConfig
from server.serve import ServeOptions, running_site
from stages import wire
from stages.bundle import Bundle
from stages.engines.backends import make_engine
from stages.errors import SiteError, SiteUnavailable, SiteUntrusted
from stages.tensors import Array
from tests.support.bundles import other_weights
from tests.support.edge import (
    QUICK,
    Behaviour,
    Impostor,
    answers_with,
    body,
    canvas_of,
    config,
    flood,
    grant_for,
    granted,
    hang_up,
    sendable,
    stall,
    status,
    window_stamp,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked_loop")]
SITE = ServeOptions(port=0, threads=1)


@asynccontextmanager
async def connected(
    bundle: Bundle, site: SiteConfig, wire_format: str = "fp16", timeouts: Timeouts = TIMEOUTS
) -> AsyncIterator[SiteClient]:
    async with SiteClient(site, bundle, wire_format, timeouts) as client:
        await client.connect(bundle.probe())
        yield client


def tile(bundle: Bundle, window: int) -> dict[str, Array]:
    return canvas_of("16:9", bundle.geometry).window_inputs([window], bundle)


@pytest.fixture(scope="module")
def embedding_of_7(mini_bundle: Bundle) -> Array:
    engine = make_engine(mini_bundle, "window", threads=1)
    engine.open()
    embedding: Array = engine.infer(tile(mini_bundle, 7), ["embedding"])["embedding"][0]
    engine.close()
    return embedding


@pytest.mark.parametrize("wire_format", ["fp16", "int8"])
async def test_a_site_gives_the_window_stages_embedding(
    mini_bundle: Bundle, embedding_of_7: Array, wire_format: str
) -> None:
    async with running_site(mini_bundle, SITE) as running:
        site = config("a", running.url)
        async with connected(mini_bundle, site, wire_format) as client:
            sent_for_probes = client.traffic.body_up
            (got,) = await client.infer([grant_for(site, 7)], sendable(tile(mini_bundle, 7)))
    assert got.dtype == np.float16
    scale = np.abs(embedding_of_7).max()
    assert np.abs(got.astype(np.float32) - embedding_of_7).max() <= (
        0 if wire_format == "fp16" else scale / 127
    )
    assert (client.tiles, client.sent, client.in_flight) == (1, {7}, 0)
    tile_bytes = mini_bundle.geometry.tile_px**2 * 3
    assert tile_bytes < client.traffic.body_up - sent_for_probes < tile_bytes + 1000
    assert 0 < client.tile_s < 10


async def test_the_fp32_bundle_travels_as_fp32(mini_bundle: Bundle, exported_fp32: Bundle) -> None:
    async with running_site(exported_fp32, SITE) as running:
        site = config("a", running.url)
        async with connected(exported_fp32, site, "fp32") as client:
            (got,) = await client.infer([grant_for(site, 7)], sendable(tile(exported_fp32, 7)))
    assert got.dtype == np.float32


async def test_a_grant_covers_one_window_of_one_site(mini_bundle: Bundle) -> None:
    impostor = Impostor(mini_bundle)
    async with impostor.running() as url:
        site = config("a", url)
        async with connected(mini_bundle, site) as client:
            for grant in (grant_for(site, 8), grant_for(config("b"), 7), granted("b", "operator-a", 7)):
                with pytest.raises(ValueError, match="not the grants of these tiles"):
                    await client.infer([grant], sendable(tile(mini_bundle, 7)))
            assert (impostor.tiles, client.sent) == ([], set())
            await client.infer([grant_for(site, 7)], sendable(tile(mini_bundle, 7)))
    assert impostor.tiles == [7]


@pytest.fixture(scope="module")
def other(mini_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return other_weights(mini_bundle, tmp_path_factory.mktemp("other"))


async def test_a_site_with_other_weights_is_named_with_both_digests(
    mini_bundle: Bundle, other: Bundle
) -> None:
    async with running_site(other, SITE) as running:
        with pytest.raises(SiteUntrusted) as caught:
            async with connected(mini_bundle, config("a", running.url)):
                pass
    assert other.site_digest in str(caught.value)
    assert mini_bundle.site_digest in str(caught.value)
    assert str(caught.value).startswith("site a: serves other weights")


async def test_the_digest_is_looked_for_in_its_own_place(mini_bundle: Bundle) -> None:
    named = {"site_digest": "sha256:other", "code": mini_bundle.site_digest}
    parameters = {name: {"string_value": value} for name, value in named.items()}
    answer = json.dumps({"parameters": parameters, "versions": ["1"]}).encode()
    async with Impostor(mini_bundle, always=body(answer)).running() as url:
        with pytest.raises(SiteUntrusted, match="serves another code"):
            async with connected(mini_bundle, config("a", url)):
                pass


@pytest.mark.parametrize("wire_format", ["fp16", "int8"])
async def test_a_site_that_names_the_digest_but_runs_other_weights_is_found_out(
    mini_bundle: Bundle, other: Bundle, wire_format: str
) -> None:
    unchecked = replace(mini_bundle, edge_files={})  # as from a copy that lacks the probe
    async with running_site(unchecked, SITE, lambda _: make_engine(other, "window", threads=1)) as running:
        with pytest.raises(SiteUntrusted, match=r"names digest sha256:.*answers the probe with a difference"):
            async with connected(mini_bundle, config("a", running.url), wire_format):
                pass


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"{}", "names no site digest"),
        (b"[]", "names no site digest"),
        (b"<html>", "names no site digest"),
        (b"[" * 100_000, "names no site digest"),
        (b'{"parameters": {"site_digest": {"string_value": null}}}', "names no site digest"),
        (b'{"parameters": {"site_digest": {"string_value": ["x"]}}}', "serves other weights"),
    ],
)
async def test_what_is_no_pedsam_site_is_excluded(mini_bundle: Bundle, answer: bytes, words: str) -> None:
    async with Impostor(mini_bundle, always=body(answer)).running() as url:
        with pytest.raises(SiteUntrusted, match=words):
            async with connected(mini_bundle, config("a", url)):
                pass


def not_finite(value: float) -> Behaviour:
    def embedding(bundle: Bundle) -> Array:
        stamp: Array = window_stamp(bundle, 7)[None].copy()
        stamp[0, 1, 2, 3] = value
        return stamp

    return answers_with(embedding)


async def compressed(site: Impostor, request: web.Request) -> web.StreamResponse:
    right = await site.answer(request)
    assert isinstance(right.body, bytes)
    headers = {**right.headers, "Content-Encoding": "gzip"}
    return web.Response(body=gzip.compress(right.body), headers=headers)


FAILURES: dict[str, tuple[Behaviour, type[SiteError], str]] = {
    "stalls": (stall, SiteTimeout, "gave no answer within 0.3 s"),
    "stays busy": (
        status(503, "full", Retry_After="1"),
        SiteTimeout,
        "within 0.3 s, only .* this now: full;",
    ),
    "500": (status(500, '{"error": "engine  broke"}'), SiteUnavailable, "answered 500: engine broke"),
    "500, at length": (
        status(500, json.dumps({"error": "engine broke" + " on" * 9999})),
        SiteUnavailable,
        "answered 500: engine broke on on",
    ),
    "404": (status(404, "\x1b[31m[/red]"), SiteUnavailable, "answered 404"),
    "302": (status(302, Location="http://127.0.0.1:1/"), SiteUnavailable, "redirects.*final url"),
    "304": (status(304, ""), SiteUnavailable, "answered 304"),
    "401": (status(401, "who?"), SiteUnavailable, "refuses this edge .401: who?.*token"),
    "204": (status(204, ""), SiteUnavailable, "answered 204"),
    "hangs up": (hang_up, SiteUnavailable, "closed the connection"),
    "floods": (flood, SiteUntrusted, "sent more than .* bytes, which no good answer has"),
    "empty": (body(b""), SiteUntrusted, "malformed answer"),
    "html": (body(b"<html>hello</html>"), SiteUntrusted, "malformed answer"),
    "no header length": (body(b'{"outputs": []}'), SiteUntrusted, "malformed answer"),
    "wrong header length": (
        body(b"{}", Inference_Header_Content_Length="99"),
        SiteUntrusted,
        "malformed answer.*99",
    ),
    "gzip all the same": (compressed, SiteUntrusted, "malformed answer"),
    "two tiles": (
        answers_with(lambda b: np.stack([window_stamp(b, 7)] * 2)),
        SiteUntrusted,
        "malformed answer.*batch 2, expected at most 1",
    ),
    "wrong shape": (
        answers_with(lambda b: window_stamp(b, 7)[None, :-1]),
        SiteUntrusted,
        "malformed answer.*shape",
    ),
    "wrong dtype": (
        answers_with(lambda b: window_stamp(b, 7)[None].astype(np.float32)),
        SiteUntrusted,
        "malformed answer.*float32, expected float16",
    ),
    "NaN": (not_finite(float("nan")), SiteUntrusted, "not finite"),
    "infinity": (not_finite(float("-inf")), SiteUntrusted, "not finite"),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_a_tile_that_fails_is_told_in_a_sentence(mini_bundle: Bundle, name: str) -> None:
    behaviour, kind, words = FAILURES[name]
    impostor = Impostor(mini_bundle, *[behaviour] * 100)
    async with impostor.running() as url:
        site = config("a", url)
        async with connected(mini_bundle, site, timeouts=QUICK) as client:
            with pytest.raises(kind, match=words) as caught:
                await client.infer([grant_for(site, 7)], sendable(tile(mini_bundle, 7)))
            assert type(caught.value) is kind
            assert re.fullmatch("site a: .*", str(caught.value))
            impostor.released.set()
            impostor.script.clear()
            (again,) = await client.infer(
                [grant_for(site, 7)], sendable(tile(mini_bundle, 7))
            )  # the client goes on
    assert np.array_equal(again, window_stamp(mini_bundle, 7))
    assert (client.tiles, client.in_flight) == (1, 0)


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize("retry_after", ["0", "soon", "Fri, 31 Dec 1999 23:59:59 GMT", None])
async def test_a_busy_site_is_asked_again(mini_bundle: Bundle, code: int, retry_after: str | None) -> None:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    impostor = Impostor(mini_bundle, status(code, "full", **headers))
    async with impostor.running() as url:
        site = config("a", url)
        async with connected(mini_bundle, site) as client:
            (got,) = await client.infer([grant_for(site, 7)], sendable(tile(mini_bundle, 7)))
    assert np.array_equal(got, window_stamp(mini_bundle, 7))
    assert impostor.tiles == [7, 7]
    assert client.tiles == 1


async def test_the_deadline_grows_with_what_is_under_way(mini_bundle: Bundle) -> None:
    """Two tiles in flight on a site of which only one may stall that long."""
    impostor = Impostor(mini_bundle, stall, stall)
    async with impostor.running() as url:
        site = config("a", url)
        async with connected(mini_bundle, site, timeouts=Timeouts(tile_s=0.05, tile_factor=1.0)) as client:
            client.tile_s = 0.2
            failures: list[str] = []

            async def send(window: int) -> None:
                try:
                    await client.infer([grant_for(site, window)], sendable(tile(mini_bundle, window)))
                except SiteUnavailable as exc:
                    failures.append(str(exc))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send, 1)
                tasks.start_soon(send, 2)
    assert [text.split("within ")[1][:5] for text in failures] == ["0.2 s", "0.4 s"]


async def test_a_slow_site_has_no_deadline_without_an_end(mini_bundle: Bundle) -> None:
    """It answered its probes as slowly as it could."""
    impostor, short = Impostor(mini_bundle, stall), Timeouts(probe_s=0.1, tile_s=0.1)
    async with impostor.running() as url:
        site = config("a", url)
        async with SiteClient(site, mini_bundle, "fp16", short) as client:
            client.tile_s = 0.2
            with pytest.raises(SiteTimeout, match=r"no answer within 0\.3 s"):
                await client.infer([grant_for(site, 7)], sendable(tile(mini_bundle, 7)))


async def test_a_cancelled_tile_leaves_nothing_behind(mini_bundle: Bundle) -> None:
    impostor = Impostor(mini_bundle, stall)
    async with impostor.running() as url:
        site = config("a", url)
        async with connected(mini_bundle, site) as client:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.infer, [grant_for(site, 7)], sendable(tile(mini_bundle, 7)))
                await impostor.seen.wait()
                assert client.in_flight == 1
                tasks.cancel_scope.cancel()
            assert (client.in_flight, client.tiles, client.sent) == (0, 0, {7})


async def test_a_closed_port_is_told_with_its_address(mini_bundle: Bundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(SiteUnavailable, match=rf"cannot be reached at 127.0.0.1:{port} \(Connect.*check url"):
        async with connected(mini_bundle, config("a", f"http://127.0.0.1:{port}")):
            pass


async def test_a_host_that_takes_no_connection_is_told_soon(mini_bundle: Bundle) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        with socket.socket() as first, socket.socket() as second:
            for waiting in (first, second):  # they fill the backlog, which nobody empties
                waiting.setblocking(False)
                waiting.connect_ex(address)
            quick = replace(QUICK, connect_s=0.1)
            with pytest.raises(SiteUnavailable, match="took no connection in time"):
                async with connected(
                    mini_bundle, config("a", f"http://127.0.0.1:{address[1]}"), timeouts=quick
                ):
                    pass


async def test_an_unknown_host_is_told(mini_bundle: Bundle) -> None:
    with pytest.raises(SiteUnavailable, match="host name cannot be resolved"):
        async with connected(mini_bundle, config("a", "https://site.invalid:8443")):
            pass


async def test_speaking_tls_to_plain_http_is_told(mini_bundle: Bundle) -> None:
    async with Impostor(mini_bundle).running() as url:
        with pytest.raises(SiteUnavailable, match="speaks plain HTTP at its https url"):
            async with connected(mini_bundle, config("a", url.replace("http:", "https:"))):
                pass


async def test_the_token_is_sent_and_no_compression_is_asked_for(mini_bundle: Bundle) -> None:
    seen: list[tuple[str | None, str | None]] = []

    async def note(site: Impostor, request: web.Request) -> web.StreamResponse:
        seen.append((request.headers.get("Authorization"), request.headers.get("Accept-Encoding")))
        return await site.answer(request)

    impostor = Impostor(mini_bundle, note)
    async with impostor.running() as url:
        site = replace(config("a", url), token="s3cret")  # noqa: S106
        async with connected(mini_bundle, site) as client:
            await client.infer([grant_for(site, 7)], sendable(tile(mini_bundle, 7)))
    assert seen == [("Bearer s3cret", "identity")]


async def test_outputs_in_another_order_and_number_are_matched_by_name(mini_bundle: Bundle) -> None:
    async def everything(site: Impostor, request: web.Request) -> web.StreamResponse:
        inputs, _ = await site.read(request)
        outputs = {
            "scale": np.ones((1, *mini_bundle.embedding_shape[:2], 1), np.float16),
            "embedding": await site.right_answer(inputs),
            "embedding_q8": np.zeros((1, *mini_bundle.embedding_shape), np.int8),
        }
        message = wire.encode_response(outputs, dict.fromkeys(outputs, True))
        return web.Response(body=message.body, headers=message.headers)

    async with Impostor(mini_bundle, everything).running() as url:
        site = config("a", url)
        async with connected(mini_bundle, site) as client:
            (got,) = await client.infer([grant_for(site, 7)], sendable(tile(mini_bundle, 7)))
    assert np.array_equal(got, window_stamp(mini_bundle, 7))
