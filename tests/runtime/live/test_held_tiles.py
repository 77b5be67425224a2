"""What an operator holds: noted from what leaves, newest first, and no more than what was sent."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import anyio
import numpy as np
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from runtime.encoder import ImageEncoder
from runtime.frames.canvas import Canvas, make_canvas
from runtime.frames.kept import Kept
from runtime.live.held_tiles import HeldTiles
from runtime.objects.prompts import Prompt, Prompts
from runtime.sites.ledger import ExposureLedger, Grant
from stages.bundle import Bundle, Stage
from stages.geometry import GEOMETRIES
from stages.tensors import Array, TensorSpec
from stages.tile_code import RGB, TileCode
from tests.support.cameras import scenery
from tests.support.edge import Impostor, canvas_of, stall, status
from tests.support.live_runs import counted_sites, live_run
from tests.support.pictures import SHAPES
from tests.support.scenes import NO_ENGINES, LocalStamps, scene

pytestmark = pytest.mark.anyio

MINI = GEOMETRIES["mini"]
COARSE = TileCode.parse("dct:6/3")
OPERATORS, WINDOWS = ("alpha", "beta", "gamma"), range(MINI.windows)
REQUESTS = st.lists(
    st.tuples(st.sampled_from(OPERATORS), st.lists(st.sampled_from(WINDOWS), min_size=1, max_size=4)),
    max_size=60,
)


def tiles_of(windows: list[int], numbers: Iterator[int]) -> dict[str, Array]:
    """Inputs of tiles that all differ."""
    size = COARSE.tile_bytes(MINI)
    tiles = np.zeros((len(windows), size), np.uint8)
    for tile in tiles:
        tile[:4] = np.frombuffer(next(numbers).to_bytes(4, "little"), np.uint8)
    extent = np.tile(np.array([[0, 0, 80, 80]], np.int32), (len(windows), 1))
    return {"tile": tiles, "index": np.array(windows, np.int32)[:, None], "extent": extent}


LEDGER = ExposureLedger.open(
    None, {f"site-{operator}": operator for operator in OPERATORS}, dict.fromkeys(OPERATORS, MINI.windows)
)


def grants(operator: str, windows: list[int]) -> list[Grant]:
    return [grant for window in windows if (grant := LEDGER.grant(f"site-{operator}", window))]


@given(REQUESTS)
def test_the_newest_tile_of_each_window_is_held_and_no_more(
    requests: list[tuple[str, list[int]]],
) -> None:
    held, expected, numbers, times = HeldTiles(MINI, COARSE), {}, itertools.count(1), itertools.count()
    held.clock = lambda: float(next(times))
    for time_s, (operator, windows) in enumerate(requests):
        inputs = tiles_of(windows, numbers)
        held.sent(grants(operator, windows), inputs)
        for row, window in enumerate(windows):
            expected[operator, window] = (inputs["tile"][row].tobytes(), float(time_s))
        inputs["tile"][:] = 255  # whoever sent it may use its memory again
    found = {
        (operator, window): (tile.coded, tile.sent_s)
        for operator in OPERATORS
        for window, tile in (held.by(operator).value or {}).items()
    }
    assert found == expected
    most = len(OPERATORS) * MINI.windows * COARSE.tile_bytes(MINI)
    assert sum(len(coded) for coded, _ in found.values()) <= most


async def test_who_waits_is_woken_by_every_request_of_that_operator_alone() -> None:
    held = HeldTiles(MINI, RGB)
    number, nothing = await held.by("alpha").after(0)
    assert nothing == {}
    held.sent(grants("beta", [3]), tiles_of([3], itertools.count(1)))
    assert held.by("alpha").version == number
    held.sent(grants("alpha", [4]), tiles_of([4], itertools.count(1)))
    with anyio.fail_after(5):
        _, tiles = await held.by("alpha").after(number)
    assert list(tiles) == [4]


def sent_of(canvas: Canvas, bundle: Bundle, windows: list[int]) -> HeldTiles:
    held = HeldTiles.of(bundle)
    held.sent(grants("alpha", windows), canvas.window_inputs(windows, bundle))
    return held


@pytest.mark.parametrize("tiles", ["rgb", "dct:6/3", "format 1"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_picture_is_the_tiles_as_the_site_decodes_them_and_black_elsewhere(
    mini_bundle: Bundle, shape: str, tiles: str
) -> None:
    bundle = replace(mini_bundle, tiles=RGB if tiles == "format 1" else TileCode.parse(tiles), format=2)
    if tiles == "format 1":
        bundle = replace(bundle, format=1)
    canvas = canvas_of(shape, MINI)
    windows = list(canvas.windows[1::2])
    held = sent_of(canvas, bundle, windows)
    found = held.picture(held.by("alpha").value or {}, canvas.height, canvas.width)
    assert found is not None
    expected = np.zeros((canvas.rows, canvas.cols, 3), np.float32)
    for window in windows:
        row, col = (80 * place for place in divmod(window, MINI.grid))
        coded = bundle.tiles.encode(canvas.pixels, canvas.extents[[window]], [window], MINI)
        shown = expected[row : row + 80, col : col + 80]
        shown[:] = bundle.tiles.decode(coded, MINI)[0][: shown.shape[0], : shown.shape[1]]
    assert np.array_equal(found, np.rint(expected))
    assert found.any()


def test_tiles_of_larger_frames_before_are_shown_too(mini_bundle: Bundle) -> None:
    """A folder's pictures may have several shapes. Of each tile what is picture is shown, and not the border
    that a code repeats below it."""
    bundle = replace(mini_bundle, tiles=TileCode.parse("dct:6/3"))
    square, wide = canvas_of("square", MINI), canvas_of("16:9", MINI)
    held = sent_of(square, bundle, [24])
    held.sent(grants("alpha", [10]), wide.window_inputs([10], bundle))
    found = held.picture(held.by("alpha").value or {}, 360, 640)
    assert found is not None
    assert found.shape == (384, 384, 3)
    assert found[320:, 320:].any()
    assert np.abs(found[320:, 320:] - square.pixels[320:384, 320:384].astype(np.float32)).mean() < 20
    assert found[160:216, :80].any()
    assert not found[216:, :320].any()


def test_of_what_is_no_pixels_there_is_no_picture(mini_bundle: Bundle) -> None:
    hidden = TensorSpec("hidden", "float16", ("n", 5, 5, 192))
    window = replace(mini_bundle.stage("window"), inputs=(hidden, TensorSpec("index", "int32", ("n", 1))))
    stages: dict[str, Stage] = {**mini_bundle.stages, "window": window}
    held = HeldTiles.of(SimpleNamespace(geometry=MINI, tiles=RGB, stage=stages.__getitem__))  # type: ignore[arg-type]
    held.sent(grants("alpha", [2]), {"hidden": np.zeros((1, 5, 5, 192)), "index": np.array([[2]], np.int32)})
    assert not held.shows_pixels
    assert held.picture(held.by("alpha").value or {}, 360, 640) is None
    assert list(held.by("alpha").value or {}) == [2]
    assert HeldTiles.of(mini_bundle).shows_pixels


class Holding(Impostor):
    """Notes the newest tile that it was sent at each window."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.held: dict[int, bytes] = {}

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        inputs, _ = await self.read(request)
        if not self._is_probe(inputs):
            for window, tile in zip(inputs["index"][:, 0].tolist(), inputs["tile"], strict=True):
                self.held[window] = tile.tobytes()
        return await super()._infer(request)


