"""SAM's tensors in the graph of one stage, found by what the graph computes with them.

Torch's exporter keeps most tensors under the names that their modules have. Of the others a graph holds

    weight of a Linear        transposed, in the MatMul before the Add of its bias
    rel_pos_h, rel_pos_w      as `position_table` makes them, in one or more blocks of queries
    tensors of LayerNorm2d    [C, 1, 1], in the Mul and Add after the convolution before it
    pos_embed                 cut into windows, with zeros beyond the canvas
    embeddings of prompts     as rows of tables that no other constant has the shape of
    the mask embedding        its last layer as rows of such a table

`pedsam export --compact` puts a Cast behind a constant. Nothing is guessed: what has another form, and one of
several equal tensors, of which the exporter keeps the first, is not found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from export.modules import position_table
from export.sam import window_partition, window_unpartition
from stages.geometry import Geometry

_NORM_2D = re.compile(r"(.*(?:neck|mask_downscaling|output_upscaling))\.(\d+)\.(weight|bias)")
_TABLE = re.compile(r"(.*)\.rel_pos_([hw])")
# Where DecoderStage puts embeddings: dimensions of the table, and its rows.
_ROWS = {
    "prompts.not_a_point_embed.weight": (2, slice(0, 1)),
    **{f"prompts.point_embeddings.{i}.weight": (2, slice(i + 1, i + 2)) for i in range(4)},
    "decoder.iou_token.weight": (3, slice(0, 1)),
    "decoder.mask_tokens.weight": (3, slice(1, 5)),
}
_MASK_PRODUCT = "prompts.mask_downscaling.6."
_MASK_FEATURES = 16  # of SAM's mask embedding, before its last layer


@dataclass(frozen=True)
class StageGraph:
    """Nodes of one stage in the order they run, and its constants by the names that nodes use."""

    nodes: tuple[ir.Node, ...]
    constants: Mapping[str, ir.TensorProtocol]
    geometry: Geometry

    @classmethod
    def load(cls, path: Path, geometry: Geometry) -> StageGraph:
        graph = ir.load(path).graph
        values = graph.initializers.items()
        constants = {name: value.const_value for name, value in values if value.const_value is not None}
        for node in graph:
            if node.op_type == "Cast" and (tensor := constants.get(_name(node.inputs[0]))) is not None:
                constants[_name(node.outputs[0])] = tensor
        return cls(tuple(graph), constants, geometry)

    def find(self, name: str, shape: Sequence[int]) -> Tensor | None:
        """The tensor that modules call `name`, fp32; None where nothing of its shape has its place."""
        found = self._as_it_is(name)
        if found is None:
            found = self._in_another_form(name, shape)
        return found if found is not None and found.shape == tuple(shape) else None

    def _in_another_form(self, name: str, shape: Sequence[int]) -> Tensor | None:
        if name == "pos_embed":
            return self._position_embedding()
        if name in _ROWS:
            dimensions, rows = _ROWS[name]
            return self._rows((1,) * (dimensions - 2) + (5, shape[-1]), rows)
        if name.startswith(_MASK_PRODUCT):
            return self._mask_product(name.removeprefix(_MASK_PRODUCT), shape)
        if name == "prompts.no_mask_embed.weight":
            found = self._only((1, shape[-1], 1, 1))
            return None if found is None else found.reshape(1, -1)
        if match := _TABLE.fullmatch(name):
            return self._relative_positions(*match.groups())
        if match := _NORM_2D.fullmatch(name):
            return self._norm_2d(match[1], int(match[2]), match[3])
        return self._linear(name.removesuffix(".weight"))

    def _mask_product(self, tensor: str, shape: Sequence[int]) -> Tensor | None:
        """Weight [C, 16, 1, 1] or bias [C] of the mask embedding's last layer: the first 16 rows of the only
        constant [18, C], or the one after them."""
        table = self._only((_MASK_FEATURES + 2, shape[0]))
        if table is None:
            return None
        columns = table.T.contiguous()
        return columns[:, :_MASK_FEATURES, None, None] if tensor == "weight" else columns[:, _MASK_FEATURES]

    def _as_it_is(self, name: str | None) -> Tensor | None:
        """The constant of this name, fp32."""
        tensor = self.constants.get(name or "")
        return None if tensor is None else torch.from_numpy(tensor.numpy().astype(np.float32))

    def _only(self, shape: Sequence[int]) -> Tensor | None:
        """The floating-point constant of this shape, where just one has it."""
        named = {
            id(tensor): name
            for name, tensor in self.constants.items()
            if tuple(tensor.shape) == tuple(shape) and tensor.dtype.is_floating_point()
        }
        return self._as_it_is(*named.values()) if len(named) == 1 else None

    def _user(self, name: str) -> int | None:
        """The place of the first node that takes the constant `name`."""
        users = (i for i, node in enumerate(self.nodes) if name in map(_name, node.inputs))
        return next(users, None)

    def _linear(self, layer: str) -> Tensor | None:
        """A Linear's weight [out, in]: MatMul(x, weight transposed), then Add of the bias."""
        place = self._user(f"{layer}.bias")
        if place is None:
            return None
        for value in self.nodes[place].inputs:
            product = value.producer() if value is not None else None
            if product is not None and product.op_type == "MatMul":
                found = self._as_it_is(_name(product.inputs[1]))
                return None if found is None or found.ndim != 2 else found.T.contiguous()
        return None

    def _norm_2d(self, layers: str, place: int, tensor: str) -> Tensor | None:
        """A LayerNorm2d's weight or bias [C]: Mul(weight, x) after the convolution before it, then Add."""
        start = self._user(f"{layers}.{place - 1}.weight")
        if start is None:
            return None
        for operator in ("Mul", "Add")[: 1 if tensor == "weight" else 2]:
            found, start = self._next_scale(operator, start)
        return found

    def _next_scale(self, operator: str, start: int) -> tuple[Tensor | None, int]:
        """The next constant [C, 1, 1] that such a node after `start` takes, as [C], and the node's place."""
        for place, node in enumerate(self.nodes[start + 1 :], start + 1):
            for value in node.inputs if node.op_type == operator else ():
                found = self._as_it_is(_name(value))
                if found is not None and found.ndim == 3 and found.shape[1:] == (1, 1):
                    return found.flatten(), place
        return None, len(self.nodes)

    def _relative_positions(self, attention: str, axis: str) -> Tensor | None:
        """SAM's table of one axis [2*size - 1, d] from the matrices [query, d, key] that a graph has of it.

        Blocks of queries come in order, each with a part of the matrices of rows, which the exporter cut or
        leaves to a Slice of the graph, and with all matrices of columns, whose queries are transposed
        before.
        """
        start, stop = self._user(f"{attention}.qkv.bias"), self._user(f"{attention}.proj.bias")
        if start is None or stop is None:
            return None
        met = dict.fromkeys(
            _uncut(node.inputs[1])
            for node in self.nodes[start:stop]
            if node.op_type == "MatMul" and _is_result_of("Transpose", node.inputs[0]) == (axis == "w")
        )
        parts = [part for value in met if (part := self._matrices(value)) is not None and part.ndim == 3]
        if not parts:
            return None
        table = torch.cat(parts)
        # query 0 meets keys 0.. as rows size-1 down to 0; queries 1.. meet key 0 as rows size..
        rows = torch.cat([table[0].flip(1).T, table[1:, :, 0]])
        same = table.shape[0] == table.shape[2] and torch.equal(position_table(rows, len(table)), table)
        return rows if same else None

    def _matrices(self, value: ir.Value | None) -> Tensor | None:
        """Constant matrices [query, d, key], or those that the graph gathers from a table and turns.

        The exporter folds no constants as large as those of vit_h.
        """
        turn = value.producer() if value is not None else None
        source = turn.inputs[0] if turn is not None and turn.op_type == "Transpose" else None
        gather = source.producer() if source is not None else None
        if turn is None or gather is None or gather.op_type != "GatherND":
            return self._as_it_is(_name(value))
        table, places = (self._as_it_is(_name(each)) for each in gather.inputs)
        if table is None or places is None:
            return None
        return table[places.long().unbind(-1)].permute(*turn.attributes["perm"].as_ints())

    def _position_embedding(self) -> Tensor | None:
        """SAM's position embedding [1, T, T, D] from that of all windows [windows, w, w, D]."""
        g = self.geometry
        positions = self._only((g.windows, g.window, g.window, g.dim))
        if positions is None:
            return None
        padded = (g.grid * g.window, g.grid * g.window)
        whole = window_unpartition(positions, g.window, padded, (g.tokens, g.tokens)).contiguous()
        return whole if torch.equal(window_partition(whole, g.window)[0], positions) else None

    def _rows(self, shape: Sequence[int], rows: slice) -> Tensor | None:
        """Rows of the only constant of this shape, [rows, C]."""
        table = self._only(shape)
        return None if table is None else table.reshape(-1, shape[-1])[rows].clone()


def _name(value: ir.Value | None) -> str:
    return (value.name if value is not None else None) or ""


def _uncut(value: ir.Value | None) -> ir.Value | None:
    """What a Slice takes its part from; any other value itself."""
    node = value.producer() if value is not None else None
    return node.inputs[0] if node is not None and node.op_type == "Slice" else value


def _is_result_of(operator: str, value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    return node is not None and node.op_type == operator
