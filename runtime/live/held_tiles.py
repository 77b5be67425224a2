"""What each operator holds of the picture: the newest tile that it was sent at each window, as it left.

Noted where tiles go out (`runtime.sites.client.OnSent`), so retries and hedges count, and so does what never
arrived. A tile replaces the one before it at its window: memory is bounded by operators x windows x bytes of
a tile (vit_b, 3 operators, uncoded: 11 MB), and noting one costs a copy of its bytes. Nothing is decoded here
until somebody asks for a picture.

Tiles are sent at different times, and what has not changed is not sent again. So such a picture is a mosaic
of old and new tiles, and that is what the operator really holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from runtime.live.newest import Newest
from runtime.sites.ledger import Grant
from stages.bundle import Bundle
from stages.geometry import Geometry
from stages.tensors import Array, Pixels
from stages.tile_code import TileCode, cut
from stages.tile_inputs import blank_canvas

_NOWHERE = (0, 0, 0, 0)


@dataclass(frozen=True)
class SentTile:
    """A tile as it left: its bytes, empty where no pixels leave, and when, by the clock of HeldTiles.

    `extent` is top, left, bottom, right of the picture inside it, in pixels.
    """

    coded: bytes
    extent: tuple[int, int, int, int]
    sent_s: float


# By window. Never changed: there is a new one for every tile.
Held: TypeAlias = Mapping[int, SentTile]


class HeldTiles:
    """The tiles that operators hold. `code` is how a tile is sent, None where what is sent is not pixels.

    Everything but `picture` belongs on the event loop.
    """

    def __init__(
        self, geometry: Geometry, code: TileCode | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.clock = clock
        self._geometry = geometry
        self._code = code
        self._held: dict[str, Newest[Held]] = {}

    @classmethod
    def of(cls, bundle: Bundle) -> HeldTiles:
        """For a run with this bundle, none of whose tiles was sent yet."""
        sends_pixels = any(spec.name == "tile" for spec in bundle.stage("window").inputs)
        return cls(bundle.geometry, bundle.tiles if sends_pixels else None)

    @property
    def shows_pixels(self) -> bool:
        """Whether what leaves can be shown as a picture."""
        return self._code is not None

    def by(self, operator: str) -> Newest[Held]:
        """What an operator holds: at first nothing."""
        if operator not in self._held:
            self._held[operator] = Newest()
            self._held[operator].put({})
        return self._held[operator]

    def sent(self, grants: Sequence[Grant], inputs: Mapping[str, Array]) -> None:
        """Note a request: `inputs` are those of the window stage for the tiles of these grants, in order."""
        now_s = self.clock()
        for row, grant in enumerate(grants):
            newest = self.by(grant.operator)
            tile = SentTile(_row(inputs.get("tile"), row), _extent(inputs.get("extent"), row), now_s)
            newest.put({**(newest.value or {}), grant.window: tile})

    def picture(self, held: Held, height: int, width: int) -> Pixels | None:
        """What these tiles show, RGB [rows, cols, 3], as it would be at the site; in any thread.

        It has the size that frames of height x width have on the canvas, or a larger one where tiles of other
        frames reach further, and is black where there is no tile. None where no pixels leave.
        """
        if self._code is None:
            return None
        rows, cols = self._geometry.resized(height, width)
        pixels = blank_canvas(self._geometry)
        for window, tile in held.items():
            top, left, bottom, right = tile.extent
            coded = np.frombuffer(tile.coded, np.uint8)[None]
            decoded = np.rint(self._code.decode(coded, self._geometry)[0])
            place = cut(pixels, window, self._geometry)
            place[top:bottom, left:right] = decoded[top:bottom, left:right]
            row, col = divmod(window, self._geometry.grid)
            rows = max(rows, row * self._geometry.tile_px + bottom)
            cols = max(cols, col * self._geometry.tile_px + right)
        return pixels[:rows, :cols]


def _row(tiles: Array | None, row: int) -> bytes:
    return b"" if tiles is None else tiles[row].tobytes()


def _extent(extents: Array | None, row: int) -> tuple[int, int, int, int]:
    """As format 2 of a bundle has it; in format 1 it is rows and columns from the top left."""
    if extents is None:
        return _NOWHERE
    *top_left, bottom, right = map(int, extents[row])
    top, left = top_left or (0, 0)
    return top, left, bottom, right