async def test_what_sites_received_is_held_though_it_was_sent_twice(mini_bundle: Bundle) -> None:
    """A hedge to another site of an operator, and what a second operator got after a failure, are held by
    whoever got them: at each window the newest tile that came, or a later one that never came."""
    sites, numbers = {name: Holding(mini_bundle) for name in "abxy"}, dict[bytes, int]()
    held = HeldTiles.of(mini_bundle)

    async def frame(number: int) -> None:
        canvas = make_canvas(scenery(number), MINI)
        inputs = canvas.window_inputs(canvas.windows, mini_bundle)
        numbers.update({tile.tobytes(): number for tile in inputs["tile"]})
        await it.encoder.start(canvas, number).collect()

    async with scene(
        mini_bundle,
        dict(sites),
        15,
        same_operator="xy",
        hedge_factor=0.01,
        reconnect_s=[60],
        on_sent=held.sent,
    ) as it:
        with anyio.fail_after(60):
            await frame(0)
            it.site("x").client.tile_s, it.site("y").client.tile_s = 1e-6, 1000.0
            sites["x"].script.extend([stall] * 100)
            await frame(1)
            assert it.encoder.statistics.hedged == len(it.own("both")) > 0
            a_held = set(sites["a"].held)
            sites["a"].always = status(500)
            await frame(2)
            assert it.encoder.statistics.redispatched > 0
    operators = {"operator-a": "a", "operator-b": "b", "operator-both": "xy"}
    holds = {operator: held.by(operator).value or {} for operator in operators}
    for operator, names in operators.items():
        came = {window for name in names for window in sites[name].held}
        assert came <= set(holds[operator]) <= it.ledger.exposure(operator)
        for window in came:
            newest = max(numbers[sites[n].held[window]] for n in names if window in sites[n].held)
            assert numbers[holds[operator][window].coded] >= newest
    assert a_held == set(holds["operator-a"])
    assert a_held <= set(holds["operator-b"]) | set(holds["operator-both"])


