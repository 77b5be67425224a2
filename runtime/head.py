"""What goes to a site of a window: its tile, or, where the bundle has a head, what that leaves of it.

The head runs on the engine thread of the edge, a few windows a call, so that an older frame's global stage
need not wait long for it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from runtime.sites.traffic import even_parts
from stages.bundle import Bundle
from stages.engines.thread import EngineThread
from stages.errors import EngineError
from stages.hidden import HEAD, after_head
from stages.tensors import Array

AT_ONCE = 4  # windows a call of the engine


class EdgeHead:
    """Makes inputs of the window stage from tiles; `engines` run "head" where the bundle has one."""

    def __init__(self, bundle: Bundle, engines: EngineThread) -> None:
        self._exists = bundle.head_blocks > 0
        self._engines = engines

    async def inputs(self, tiles: Mapping[str, Array], order: int = 0) -> Mapping[str, Array]:
        """Inputs of the window stage for the same windows, in their order; `tiles` themselves without a head.

        Calls of a lower `order` go first. Raises EngineError for a hidden state that is not finite: a site's
        answer would be none either, and the site be blamed.
        """
        if not self._exists:
            return tiles
        count = len(next(iter(tiles.values())))
        found = [
            await self._engines.infer(
                HEAD, {name: array[part[0] : part[-1] + 1] for name, array in tiles.items()}, order=order
            )
            for part in even_parts(range(count), AT_ONCE)
        ]
        hidden = {name: np.concatenate([each[name] for each in found]) for name in found[0]}
        if not all(np.isfinite(array).all() for array in hidden.values()):
            raise EngineError(
                "the head here computes hidden states that are not finite; copy the bundle again, build its "
                "engine again where it has one, or export it with --hidden int8"
            )
        return after_head(hidden, tiles)
