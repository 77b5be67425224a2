"""Windows that have not changed are not sent again, and nothing is reused that should not be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import numpy as np
import numpy.typing as npt
import pytest

from runtime.canvas import Canvas, make_canvas
from runtime.client import SiteClient
from runtime.dispatch import Dispatcher, FrameLost
from runtime.reuse import Reuse
from stages.bundle import Bundle
from tests.edge import PATIENT, Impostor, answers_with, config, ledger_for, status, window_stamp
from tests.pictures import photo

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def reusing(bundle: Bundle, impostor: Impostor, threshold: float = 0.0) -> AsyncIterator[Dispatcher]:
    async with AsyncExitStack() as stack:
        site = config("a", await stack.enter_async_context(impostor.running()))
        client = SiteClient(site, bundle, "fp16", PATIENT)
        dispatcher = Dispatcher(
            bundle, [client], ledger_for([site], 25), None, print, [0.02], reuse=Reuse(threshold)
        )
        yield await stack.enter_async_context(dispatcher.connected(range(15)))


def picture(bundle: Bundle, brighter: int = 0, window: int = 7) -> Canvas:
    """The photograph on a canvas, one window of it brighter."""
    canvas = make_canvas(photo("16:9"), bundle.geometry)
    side = bundle.geometry.tile_px
    row, col = divmod(window, bundle.geometry.grid)
    tile = canvas.pixels[row * side : (row + 1) * side, col * side : (col + 1) * side]
    np.copyto(tile, np.minimum(tile.astype(int) + brighter, 255).astype(np.uint8))
    return canvas


async def test_only_a_window_that_changed_is_sent_again(mini_bundle: Bundle) -> None:
    impostor = Impostor(mini_bundle)
    async with reusing(mini_bundle, impostor) as dispatcher:
        first = await dispatcher.embed(picture(mini_bundle))
        impostor.tiles.clear()
        second = await dispatcher.embed(picture(mini_bundle, brighter=1))
        assert impostor.tiles == [7]
        assert np.array_equal(first, second)
        assert dispatcher.statistics.windows_reused == 14
        assert dispatcher.statistics.windows_sent == 16


async def test_small_changes_add_up_to_a_large_one(mini_bundle: Bundle) -> None:
    """Compared is what was sent, so a slow change is not overlooked for ever."""
    impostor = Impostor(mini_bundle)
    async with reusing(mini_bundle, impostor, threshold=2.5) as dispatcher:
        sent = []
        for brighter in range(7):
            impostor.tiles.clear()
            await dispatcher.embed(picture(mini_bundle, brighter))
            sent.append(7 in impostor.tiles)
        assert sent == [True, False, False, True, False, False, True]


async def test_frames_of_other_sizes_share_nothing(mini_bundle: Bundle) -> None:
    """The same black pixels are picture on one frame and padding on the other."""
    impostor = Impostor(mini_bundle)
    black: npt.NDArray[np.uint8] = np.zeros((360, 640, 3), np.uint8)
    async with reusing(mini_bundle, impostor) as dispatcher:
        await dispatcher.embed(make_canvas(black, mini_bundle.geometry))
        impostor.tiles.clear()
        await dispatcher.embed(make_canvas(black[:350], mini_bundle.geometry))
        assert sorted(impostor.tiles) == [10, 11, 12, 13, 14]


async def test_a_window_that_failed_is_not_reused(mini_bundle: Bundle) -> None:
    impostor = Impostor(mini_bundle)
    async with reusing(mini_bundle, impostor) as dispatcher:
        impostor.always = status(500)
        with pytest.raises(FrameLost):
            await dispatcher.embed(picture(mini_bundle))
        impostor.always = None
        with anyio.fail_after(60):
            while True:
                try:
                    embeddings = await dispatcher.embed(picture(mini_bundle))
                except FrameLost:
                    await anyio.sleep(0.02)
                else:
                    break
        assert np.array_equal(embeddings[7], window_stamp(mini_bundle, 7))


async def test_what_a_lying_site_answered_before_is_forgotten(mini_bundle: Bundle) -> None:
    honest, liar = Impostor(mini_bundle), Impostor(mini_bundle)
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(each.running()) for each in (honest, liar)]
        sites = [config(name, url) for name, url in zip("ab", urls, strict=True)]
        clients = [SiteClient(site, mini_bundle, "fp16", PATIENT) for site in sites]
        dispatcher = Dispatcher(mini_bundle, clients, ledger_for(sites, 25), None, print, reuse=Reuse())
        await stack.enter_async_context(dispatcher.connected(range(15)))
        await dispatcher.embed(picture(mini_bundle))
        window = next(window for window, operator in dispatcher.home.items() if operator == "operator-b")
        liar.script.append(answers_with(lambda b: window_stamp(b, 3)[None] * np.float16("nan")))
        await dispatcher.embed(picture(mini_bundle, 9, window))
        honest.tiles.clear()
        await dispatcher.embed(picture(mini_bundle, 9, window))
        assert sorted(honest.tiles) == list(range(15))