async def test_what_is_kept_in_a_frame_is_held_by_nobody(mini_bundle: Bundle) -> None:
    """A tile of that position in a frame before may be, and is held on."""
    kept_of = (frozenset({6, 7, 12}), frozenset({0, 7}))
    held, local = HeldTiles.of(mini_bundle), LocalStamps(mini_bundle)

    async def keep(canvas: Canvas, number: int) -> Kept:
        return Kept(kept_of[number])

    left = dict[int, bytes]()
    sites = dict[str, Impostor]({name: Holding(mini_bundle) for name in "abc"})
    async with scene(mini_bundle, sites, local=local, on_sent=held.sent) as it:
        encoder = ImageEncoder(mini_bundle, NO_ENGINES, it.windows, local, keep=keep)
        for number, kept in enumerate(kept_of):
            canvas = make_canvas(scenery(number), MINI)
            inputs = canvas.window_inputs(canvas.windows, mini_bundle)
            await encoder.start(canvas, number).collect()
            tiles = {
                window: tile.tobytes() for window, tile in zip(canvas.windows, inputs["tile"], strict=True)
            }
            left |= {window: tile for window, tile in tiles.items() if window not in kept}
            holds = [held.by(f"operator-{name}").value or {} for name in "abc"]
            assert {window: tile.coded for each in holds for window, tile in each.items()} == left
            for each in holds:
                found = held.picture(each, canvas.height, canvas.width)
                assert found is not None
                for window in set(canvas.windows) - set(left):
                    row, col = (80 * place for place in divmod(window, MINI.grid))
                    assert not found[row : row + 80, col : col + 80].any()
    assert set(canvas.windows) - set(left) == {7}


async def test_a_run_says_what_operators_hold_may_see_and_what_is_kept(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    box = (150.0, 120.0, 280.0, 200.0)
    prompts = Prompts((Prompt("cup", (150, 60, 450, 300)),))
    async with (
        counted_sites(mini_bundle, tmp_path) as sites,
        live_run(mini_bundle, sites.file, prompts, keep_boxes=(box,)) as run,
    ):
        before = run.live.status()
        shown = await run.frame()
        status, live = run.live.status(), run.live
        canvas = make_canvas(shown.frame.pixels, mini_bundle.geometry)
        holds = {operator: live.held.by(operator).value or {} for operator in status.caps}
        pictures = [live.held.picture(held, *shown.frame.pixels.shape[:2]) for held in holds.values()]
    assert [before.shares[operator].seen for operator in holds] == [0, 0, 0]
    assert status.keep_boxes == (box,)
    kept = {window.index for window in status.windows if window.kept}
    assert kept == {window.index for window in status.windows if window.kept_now} == set(shown.kept)
    assert kept == {1, 2, 6, 7}
    assert sorted(itertools.chain(*holds.values())) == sorted(set(canvas.windows) - kept)
    together = np.zeros_like(canvas.pixels[: canvas.rows, : canvas.cols])
    for operator, picture in zip(holds, pictures, strict=True):
        assert picture is not None
        assert status.shares[operator].seen == pytest.approx((picture != 0).any(2).mean(), abs=0.01)
        together += picture
        assert 0 < status.shares[operator].seen == status.shares[operator].may_see
        assert status.shares[operator].may_see <= status.shares[operator].at_most < 0.5
        assert run.summary["sites"][operator[-1]]["picture_share"] == status.shares[operator].seen
    apart = canvas.pixels[: canvas.rows, : canvas.cols].copy()
    for window in kept:
        row, col = (80 * place for place in divmod(window, MINI.grid))
        apart[row : row + 80, col : col + 80] = 0
    assert np.array_equal(together, apart)
