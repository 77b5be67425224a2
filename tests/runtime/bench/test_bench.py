"""Both ways measured: real engines here, sites on loopback that see noise and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web

from runtime.bench.bench import LEAST, WARM_UP, BenchOptions, bench
from runtime.bench.measured import FRAME, LOCAL, OFFLOADED, STAGES, Measured
from runtime.bench.noise import STEPS, moving_noise
from runtime.edge import EdgeOptions
from runtime.frames.canvas import make_canvas
from runtime.sites.config import read_sites
from stages.bundle import Bundle
from stages.errors import InputError, SiteUnavailable, SiteUntrusted
from stages.tensors import Array
from tests.support.edge import Impostor, sites_file
from tests.support.tegrastats import LOADED, STAY, board_options, says, tegrastats, write_linux

pytestmark = pytest.mark.anyio

SIZE = (360, 640)
QUICK = BenchOptions(size=SIZE, runs=4, seconds=60.0)


class Watching(Impostor):
    """Keeps the inputs of every tile but the probe's, and fails from its tile number `until` on."""

    def __init__(self, bundle: Bundle, until: int = 1 << 30) -> None:
        super().__init__(bundle)
        self.inputs: list[dict[str, Array]] = []
        self.until = until

    async def answer(self, request: web.Request, embedding: Array | None = None) -> web.Response:
        inputs, _ = await self.read(request)
        if not self._is_probe(inputs):
            self.inputs.append(inputs)
            if len(self.tiles) > self.until:
                return web.Response(status=500, text="no")
        return await super().answer(request, embedding)


@asynccontextmanager
async def sites_at(folder: Path, *sites: Impostor) -> AsyncIterator[Path]:
    """sites.toml of these, each of its own operator."""
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(site.running()) for site in sites]
        yield sites_file(folder / "sites.toml", *zip("abc", urls, strict=False))


async def benched(bundle: Bundle, sites: Path | None, options: BenchOptions = QUICK) -> dict[str, Measured]:
    edge = EdgeOptions(sites=sites, threads=1, backend="onnxruntime-cpu")
    found = await bench(bundle, read_sites(sites) if sites else (), edge, options)
    return {measured.way: measured for measured in found}


def without_window(bundle: Bundle, folder: Path) -> Bundle:
    """An edge's smaller bundle."""
    shutil.copytree(bundle.path, folder / "edge")
    shutil.rmtree(folder / "edge/window")
    return Bundle.load(folder / "edge")


async def test_both_ways_step_by_step(mini_bundle: Bundle, tmp_path: Path) -> None:
    seen = [Watching(mini_bundle) for _ in range(3)]
    async with sites_at(tmp_path, *seen) as sites:
        found = await benched(mini_bundle, sites)
    assert list(found) == [LOCAL, OFFLOADED]
    for measured in found.values():
        assert {len(values) for values in measured.seconds.values()} == {QUICK.runs}
        sums = np.sum([measured.seconds[stage] for stage in STAGES], axis=0)
        assert np.allclose(sums, measured.seconds[FRAME])  # nothing between them is left out
        assert measured.overlapped.frames == QUICK.runs
        assert measured.overlapped.fps > 0
        assert measured.peak_bytes is not None
        assert measured.peak_bytes > 50e6
        assert measured.backend["global"].startswith("onnxruntime")
        assert measured.board is None
    local, offloaded = found.values()
    assert (local.windows, local.at_edge, local.bytes_up, local.sites) == (15, 15, 0, [])
    assert (offloaded.windows, offloaded.at_edge) == (15, 0)
    assert [site.windows for site in offloaded.sites] == [5, 5, 5]
    assert offloaded.bytes_up == pytest.approx(sum(site.bytes_up for site in offloaded.sites))
    tile_bytes = mini_bundle.geometry.tile_px**2 * 3
    assert 15 * tile_bytes < offloaded.bytes_up < 15 * (tile_bytes + 1500)
    for site in offloaded.sites:
        assert len(site.seconds) == QUICK.runs
        assert max(site.seconds) <= max(offloaded.seconds["windows"])
        assert site.line.round_trip_s > 0


