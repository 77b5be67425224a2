"""Windows that have not changed are not sent again, and nothing is reused that should not be."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import ClassVar

import anyio
import numpy as np
import numpy.typing as npt
import pytest

from runtime.encoder import FrameLost, ImageEncoder
from runtime.frames.canvas import Canvas, make_canvas
from runtime.sites.reuse import Reuse
from stages.bundle import Bundle
from stages.tensors import Array
from tests.support.edge import Impostor, answers_with, status, window_stamp
from tests.support.pictures import photo
from tests.support.scenes import embeddings_of, scene

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def reusing(bundle: Bundle, impostor: Impostor, threshold: float = 0.0) -> AsyncIterator[ImageEncoder]:
    async with scene(bundle, {"a": impostor}, cap=25, reuse=Reuse(threshold)) as it:
        yield it.encoder


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
    async with reusing(mini_bundle, impostor) as encoder:
        first = await embeddings_of(encoder, picture(mini_bundle))
        impostor.tiles.clear()
        second = await embeddings_of(encoder, picture(mini_bundle, brighter=1))
        assert impostor.tiles == [7]
        assert np.array_equal(first, second)
        assert encoder.statistics.windows_reused == 14
        assert encoder.statistics.windows_sent == 16


class Noting(Canvas):
    """Notes which windows are coded together."""

    coded: ClassVar[list[list[int]]] = []

    def window_inputs(self, windows: Sequence[int], bundle: Bundle) -> dict[str, Array]:
        self.coded.append(list(windows))
        return super().window_inputs(windows, bundle)


async def test_only_windows_that_are_computed_are_coded_and_those_of_a_frame_together(
    mini_bundle: Bundle,
) -> None:
    async with reusing(mini_bundle, Impostor(mini_bundle)) as encoder:
        for brighter in (0, 1, 1):
            canvas = picture(mini_bundle, brighter)
            await embeddings_of(encoder, Noting(**{f.name: getattr(canvas, f.name) for f in fields(canvas)}))
    assert Noting.coded == [list(range(15)), [7]]


async def test_small_changes_add_up_to_a_large_one(mini_bundle: Bundle) -> None:
    """Compared is what was sent, so a slow change is not overlooked for ever."""
    impostor = Impostor(mini_bundle)
    async with reusing(mini_bundle, impostor, threshold=2.5) as encoder:
        sent = []
        for brighter in range(7):
            impostor.tiles.clear()
            await embeddings_of(encoder, picture(mini_bundle, brighter))
            sent.append(7 in impostor.tiles)
        assert sent == [True, False, False, True, False, False, True]


async def test_frames_of_other_sizes_share_nothing(mini_bundle: Bundle) -> None:
    """The same black pixels are picture on one frame and padding on the other."""
    impostor = Impostor(mini_bundle)
    black: npt.NDArray[np.uint8] = np.zeros((360, 640, 3), np.uint8)
    async with reusing(mini_bundle, impostor) as encoder:
        await embeddings_of(encoder, make_canvas(black, mini_bundle.geometry))
        impostor.tiles.clear()
        await embeddings_of(encoder, make_canvas(black[:350], mini_bundle.geometry))
        assert sorted(impostor.tiles) == [10, 11, 12, 13, 14]


async def test_a_window_that_failed_is_not_reused(mini_bundle: Bundle) -> None:
    impostor = Impostor(mini_bundle)
    async with reusing(mini_bundle, impostor) as encoder:
        impostor.always = status(500)
        with pytest.raises(FrameLost):
            await embeddings_of(encoder, picture(mini_bundle))
        impostor.always = None
        with anyio.fail_after(60):
            while True:
                try:
                    embeddings = await embeddings_of(encoder, picture(mini_bundle))
                except FrameLost:
                    await anyio.sleep(0.02)
                else:
                    break
        assert np.array_equal(embeddings[7], window_stamp(mini_bundle, 7))


async def test_what_a_lying_site_answered_before_is_forgotten(mini_bundle: Bundle) -> None:
    honest, liar = Impostor(mini_bundle), Impostor(mini_bundle)
    async with scene(mini_bundle, {"a": honest, "b": liar}, cap=25, reuse=Reuse()) as it:
        await embeddings_of(it.encoder, picture(mini_bundle))
        window = min(it.own("b"))
        liar.script.append(answers_with(lambda b: window_stamp(b, 3)[None] * np.float16("nan")))
        await embeddings_of(it.encoder, picture(mini_bundle, 9, window))
        honest.tiles.clear()
        await embeddings_of(it.encoder, picture(mini_bundle, 9, window))
        assert sorted(honest.tiles) == list(range(15))


async def test_a_frame_that_reuses_a_window_has_a_part_of_the_site_that_computed_it(
    mini_bundle: Bundle,
) -> None:
    async with reusing(mini_bundle, Impostor(mini_bundle)) as encoder:
        for number in range(3):
            await encoder.start(picture(mini_bundle), number).collect()
        assert encoder.statistics.windows_reused == 30
        assert encoder.doubts.lied("a", "").frames == [(0, 2)]
