"""Weights rolled without a gap: sites serve old and new at once, and the edge switches last."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import anyio
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from runtime.encoder import ImageEncoder, LocalWindows
from runtime.frames.canvas import Canvas
from runtime.sites.client import SiteClient
from runtime.sites.windows import open_sites
from server.serve import RunningSite, ServeOptions, running_site
from stages import wire
from stages.bundle import Bundle
from stages.errors import SiteUnavailable, SiteUntrusted
from stages.tensors import Array
from tests.support.bundles import other_weights
from tests.support.edge import (
    PATIENT,
    SOON,
    Impostor,
    canvas_of,
    config,
    edge_engines,
    grant_for,
    ledger_for,
    sendable,
    status,
)
from tests.support.scenes import embeddings_of

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked_loop")]


@pytest.fixture(scope="module")
def old(mini_bundle: Bundle) -> Bundle:
    return mini_bundle


@pytest.fixture(scope="module")
def new(mini_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return other_weights(mini_bundle, tmp_path_factory.mktemp("new"))


@pytest.fixture(scope="module")
def canvas(old: Bundle) -> Canvas:
    """Made outside the event loop, which the first reading of a photograph would block."""
    return canvas_of("16:9", old.geometry)


def site_of(bundles: Sequence[Bundle], port: int = 0) -> AbstractAsyncContextManager[RunningSite]:
    return running_site(bundles, ServeOptions(port=port, threads=1))


def port_of(site: RunningSite) -> int:
    return int(site.url.rpartition(":")[2])


@asynccontextmanager
async def client_of(bundle: Bundle, url: str) -> AsyncIterator[SiteClient]:
    async with SiteClient(config("a", url), bundle, "fp16", PATIENT) as client:
        yield client


async def embed(client: SiteClient, canvas: Canvas, bundle: Bundle) -> Array:
    embeddings = await client.infer(
        [grant_for(client.config, 7)], sendable(canvas.window_inputs([7], bundle))
    )
    embedding: Array = embeddings[0]
    return embedding


async def locally(bundle: Bundle, canvas: Canvas, windows: Sequence[int]) -> dict[int, Array]:
    """Embeddings from an engine of this bundle in this process."""
    async with edge_engines(bundle, ("window",)) as engines:
        local = LocalWindows(bundle, engines, "fp16")
        return {each: await local.embed(each, canvas.window_inputs([each], bundle)) for each in windows}


def is_same(a: Array, b: Array) -> bool:
    """To the rounding of other batches; other weights differ by most of the scale."""
    return bool(np.abs(a.astype(np.float32) - b).max() <= 0.01 * np.abs(b).max())


# One site


async def test_each_edge_finds_its_own_weights(old: Bundle, new: Bundle, canvas: Canvas) -> None:
    truth = {bundle.site_digest: (await locally(bundle, canvas, [7]))[7] for bundle in (old, new)}
    assert not is_same(*truth.values())
    for order in ([old, new], [new, old]):
        async with site_of(order) as site:
            for bundle in (old, new):
                async with client_of(bundle, site.url) as client:
                    await client.connect(bundle.probe())
                    assert is_same(await embed(client, canvas, bundle), truth[bundle.site_digest])


async def test_a_site_started_again_with_other_weights_answers_no_tile_of_an_edge_that_has_not_noticed(
    old: Bundle, new: Bundle, canvas: Canvas
) -> None:
    """Between two frames nothing else tells the edge: its next tile goes to the new process."""
    truth = (await locally(old, canvas, [7]))[7]
    async with site_of([old]) as site:
        port = port_of(site)
        client = await (opened := client_of(old, site.url)).__aenter__()
        await client.connect(old.probe())
        assert is_same(await embed(client, canvas, old), truth)
    async with site_of([old, new], port) as site:
        with pytest.raises(SiteUnavailable, match="no longer serves these weights under this version"):
            await embed(client, canvas, old)
        assert site.state.versions["2"].statistics.tiles == 0
        await client.connect(old.probe())
        assert is_same(await embed(client, canvas, old), truth)
        assert site.state.versions["1"].statistics.tiles > 0
    async with site_of([new], port):
        with pytest.raises(SiteUnavailable, match="no longer serves these weights"):
            await embed(client, canvas, old)
        with pytest.raises(SiteUntrusted, match="serves other weights"):
            await client.connect(old.probe())
    await opened.__aexit__(None, None, None)


async def test_without_its_weights_an_edge_names_all_digests(mini_bundle: Bundle, new: Bundle) -> None:
    async with site_of([mini_bundle, new]) as site:
        other = replace(mini_bundle, pixel_mean=(0.0, 0.0, 0.0))
        with pytest.raises(SiteUntrusted) as caught:
            async with client_of(other, site.url) as client:
                await client.connect(mini_bundle.probe())
    assert str(caught.value) == (
        f"site a: serves other weights: its site digests are {new.site_digest}, {mini_bundle.site_digest}, "
        f"this bundle's is {other.site_digest}; give both the same bundle"
    )


# Frames, while the site is rolled


async def test_no_frame_is_lost_or_wrong_while_a_site_is_rolled(
    old: Bundle, new: Bundle, canvas: Canvas
) -> None:
    truth = await locally(old, canvas, canvas.windows)
    said: list[str] = []

    async def frame(encoder: ImageEncoder) -> None:
        embeddings = await embeddings_of(encoder, canvas)
        assert all(is_same(embeddings[window], truth[window]) for window in canvas.windows)

    async with edge_engines(old, ("window",)) as engines:
        async with site_of([old]) as site:
            port, own = port_of(site), config("a", site.url)
            client = SiteClient(own, old, "fp16", PATIENT)
            ledger = ledger_for([own], 25)
            local = LocalWindows(old, engines, "fp16")
            session = open_sites(
                old, [client], ledger, canvas.windows, said.append, window_engine=True, reconnect_s=SOON
            )
            encoder = ImageEncoder(old, engines, await session.__aenter__(), local)
            await frame(encoder)
        await frame(encoder)  # nobody answers: the edge's own engine does
        async with site_of([old, new], port) as site:
            with anyio.fail_after(60):
                while not any("is back" in line for line in said):
                    await frame(encoder)
            await frame(encoder)
            assert site.state.versions["1"].statistics.tiles >= len(canvas.windows)
            assert site.state.versions["2"].statistics.tiles == 0
            async with client_of(new, site.url) as switched:
                await switched.connect(new.probe())
                assert is_same(await embed(switched, canvas, new), (await locally(new, canvas, [7]))[7])
            await session.__aexit__(None, None, None)


# What a site may say of its versions


def versions_site(listed: object, asked: list[str]) -> web.Application:
    """A site that lists these versions and notes whose config it was asked for; all have other weights."""

    async def model(request: web.Request) -> web.Response:
        return web.json_response({"versions": listed})

    async def version_config(request: web.Request) -> web.Response:
        asked.append(request.match_info.get("version", ""))
        return web.json_response({"parameters": {"site_digest": {"string_value": "another"}}})

    app = web.Application()
    app.router.add_get("/v2/models/window", model)
    app.router.add_get("/v2/models/window/config", version_config)
    app.router.add_get("/v2/models/window/versions/{version:.*}/config", version_config)
    return app


@pytest.mark.parametrize(
    ("listed", "looked_at"),
    [
        ([str(number) for number in range(1, 1000)], [str(number) for number in range(999, 991, -1)]),
        (["2", "10", "1"], ["10", "2", "1"]),
        (["1", "1", "1"], ["1"]),
        (["../../secret", "1/../2", "0", "-1", "01", "x", "", "9" * 100], []),
        ([1, 2], []),
        ("12", []),
        ({}, []),
        (None, []),
    ],
)
async def test_only_few_versions_are_looked_at_and_only_numbers(
    mini_bundle: Bundle, listed: object, looked_at: list[str]
) -> None:
    asked: list[str] = []
    async with (
        TestServer(versions_site(listed, asked)) as server,
        client_of(mini_bundle, str(server.make_url("")).rstrip("/")) as client,
    ):
        with pytest.raises(SiteUntrusted, match="serves other weights: its site digest is another, this"):
            await client.connect(mini_bundle.probe())
    assert asked == ["", *looked_at]
    assert len(asked) <= 1 + wire.MAX_VERSIONS


async def test_a_site_that_is_loading_is_tried_again_later(mini_bundle: Bundle) -> None:
    site = Impostor(mini_bundle, always=status(503, "this site is loading its engine; try again later"))
    async with site.running() as url, client_of(mini_bundle, url) as client:
        with pytest.raises(SiteUnavailable, match="does not serve this now: this site is loading its engine"):
            await client.connect(mini_bundle.probe())
        site.always = None
        await client.connect(mini_bundle.probe())
