"""What of a hidden state travels where the edge runs the first window blocks, as graphs compute it.

`Pack` ends the head, `Unpack` begins the window stage after it, `Travel` is both in one for the whole stage
and for references. They compute in fp32 in a stage of any precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.projection import Projection, project, restore
from export.quantise import dequantise, quantise, rounded
from stages.geometry import Geometry
from stages.hidden import FORMS, HiddenForm


@dataclass(frozen=True)
class Head:
    """The first `blocks` window blocks run at the edge; what they leave travels in `form`, one of
    stages.hidden.FORMS, and in the components of `projection`, if there is one."""

    blocks: int
    form: str
    projection: Projection | None = None

    def hidden(self, geometry: Geometry) -> HiddenForm:
        """The same for a bundle's record."""
        if self.projection is None:
            return HiddenForm(self.form, geometry.dim)
        return HiddenForm(self.form, self.projection.components, self.projection.variance_kept)


class Pack(nn.Module):
    """Hidden fp32 [n, w, w, D] -> what travels: `hidden`, in int8 with its scale."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.form = head.form
        self.project = project(head.projection)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.project(x)
        return quantise(x) if self.form == "int8" else (x.to(getattr(torch, FORMS[self.form])),)


class Unpack(nn.Module):
    """What travels -> hidden fp32 [n, w, w, D]."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.restore = restore(head.projection)

    def forward(self, hidden: Tensor, scale: Tensor | None) -> Tensor:
        x: Tensor = self.restore(hidden.float() if scale is None else dequantise(hidden, scale))
        return x


class Travel(nn.Module):
    """What the way does to hidden states, fp32 [..., D]: int8 and components, not what fp16 rounds."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.form = head.form
        self.project, self.restore = project(head.projection), restore(head.projection)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(x)
        travelled: Tensor = self.restore(rounded(x) if self.form == "int8" else x)
        return travelled


def travel(head: Head | None) -> nn.Module:
    """`Travel`, or what leaves hidden states as they are where none travels."""
    return Travel(head) if head else nn.Identity()
