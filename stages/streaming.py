"""The global stage's parts, which a bundle may hold beside it; see export.streaming."""

from __future__ import annotations

from stages.bundle import Bundle
from stages.geometry import Geometry
from stages.tensors import TensorSpec

PROJECT, ATTEND, FINISH = PARTS = ("project", "attend", "finish")


def can_stream(bundle: Bundle) -> bool:
    """Whether this copy of a bundle holds the parts of the global stage."""
    return all(bundle.has(part) for part in PARTS)


def part_tensors(
    part: str, geometry: Geometry, embedding: TensorSpec, image_embedding: TensorSpec, dtype: str
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a part. `embedding` and `image_embedding` are those of the global stage, and
    `dtype` is what its products compute in."""
    g = geometry
    count, head, last = g.window * g.tokens, g.dim // g.heads, (g.grid - 1) * g.window
    qkv = (
        TensorSpec("query", dtype, (g.heads, count, head)),
        TensorSpec("key", dtype, (g.heads, head, count)),
        TensorSpec("value", dtype, (g.heads, count, head)),
    )
    shapes = {
        "largest": (g.heads, count, 1),
        "total": (g.heads, count, 1),
        "attended": (g.heads, count, head),
    }
    hidden = (1, g.window, g.tokens, g.dim)
    if part == PROJECT:
        windows = TensorSpec("embedding", embedding.dtype, (g.grid, *embedding.shape[1:]))
        row = TensorSpec("row", "int32", (1,), (0, last))
        return (windows, row), (TensorSpec("hidden", "float32", hidden), *qkv)
    if part == ATTEND:
        rows = TensorSpec("rows", "int32", (2,), (0, last))
        running = tuple(TensorSpec(name, "float32", shape) for name, shape in shapes.items())
        after = tuple(TensorSpec(f"new_{name}", "float32", shape) for name, shape in shapes.items())
        return (*qkv, rows, *running), after
    inputs = [TensorSpec(f"hidden_{row}", "float32", hidden) for row in range(g.grid)]
    inputs += [TensorSpec(f"attended_{row}", "float32", shapes["attended"]) for row in range(g.grid)]
    return tuple(inputs), (image_embedding,)
