"""The tile of a window as sites may be sent it: one that its frame does not keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stages.tensors import Array


@dataclass(frozen=True)
class SendableTile:
    """Inputs of the window stage, n = 1, of a window that is not among those its frame keeps, `kept`.

    Whatever sends tiles takes these and nothing else, so that a kept window has no way to a site. Which one
    it is, is read from the inputs. Raises RuntimeError for a window that is kept.
    """

    inputs: Mapping[str, Array]
    kept: frozenset[int]

    def __post_init__(self) -> None:
        if self.window in self.kept:
            raise RuntimeError(f"window {self.window} of this frame is kept, and was about to leave")

    @property
    def window(self) -> int:
        return int(self.inputs["index"].item())  # raises ValueError where n is not 1
