"""`export --head-blocks`: the first window blocks at the edge, the rest at sites, in the same loop."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.check.edge_speed import measure_edge
from runtime.check.plan import OWN, Line, look_ahead
from runtime.edge import Edge, EdgeOptions, open_edge
from runtime.encoder import local_encoder
from runtime.head import AT_ONCE, EdgeHead
from runtime.objects.decode import decode
from runtime.objects.masks import iou
from runtime.objects.prompts import Prompt
from runtime.sites.client import WIRE_OUTPUTS, SiteClient, choose_wire, wire_formats
from runtime.sites.traffic import message_bytes
from server.serve import ServeOptions, running_site
from stages.bundle import Bundle
from stages.engines.thread import EngineThread
from stages.errors import BundleError, EngineError, InputError, SiteUnavailable, SiteUntrusted
from stages.hidden import HiddenForm
from stages.tensors import Array
from tests.runtime.test_session import Film, mask_lines, options, real_sites, run
from tests.support.edge import (
    PATIENT,
    WITH_HEAD,
    Impostor,
    canvas_of,
    config,
    edge_engines,
    grant_for,
    sendable,
    sites_file,
    status,
)
from tests.support.fakes import tiny_bundle
from tests.support.pictures import SHAPES

pytestmark = pytest.mark.anyio

BOX = (150.0, 120.0, 280.0, 200.0)
PROMPTS = (Prompt("box", (150, 60, 450, 300)), Prompt("point", None, ((320, 180, 1),)))


@asynccontextmanager
async def served(bundle: Bundle, path: Path, wire: str | None = None) -> AsyncIterator[Edge]:
    """An edge before three sites of three operators."""
    async with real_sites(bundle, path) as sites:
        chosen = EdgeOptions(sites=sites, threads=1, wire=wire, spot_checks=1000, spot_check_share=1.0)
        said: list[str] = []
        async with open_edge(bundle, [(360, 640)], chosen, said.append) as edge:
            yield edge
        assert said == []


async def alone(bundle: Bundle, wire: str, names: Sequence[str]) -> Array:
    """The image embedding without sites."""
    async with edge_engines(bundle, names) as engines, local_encoder(bundle, engines, wire) as encoder:
        return await encoder.encode(canvas_of("16:9", bundle.geometry))


# Split and whole


async def test_split_equals_whole(tiny_head_bundle: Bundle) -> None:
    """`whole` does to hidden states what travelling as 16 components in int8 does; a value between two steps
    of int8 may fall to either."""
    async with (
        edge_engines(tiny_head_bundle, (*WITH_HEAD, "whole")) as engines,
        local_encoder(tiny_head_bundle, engines, "fp32") as encoder,
    ):
        for shape in SHAPES:
            canvas = canvas_of(shape, tiny_head_bundle.geometry)
            split = await encoder.encode(canvas)
            whole = (await engines.infer("whole", canvas.whole_inputs(tiny_head_bundle)))["image_embedding"]
            assert whole.std() > 0.1
            assert np.abs(split - whole).max() <= 0.02 * np.abs(whole).max(), shape
            assert np.sqrt(np.mean((split - whole) ** 2)) <= 1e-3 * whole.std(), shape


@pytest.mark.parametrize("wire", ["fp16", "int8"])
async def test_masks_through_three_sites_are_those_without_a_head(
    mini_bundle: Bundle, mini_head_bundle: Bundle, tmp_path: Path, wire: str
) -> None:
    """Spot checks go on meanwhile, and doubt no site."""
    canvas = canvas_of("16:9", mini_bundle.geometry)
    async with served(mini_head_bundle, tmp_path, wire) as edge:
        through = await edge.encoder.encode(canvas)
        assert edge.spot_checks is not None
        await edge.spot_checks.measured.wait()
        assert {site.health.value for site in edge.sites} == {"ready"}
        assert not edge.encoder.doubts.frames
        sent = edge.encoder.traffic.body_up
        masks = [each.logits for each in await decode(edge.engines, through, canvas, PROMPTS)]
    windows = len(canvas.windows)
    assert windows * (25 * 192 * 2 + 4) < sent
    async with edge_engines(mini_bundle) as engines, local_encoder(mini_bundle, engines, wire) as encoder:
        plain = await encoder.encode(canvas)
        expected = [each.logits for each in await decode(engines, plain, canvas, PROMPTS)]
    assert np.abs(through - plain).max() > 0
    for ours, theirs in zip(masks, expected, strict=True):
        mask = canvas.to_frame_mask(theirs)
        assert 0.02 < mask.mean() < 0.98
        assert iou(canvas.to_frame_mask(ours), mask) >= 0.99


@pytest.mark.parametrize("wire", ["fp32", "int8"])
async def test_sites_compute_what_the_edge_does(tiny_head_bundle: Bundle, tmp_path: Path, wire: str) -> None:
    async with served(tiny_head_bundle, tmp_path, wire) as edge:
        through = await edge.encoder.encode(canvas_of("16:9", tiny_head_bundle.geometry))
    assert np.array_equal(through, await alone(tiny_head_bundle, wire, WITH_HEAD))


async def test_a_whole_run_keeps_windows_and_falls_back_and_its_masks_are_the_same(
    mini_head_bundle: Bundle, tmp_path: Path
) -> None:
    """One of three sites takes nothing: its windows and the kept ones run at the edge, behind the head."""
    await run(mini_head_bundle, Film(2), options(tmp_path / "alone"))
    bad = Impostor(mini_head_bundle, always=status(500, "no"))
    async with bad.running() as url, real_sites(mini_head_bundle, tmp_path, "ab") as sites:
        sites_file(tmp_path / "more.toml", ("c", url))
        sites.write_text(sites.read_text() + (tmp_path / "more.toml").read_text())
        chosen = options(
            tmp_path / "out", sites=sites, keep_boxes=(BOX,), when_sites_fail="local", verify=True
        )
        summary = await run(mini_head_bundle, Film(2), chosen)
    assert mask_lines(tmp_path / "out") == mask_lines(tmp_path / "alone")
    assert summary["iou_with_unsplit"] >= 0.999
    assert (summary["frames_lost"], summary["kept_windows_run"]) == (0, 8)
    assert summary["windows_run_at_edge"] > 0
    assert summary["windows_sent_per_frame"] > 0
    assert summary["tiles"] == "head of 2, 192 x fp16"


# The head at the edge


class Heads(EngineThread):
    """Notes the windows and the order of each call of the head, and answers with their numbers."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__({})
        self.calls: list[tuple[list[int], int]] = []
        self._value = value

    async def infer(
        self, name: str, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None, *, order: int = 0
    ) -> dict[str, Array]:
        assert name == "head"
        assert set(feeds) == {"tile", "index", "extent"}
        self.calls.append((feeds["index"][:, 0].tolist(), order))
        return {"hidden": feeds["index"].astype(np.float16) + np.float16(self._value)}


