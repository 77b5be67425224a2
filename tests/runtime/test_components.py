"""Embeddings of fewer components through the edge: exact where it must be, int8 by default, fewer bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime.edge import EdgeOptions, open_edge
from runtime.encoder import local_encoder
from runtime.sites.client import SiteClient, choose_wire, wire_formats
from server.serve import ServeOptions, running_site
from stages.bundle import Bundle, shipped_bundle
from stages.errors import SiteUntrusted
from stages.tile_code import TileCode
from tests.support.edge import EDGE, canvas_of, config, edge_engines, sites_file
from tests.support.fakes import tiny_bundle
from tests.support.pictures import SHAPES

pytestmark = pytest.mark.anyio


def test_the_wires_of_what_is_coded_begin_with_int8() -> None:
    """Of an uncoded one, of either format, they do not."""
    plain, shipped = tiny_bundle(), Bundle.load(shipped_bundle())
    assert wire_formats(plain) == wire_formats(replace(plain, format=1)) == ("fp16", "int8")
    for coded in (shipped, replace(plain, components=2), replace(plain, tiles=TileCode.parse("dct:10/3"))):
        assert wire_formats(coded) == ("int8", "fp16")
        assert choose_wire(coded, None) == "int8"
        assert choose_wire(coded, "fp16") == "fp16"
    assert wire_formats(replace(plain, components=2, embedding_dtype="float32")) == ("int8", "fp32")


async def test_split_equals_whole(components_bundle: Bundle) -> None:
    """`whole` projects and restores too, so that nothing but rounding is between them."""
    assert components_bundle.components == 8
    async with (
        edge_engines(components_bundle, (*EDGE, "whole")) as engines,
        local_encoder(components_bundle, engines, "fp32") as encoder,
    ):
        for shape in SHAPES:
            canvas = canvas_of(shape, components_bundle.geometry)
            split = await encoder.encode(canvas)
            whole = (await engines.infer("whole", canvas.whole_inputs(components_bundle)))["image_embedding"]
            assert whole.std() > 0.1
            assert np.abs(split - whole).max() <= 1e-4, shape


async def test_sites_answer_components_in_int8(components_bundle: Bundle, tmp_path: Path) -> None:
    """One byte a component, and a scale of two bytes a token; the same masks as of windows run here."""
    canvas = canvas_of("16:9", components_bundle.geometry)
    async with running_site(components_bundle, ServeOptions(port=0, threads=1)) as site:
        sites = sites_file(tmp_path / "sites.toml", ("a", site.url))
        options = EdgeOptions(sites=sites, threads=1, accept_exposure=True, spot_checks=0)
        async with open_edge(components_bundle, [(360, 640)], options, print) as edge:
            (client,) = (each.client for each in edge.sites)
            before = client.traffic.body_down
            through = await edge.encoder.encode(canvas)
            answered = (client.traffic.body_down - before) / client.tiles
    assert edge.wire_format == "int8"
    tokens = components_bundle.geometry.window**2
    assert tokens * (8 + 2) < answered < tokens * (8 + 2) + 400
    async with (
        edge_engines(components_bundle, EDGE) as engines,
        local_encoder(components_bundle, engines, "int8") as encoder,
    ):
        assert np.array_equal(through, await encoder.encode(canvas))


@pytest.mark.parametrize("wire", ["int8", "fp32"])
async def test_a_site_that_answers_otherwise_is_refused(components_bundle: Bundle, wire: str) -> None:
    """A tenth of noise in every component, as of other weights, is far beyond the probe's tolerance."""
    probe = components_bundle.probe()
    other = replace(probe, embedding=probe.embedding * np.float32(1.1))
    async with (
        running_site(components_bundle, ServeOptions(port=0, threads=1)) as site,
        SiteClient(config("a", site.url), components_bundle, wire) as client,
    ):
        await client.connect(probe)
        assert await client.check_probe(probe) < 0.7 * client.tolerance(probe)
        with pytest.raises(SiteUntrusted, match=r"answers the probe with a difference of 0\.09"):
            await client.check_probe(other)
