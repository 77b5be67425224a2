"""Bundles that were exported before format 2 run on, at sites and at the edge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.edge import EdgeOptions, open_edge
from server.serve import ServeOptions, running_site
from stages.bundle import Bundle
from tests.support.bundles import tiny_bundle
from tests.support.edge import canvas_of, sites_file
from tests.support.format_1 import as_format_1
from tests.support.pictures import SHAPES

pytestmark = pytest.mark.anyio


async def test_it_gives_the_embeddings_of_format_2(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    bundle = tiny_bundle(request.config, "float32")
    old = as_format_1(bundle, tmp_path / "old")
    assert (old.format, old.site_digest != bundle.site_digest) == (1, True)
    assert await through_sites(old, tmp_path) == await through_sites(bundle, tmp_path)


async def through_sites(bundle: Bundle, folder: Path) -> list[bytes]:
    """The image embedding of a picture of each shape."""
    async with running_site(bundle, ServeOptions(port=0, threads=1)) as site:
        sites = sites_file(folder / "sites.toml", ("a", site.url))
        options = EdgeOptions(sites=sites, threads=1, accept_exposure=True, wire="fp32")
        async with open_edge(bundle, [(360, 640)], options, print) as edge:
            embeddings = []
            for shape in SHAPES:
                embedding = await edge.encoder.encode(canvas_of(shape, bundle.geometry))
                assert np.isfinite(embedding).all()
                embeddings.append(embedding.tobytes())
            (client,) = (each.client for each in edge.sites)
            assert client.traffic.body_up > 0
            return embeddings