def tiles_of(windows: Sequence[int]) -> dict[str, Array]:
    index = np.array(windows, np.int32)[:, None]
    return {
        "tile": np.zeros((len(windows), 9), np.uint8),
        "index": index,
        "extent": np.zeros((len(windows), 4)),
    }


def with_head(bundle: Bundle) -> Bundle:
    return replace(bundle, head_blocks=1, hidden=HiddenForm("fp16", 3), format=3)


async def test_the_head_runs_a_few_windows_a_call_in_the_order_of_its_frame() -> None:
    engines = Heads()
    inputs = await EdgeHead(with_head(tiny_bundle()), engines).inputs(tiles_of(range(15)), order=7)
    assert [len(windows) for windows, _ in engines.calls] == [3, 4, 4, 4]
    assert max(len(windows) for windows, _ in engines.calls) <= AT_ONCE
    assert {order for _, order in engines.calls} == {7}
    assert list(inputs) == ["hidden", "index"]
    assert inputs["hidden"][:, 0].tolist() == inputs["index"][:, 0].tolist() == list(range(15))


async def test_without_a_head_tiles_go_as_they_are() -> None:
    engines, tiles = Heads(), tiles_of([3])
    assert await EdgeHead(tiny_bundle(), engines).inputs(tiles) is tiles
    assert engines.calls == []


@pytest.mark.parametrize("value", [np.inf, np.nan])
async def test_a_head_that_computes_nothing_finite_is_named_and_no_site(value: float) -> None:
    with pytest.raises(EngineError, match="the head here computes hidden states that are not finite"):
        await EdgeHead(with_head(tiny_bundle()), Heads(value)).inputs(tiles_of([1]))


