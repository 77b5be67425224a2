"""A bundle with coded tiles through the edge and real sites: split = whole, lengths, sites of other codes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

import numpy as np
import pytest

from runtime.encoder import ImageEncoder, local_encoder
from runtime.frames.canvas import Canvas, make_canvas
from runtime.sites.client import SiteClient
from runtime.sites.traffic import Traffic
from runtime.sites.windows import open_sites
from server.serve import ServeOptions, running_site
from stages.bundle import Bundle
from stages.errors import SiteUnavailable, SiteUntrusted
from tests.support.bundles import tiny_bundle
from tests.support.edge import PATIENT, canvas_of, config, edge_engines, grant_for, ledger_for, sendable
from tests.support.pictures import SHAPES, photo

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def coded(request: pytest.FixtureRequest) -> Bundle:
    return tiny_bundle(request.config, "dct:10/3")


@pytest.fixture(scope="module")
def coarser(request: pytest.FixtureRequest) -> Bundle:
    """The same weights in another code."""
    return tiny_bundle(request.config, "dct:6/3")


def black_and_white(bundle: Bundle) -> Canvas:
    picture = np.zeros((360, 640, 3), np.uint8)
    picture[::2] = 255
    return make_canvas(picture, bundle.geometry)


async def through_sites(
    bundle: Bundle, canvases: Sequence[Canvas]
) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """Image embeddings of the canvases through one real site, and bytes of bodies up and down for each."""
    embeddings, sizes = [], []
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(running_site(bundle, ServeOptions(port=0, threads=1)))
        site_config = config("a", site.url)
        client = SiteClient(site_config, bundle, "fp32", PATIENT)
        ledger, windows = ledger_for([site_config], 25), canvases[0].windows
        engines = await stack.enter_async_context(edge_engines(bundle, ("global",)))
        sites = open_sites(bundle, [client], ledger, windows, print, window_engine=False)
        encoder = ImageEncoder(bundle, engines, await stack.enter_async_context(sites), None)
        for canvas in canvases:
            before = client.traffic + Traffic()
            embeddings.append(await encoder.encode(canvas))
            sent = client.traffic - before
            sizes.append((sent.body_up, sent.body_down))
    return embeddings, sizes


async def test_split_equals_whole(coded: Bundle) -> None:
    async with (
        edge_engines(coded, ("window", "global", "whole")) as engines,
        local_encoder(coded, engines, "fp32") as encoder,
    ):
        for shape in SHAPES:
            canvas = canvas_of(shape, coded.geometry)
            split = await encoder.encode(canvas)
            whole = (await engines.infer("whole", canvas.whole_inputs(coded)))["image_embedding"]
            assert whole.std() > 0.1
            assert np.abs(split - whole).max() <= 1e-4, shape


async def test_very_different_pictures_take_equally_many_bytes_and_a_site_computes_what_the_edge_does(
    coded: Bundle,
) -> None:
    canvases = [canvas_of("16:9", coded.geometry), black_and_white(coded)]
    embeddings, (one, other) = await through_sites(coded, canvases)
    assert one == other
    tiles = len(canvases[0].windows) * coded.tiles.tile_bytes(coded.geometry)
    assert tiles < one[0] < tiles + 1000 * len(canvases[0].windows)
    assert one[1] > coded.padding_embeddings()[list(canvases[0].windows)].nbytes
    async with (
        edge_engines(coded, ("window", "global")) as engines,
        local_encoder(coded, engines, "fp32") as encoder,
    ):
        for canvas, embedding in zip(canvases, embeddings, strict=True):
            assert np.abs(embedding - await encoder.encode(canvas)).max() <= 1e-4


async def test_the_code_loses_detail_and_not_the_picture(coded: Bundle, coarser: Bundle) -> None:
    canvas = make_canvas(photo("16:9"), coded.geometry)
    found = []
    for bundle in (coded, coarser):
        async with (
            edge_engines(bundle, ("window", "global")) as engines,
            local_encoder(bundle, engines, "fp32") as encoder,
        ):
            found.append(await encoder.encode(canvas))
    difference = np.sqrt(np.mean((found[0] - found[1]) ** 2)) / found[0].std()
    assert 1e-4 < difference < 0.5


async def test_a_site_that_serves_another_code_is_refused_and_both_are_named(
    coded: Bundle, coarser: Bundle
) -> None:
    assert coded.site_digest != coarser.site_digest
    async with (
        running_site(coarser, ServeOptions(port=0, threads=1)) as site,
        SiteClient(config("a", site.url), coded, "fp32", PATIENT) as client,
    ):
        with pytest.raises(SiteUntrusted) as caught:
            await client.connect(coded.probe())
    assert str(caught.value) == (
        "site a: serves another code: dct:6/3 tiles, 24 components a token, and this bundle's is "
        "dct:10/3 tiles, 24 components a token; give both the same bundle"
    )


async def test_while_edges_change_over_a_site_serves_both_codes_as_versions(
    coded: Bundle, coarser: Bundle
) -> None:
    async with running_site([coarser, coded], ServeOptions(port=0, threads=1)) as site:
        for bundle in (coarser, coded):
            canvas = canvas_of("16:9", bundle.geometry)
            async with SiteClient(config("a", site.url), bundle, "fp32", PATIENT) as client:
                await client.connect(bundle.probe())
                (got,) = await client.infer(
                    [grant_for(client.config, 0)], sendable(canvas.window_inputs([0], bundle))
                )
            async with edge_engines(bundle, ("window",)) as engines:
                own = await engines.infer("window", canvas.window_inputs([0], bundle), ["embedding"])
            assert np.abs(got - own["embedding"][0]).max() < 1e-4 * np.abs(got).max()
    assert [version.statistics.requests for version in site.state.versions.values()] == [5, 5]


async def test_a_tile_of_another_code_is_a_400_in_a_sentence(coded: Bundle, coarser: Bundle) -> None:
    canvas = canvas_of("16:9", coded.geometry)
    wrong = canvas.window_inputs([0], coarser)
    async with (
        running_site(coded, ServeOptions(port=0, threads=1)) as site,
        SiteClient(config("a", site.url), coded, "fp32", PATIENT) as client,
    ):
        await client.connect(coded.probe())
        with pytest.raises(SiteUnavailable, match=r"400: tile has shape \[1, 120\], expected \[n, 184\]"):
            await client.infer([grant_for(client.config, 0)], sendable(wrong))
