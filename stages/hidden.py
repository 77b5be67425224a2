"""What travels up instead of a tile where the edge runs the first window blocks: hidden states.

The edge's head is the patch embedding, the positions and the first K window blocks. What it leaves of a
window is `hidden` [w, w, D], and a site begins there. It travels in one of these forms, with D numbers a
token or with fewer, projected onto components:

    fp16   hidden fp16 [n, w, w, r]
    int8   hidden int8 [n, w, w, r], and one scale a token, hidden_scale fp16 [n, w, w, 1]
    fp32   hidden fp32 [n, w, w, r], for tests

Tokens outside the canvas are zeros. Which they are follows from `index`, which travels too; the place of the
picture in the tile does not. It is no code that hides a picture: see docs/what-travels.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stages.geometry import Geometry
from stages.tensors import Array, TensorSpec

HEAD = "head"  # the stage
HIDDEN, HIDDEN_SCALE, INDEX = "hidden", "hidden_scale", "index"
FORMS: Mapping[str, str] = {"fp16": "float16", "int8": "int8", "fp32": "float32"}  # to numpy's dtypes


@dataclass(frozen=True)
class HiddenForm:
    """How `hidden` travels: `form` is one of FORMS, `components` are numbers a token.

    `variance_kept`, 0 to 1, is their share of its variance.
    """

    form: str
    components: int
    variance_kept: float = 1.0

    @property
    def text(self) -> str:
        """For a person: "192 components a token in int8"."""
        return f"{self.components} components a token in {self.form}"

    def specs(self, geometry: Geometry) -> tuple[TensorSpec, ...]:
        """The tensors that a window travels as, `hidden` first; without its index."""
        rows, cols, components = geometry.embedding_shape(self.components)
        hidden = TensorSpec(HIDDEN, FORMS[self.form], ("n", rows, cols, components))
        if self.form != "int8":
            return (hidden,)
        return hidden, TensorSpec(HIDDEN_SCALE, "float16", ("n", rows, cols, 1))

    def to_json(self) -> dict[str, Any]:
        return {"form": self.form, "components": self.components, "variance_kept": self.variance_kept}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> HiddenForm:
        """Raises KeyError, TypeError or ValueError for what describes no form."""
        form, components = data["form"], data["components"]
        if form not in FORMS or type(components) is not int or components < 1:
            raise ValueError(f"hidden form {data!r:.80}, expected one of {tuple(FORMS)} and components")
        return cls(form, components, float(data["variance_kept"]))


def after_head(hidden: Mapping[str, Array], tiles: Mapping[str, Array]) -> dict[str, Array]:
    """Inputs of the window stage from the head's outputs and inputs."""
    return {HIDDEN: hidden[HIDDEN], INDEX: tiles[INDEX]} | {
        name: array for name, array in hidden.items() if name == HIDDEN_SCALE
    }