async def test_an_edge_without_its_head_is_refused(mini_head_bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(mini_head_bundle.path, tmp_path / "b")
    shutil.rmtree(tmp_path / "b/head")
    with pytest.raises(BundleError, match=r"head/model\.onnx is missing; copy it from the full bundle"):
        async with open_edge(Bundle.load(tmp_path / "b"), [(360, 640)], EdgeOptions(), print):
            pass


# Sites


async def test_a_site_without_the_same_head_is_refused_and_both_are_named(
    mini_bundle: Bundle, mini_head_bundle: Bundle
) -> None:
    async with (
        running_site(mini_bundle, ServeOptions(port=0, threads=1)) as site,
        SiteClient(config("a", site.url), mini_head_bundle, "fp16", PATIENT) as client,
    ):
        with pytest.raises(SiteUntrusted) as caught:
            await client.connect(mini_head_bundle.probe())
    assert str(caught.value) == (
        "site a: serves another code: rgb tiles, 192 components a token, and this bundle's is hidden states "
        "after 2 blocks (192 components a token in fp16), 192 components a token; give both the same bundle"
    )


async def test_what_is_no_hidden_state_is_refused_or_harms_none_but_its_sender(
    tiny_head_bundle: Bundle,
) -> None:
    bundle = tiny_head_bundle
    good = bundle.probe().inputs
    window = int(good["index"][0, 0])
    tile = canvas_of("16:9", bundle.geometry).window_inputs([window], bundle)
    short = {**good, "hidden": good["hidden"][..., :-1]}
    nan = {**good, "hidden_scale": np.full_like(good["hidden_scale"], np.nan)}
    async with (
        running_site(bundle, ServeOptions(port=0, threads=1)) as site,
        SiteClient(config("a", site.url), bundle, "fp32", PATIENT) as client,
    ):
        await client.connect(bundle.probe())
        grant = grant_for(client.config, window)
        wrong: tuple[tuple[Mapping[str, Array], type[Exception], str], ...] = (
            (tile, SiteUnavailable, r"unexpected input .?tile.?; the model takes \['hidden', 'hidden_scale'"),
            (short, SiteUnavailable, "hidden has shape"),
            (nan, SiteUntrusted, "an embedding that is not finite"),
        )
        for inputs, error, words in wrong:
            with pytest.raises(error, match=words):
                await client.infer([grant], sendable(inputs))
        (answer,) = await client.infer([grant], sendable(good))
    assert np.allclose(answer, bundle.probe().embedding[0], atol=1e-3)


# What it costs, foreseen


def test_the_wire_back_is_int8_where_hidden_states_are(
    mini_head_bundle: Bundle, tiny_head_bundle: Bundle
) -> None:
    assert wire_formats(mini_head_bundle) == ("fp16", "int8")
    assert choose_wire(tiny_head_bundle, None) == "int8"


def test_plan_counts_hidden_states_and_offers_no_codes_of_tiles(mini_head_bundle: Bundle) -> None:
    sites = [config(name) for name in "abc"]
    found = look_ahead(mini_head_bundle, sites, (1080, 1920), Line(20, 100, 0.02))
    assert [(each.tiles, each.wire) for each in found.allowed] == [(OWN, "fp16"), (OWN, "int8")]
    bodies = 15 * message_bytes(mini_head_bundle.stage("window"), WIRE_OUTPUTS["fp16"]).up
    assert 15 * 9600 < bodies <= found.allowed[0].size.up < bodies + 15 * 500


async def test_check_measures_the_head_for_a_whole_frame(tiny_head_bundle: Bundle) -> None:
    found = await measure_edge(tiny_head_bundle, (360, 640), "onnxruntime-cpu", 1)
    assert found.head_s > 0
    assert found.window_s is not None


async def test_a_bundle_whose_window_stage_is_missing_runs_no_window_here(
    tiny_head_bundle: Bundle, tmp_path: Path
) -> None:
    """The head alone is no fallback."""
    shutil.copytree(tiny_head_bundle.path, tmp_path / "b")
    shutil.rmtree(tmp_path / "b/window")
    bundle = Bundle.load(tmp_path / "b")
    wanted: dict[str, Any] = {
        "keep_boxes": (BOX,),
        "sites": sites_file(tmp_path / "sites.toml", ("a", "http://127.0.0.1:1")),
    }
    with pytest.raises(InputError, match="--keep-box has windows computed here"):
        async with open_edge(bundle, [(360, 640)], EdgeOptions(accept_exposure=True, **wanted), print):
            pass