async def test_sites_see_noise_and_nothing_else(mini_bundle: Bundle, tmp_path: Path) -> None:
    canvases = [make_canvas(frame, mini_bundle.geometry) for frame in islice(moving_noise(*SIZE), STEPS)]
    noise = {canvas.tile(window).tobytes() for canvas in canvases for window in canvas.windows}
    seen = [Watching(mini_bundle) for _ in range(3)]
    async with sites_at(tmp_path, *seen) as sites:
        await benched(mini_bundle, sites)
    tiles = [tile.tobytes() for site in seen for inputs in site.inputs for tile in inputs["tile"]]
    assert len(tiles) == 15 * (WARM_UP + 2 * QUICK.runs)
    assert noise.issuperset(tiles)
    assert os.listdir(tmp_path) == ["sites.toml"]  # no ledger of a run


async def test_one_operator_alone_can_be_measured(mini_bundle: Bundle, tmp_path: Path) -> None:
    async with sites_at(tmp_path, Watching(mini_bundle)) as sites:
        found = await benched(mini_bundle, sites)
    assert [site.windows for site in found[OFFLOADED].sites] == [15]


async def test_a_board_tells_its_watts(mini_bundle: Bundle, tmp_path: Path) -> None:
    write_linux(tmp_path)
    board = board_options(tmp_path, tegrastats(tmp_path / "bin", says(LOADED), STAY))
    options = BenchOptions(size=SIZE, runs=LEAST, seconds=60.0, board=board)
    found = (await benched(mini_bundle, None, options))[LOCAL].board
    assert found is not None
    assert found["power_w_mean"] == pytest.approx(found["power_w_peak"], abs=0.01)
    assert found["power_w_peak"] == 12.479


async def test_time_ends_it_after_the_least_frames(mini_bundle: Bundle) -> None:
    found = await benched(mini_bundle, None, BenchOptions(size=SIZE, runs=1000, seconds=1e-3))
    assert (found[LOCAL].runs, found[LOCAL].overlapped.frames) == (LEAST, LEAST)
    found = await benched(mini_bundle, None, BenchOptions(size=SIZE, runs=1, seconds=60.0))
    assert (found[LOCAL].runs, found[LOCAL].overlapped.frames) == (1, 1)


async def test_a_site_that_fails_on_the_way_leaves_no_figures(mini_bundle: Bundle, tmp_path: Path) -> None:
    async with sites_at(tmp_path, *(Watching(mini_bundle) for _ in "ab"), Watching(mini_bundle, 20)) as sites:
        with pytest.raises(InputError, match=r"a site failed while frames were measured.*`pedsam check`"):
            await benched(mini_bundle, sites)


async def test_a_bundle_without_its_window_stage(mini_bundle: Bundle, tmp_path: Path) -> None:
    smaller = without_window(mini_bundle, tmp_path)
    with pytest.raises(InputError, match="has no window stage, so that nothing can run all local here"):
        await benched(smaller, None)
    async with sites_at(tmp_path, Watching(mini_bundle), Watching(mini_bundle)) as sites:
        found = await benched(smaller, sites)
    assert list(found) == [OFFLOADED]
    assert "window" not in found[OFFLOADED].backend
    async with sites_at(tmp_path, Watching(mini_bundle), Watching(mini_bundle, 20)) as sites:
        with pytest.raises(InputError, match="a site failed while frames were measured"):
            await benched(smaller, sites)


async def test_a_site_that_cannot_be_used_ends_it_before_anything_is_measured(
    mini_bundle: Bundle, exported_fp32: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(SiteUnavailable, match=r"site a: cannot be reached at 127\.0\.0\.1:1"):
        await benched(mini_bundle, sites_file(tmp_path / "sites.toml", ("a", "http://127.0.0.1:1")))
    async with sites_at(tmp_path, Watching(exported_fp32)) as sites:
        with pytest.raises(SiteUntrusted, match="site a: "):
            await benched(mini_bundle, sites)


async def test_windows_that_fit_under_no_cap_are_counted(mini_bundle: Bundle, tmp_path: Path) -> None:
    async with sites_at(tmp_path, Watching(mini_bundle), Watching(mini_bundle)) as sites:
        sites.write_text(
            sites.read_text(encoding="utf-8").replace("operator =", "cap = 6\noperator ="), "utf-8"
        )
        found = await benched(mini_bundle, sites)
    assert (found[OFFLOADED].windows, found[OFFLOADED].at_edge) == (15, 3)
