"""A SAM from a checkpoint: every weight there, finite, of the shape that its model has."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter

from export.checkpoints.files import SAVE_PLAINLY, Leaf, read_contents
from export.checkpoints.foreign import refuse_changes, refuse_mobile_sam, refuse_networks
from export.checkpoints.layouts import Found, find_sam
from export.checkpoints.unpickling import Placeholder
from export.projection import Projection
from export.sam import PIXEL_MEAN, PIXEL_STD, Sam, Weights, build_sam
from stages.bundle import WEIGHT_STATUS
from stages.errors import CheckpointError, InputError
from stages.files import replacing, writing
from stages.geometry import GEOMETRIES, Geometry
from stages.tile_code import RGB, TileCode

Say = Callable[[str], None]
_COUNTERS = re.compile(r"(^|\.)(num_batches_tracked|n_averaged|total_ops|total_params)$")  # compute nothing
_MAX_NUMBERS = 1 << 28  # in one tensor; the largest of vit_h has 6.6 million
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_PROJECTION = ("projection.mean", "projection.basis", "projection.variance_kept")
_WITHOUT = "save it without its projection.* tensors, and pedsam export fits one to --photos"
_ORTHONORMAL = 1e-2  # of a product of two columns; weights saved as fp16 stay below 1e-3


@dataclass(frozen=True)
class Checkpoint:
    """SAM's tensors out of a file, float32 and finite, by segment-anything's names.

    `state` may lack parts of SAM, or be MobileSAM's. `status` and `trained_on` are those of a Bundle,
    `projection` and `tiles` are those of Weights.
    """

    path: Path
    state: Mapping[str, Tensor]
    status: str
    trained_on: str
    missing: tuple[str, ...] = ()
    projection: Projection | None = None
    tiles: TileCode = RGB


def load_weights(geometry: Geometry | None, path: Path, say: Say = click.echo) -> Weights:
    """SAM's weights from `path`, a file or a folder of a hub; see `read_checkpoint`.

    Without `geometry` the model is what the file holds. `say` is told what was left out. Raises
    CheckpointError for whatever is no whole SAM of that model.
    """
    return whole_sam(geometry, read_checkpoint(path, say))


def read_checkpoint(path: Path, say: Say = click.echo) -> Checkpoint:
    """SAM's tensors from a checkpoint of segment-anything, bare or wrapped, of transformers or of ours.

    Nothing but tensors is read. Raises CheckpointError for a file that holds no SAM, or weights that cannot
    be used.
    """
    contents = read_contents(path)
    status, trained_on = _facts(contents.metadata, path)
    found = find_sam(contents, path, say)
    refuse_networks(found.state, path)
    refuse_changes([*found.state, *(found.beside if found.missing else ())], path)
    state = {
        name: _usable(name, leaf, path) for name, leaf in found.state.items() if not _COUNTERS.search(name)
    }
    projection = _projection(found.beside, path) if "weights" in contents.metadata else None
    _check_beside(found, path, say)
    tiles = _tiles(contents.metadata, path)
    return Checkpoint(path, state, status, trained_on, found.missing, projection, tiles)


def _facts(metadata: Mapping[str, str], path: Path) -> tuple[str, str]:
    """Weight status and origin: what pedsam wrote into a file of its own; else SAM's own weights."""
    if "weights" not in metadata:
        return "undistilled", f"checkpoint {path.resolve().name}"
    if metadata["weights"] not in WEIGHT_STATUS or "trained_on" not in metadata:
        raise CheckpointError(
            f"{path} does not say what its weights are; make it with pedsam train or distill"
        )
    return metadata["weights"], metadata["trained_on"]


def _tiles(metadata: Mapping[str, str], path: Path) -> TileCode:
    """The code that weights of our own were trained to see tiles in."""
    try:
        return TileCode.parse(metadata.get("tiles", RGB.name) if "weights" in metadata else RGB.name)
    except InputError as exc:
        raise CheckpointError(
            f"{path} was trained on tiles of {metadata['tiles']!r:.40}, a code that is unknown here; use the "
            "pedsam that trained it"
        ) from exc


def _usable(name: str, leaf: Leaf, path: Path) -> Tensor:
    """The tensor as float32. Raises CheckpointError for what holds no plain, finite numbers."""
    if isinstance(leaf, Placeholder) or not _is_plain(leaf):
        kind = leaf.origin if isinstance(leaf, Placeholder) else f"{leaf.device.type} {type(leaf).__name__}"
        raise CheckpointError(
            f"{path} has {name} as {kind}, expected a plain tensor; gather its shards and {SAVE_PLAINLY}"
        )
    if leaf.dtype not in _FLOATS:
        dtype = str(leaf.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{path} has {name} in {dtype}: quantised weights; give those in fp32 or fp16 that they were "
            "made from"
        )
    if not leaf.numel():
        raise CheckpointError(
            f"{path} has {name} empty: DeepSpeed keeps its numbers in other files; gather them with its "
            "zero_to_fp32.py"
        )
    if leaf.numel() > _MAX_NUMBERS:  # a file of any size may say so: one number, repeated
        raise CheckpointError(
            f"{path} has {name} of {list(leaf.shape)}, more numbers than any tensor of a SAM; do not use it"
        )
    tensor = leaf.detach().float()
    if not torch.isfinite(tensor).all():
        raise CheckpointError(
            f"{path} has NaN or infinite numbers in {name}: training diverged or the file is damaged; "
            "take an earlier checkpoint or download it again"
        )
    return tensor


def _is_plain(tensor: Tensor) -> bool:
    """Whether the tensor holds all of its numbers itself."""
    return type(tensor) in (Tensor, Parameter) and tensor.layout == torch.strided and not tensor.is_meta


def _projection(beside: dict[str, Tensor], path: Path) -> Projection | None:
    """The projection among tensors of a file of pedsam, taken out of them; None where there is none.

    Raises CheckpointError for one that `export.projection` would not have made.
    """
    held = {name: beside.pop(name) for name in _PROJECTION if name in beside}
    if not held:
        return None
    mean, basis, kept = (_usable(name, held[name], path) if name in held else None for name in _PROJECTION)
    if mean is None or basis is None or kept is None or kept.numel() != 1 or not _is_basis(mean, basis):
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in held.items())
        raise CheckpointError(
            f"{path} holds a projection that is none ({shapes}): expected a mean, fewer orthonormal "
            f"columns than channels and the variance kept; {_WITHOUT}"
        )
    return Projection(mean, basis, float(kept))


def _is_basis(mean: Tensor, basis: Tensor) -> bool:
    """Whether these are [D] and [D, r], r less than D, with orthonormal columns."""
    if basis.ndim != 2 or mean.shape != basis.shape[:1] or basis.shape[1] >= basis.shape[0]:
        return False
    return torch.allclose(basis.T @ basis, torch.eye(basis.shape[1]), atol=_ORTHONORMAL)


def _check_beside(found: Found, path: Path, say: Say) -> None:
    """Tells what was left out. Raises CheckpointError for pictures normalised in another way than SAM's."""
    for name, own in (("pixel_mean", PIXEL_MEAN), ("pixel_std", PIXEL_STD)):
        leaf = found.beside.pop(name, None)
        if leaf is not None and not _is_near(leaf, torch.tensor(own)):
            few = _is_plain(leaf) and leaf.numel() < 9
            shown = [round(float(value), 3) for value in leaf.flatten()] if few else list(leaf.shape)
            raise CheckpointError(
                f"{path} has {name} {shown}, expected SAM's {list(own)}: it was "
                "trained on pictures normalised otherwise, which pedsam does not do"
            )
    rest = [name for name in found.beside if not _COUNTERS.search(name)]
    if rest:
        more = f" and {len(rest) - 3} more" if len(rest) > 3 else ""
        say(f"{path}: tensors that SAM does not have are left out: {', '.join(rest[:3])}{more}")


def _is_near(values: Tensor, own: Tensor) -> bool:
    """Whether these are SAM's own numbers, for pixels of 0 to 255 or of 0 to 1."""
    if values.numel() != own.numel() or not _is_plain(values):
        return False
    flat = values.detach().flatten().float()
    return any(torch.allclose(flat * times, own, rtol=1e-2) for times in (1, 255))


def whole_sam(geometry: Geometry | None, checkpoint: Checkpoint) -> Weights:
    """The SAM of a checkpoint. Raises CheckpointError where it is none, is not whole or of another model."""
    path, state = checkpoint.path, checkpoint.state
    refuse_mobile_sam(state, path)
    if checkpoint.missing:
        held = " and ".join(sorted({name.partition(".")[0] for name in state}))
        raise CheckpointError(
            f"{path} holds {held} of a SAM, without {' and '.join(checkpoint.missing)}; put it into the SAM "
            "it was trained in, sam.load_state_dict(part, strict=False), and save that: "
            "torch.save(sam.state_dict(), FILE)"
        )
    found = GEOMETRIES[_model_of(state, path)]
    if geometry is not None and found != geometry:
        raise CheckpointError(f"{path} holds {found.name} weights; give --model {found.name}")
    projection = checkpoint.projection
    if projection is not None and len(projection.mean) != found.dim:
        raise CheckpointError(
            f"{path} holds a projection of {len(projection.mean)} channels, expected {found.dim} of "
            f"{found.name}; {_WITHOUT}"
        )
    sam = sam_of(found, state, path)
    return Weights(sam, found, checkpoint.status, checkpoint.trained_on, projection, checkpoint.tiles)


def _model_of(state: Mapping[str, Tensor], path: Path) -> str:
    """The model name, from the shape of the position table and the number of blocks."""
    pos_embed = state.get("image_encoder.pos_embed")
    if pos_embed is None:
        raise CheckpointError(f"{path} is no SAM checkpoint: it has no image_encoder.pos_embed")
    depth = len({key.split(".")[2] for key in state if key.startswith("image_encoder.blocks.")})
    for geometry in GEOMETRIES.values():
        expected = (1, geometry.tokens, geometry.tokens, geometry.dim)
        if (depth, *pos_embed.shape) == (geometry.depth, *expected):
            return geometry.name
    raise CheckpointError(
        f"{path} holds an encoder of {depth} blocks and position table {list(pos_embed.shape)}, "
        f"expected that of one of {', '.join(GEOMETRIES)}"
    )


def sam_of(geometry: Geometry, state: Mapping[str, Tensor], path: Path) -> Sam:
    """A SAM that holds these very tensors."""
    sam = empty_sam(geometry)
    check_fit(sam.state_dict(), state, f"{path} does not fit {geometry.name}")
    sam.load_state_dict(state, assign=True)
    sam.pixel_mean = torch.tensor(PIXEL_MEAN).view(-1, 1, 1)
    sam.pixel_std = torch.tensor(PIXEL_STD).view(-1, 1, 1)
    return sam.eval()


def empty_sam(geometry: Geometry) -> Sam:
    """A SAM whose tensors have shapes alone, and take no memory."""
    with torch.device("meta"):
        return build_sam(geometry)


def check_fit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], error: str) -> None:
    """Raises CheckpointError, which begins with `error`, unless names and shapes are those of `expected`."""
    missing, added = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    shapes = [
        f"{name} is {list(state[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    for what, names in (("it lacks", missing), ("it has what SAM does not have:", added), ("", shapes)):
        if names:
            more = f" and {len(names) - 2} more" if len(names) > 2 else ""
            raise CheckpointError(f"{error}: {what} {', '.join(names[:2])}{more}".replace(":  ", ": "))


def save_weights(
    state: Mapping[str, Tensor],
    path: Path,
    status: str,
    trained_on: str,
    projection: Projection | None = None,
    tiles: TileCode = RGB,
) -> None:
    """Write weights in SAM's key layout and own block order, with their status, for `load_weights`.

    `projection` and `tiles` are what they were trained with; see Weights. Raises InputError when they cannot
    be written; what was at `path` stays then.
    """
    held = {**state, **(_tensors(projection) if projection else {})}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in held.items()}
    with writing(path), replacing(path) as temporary:
        try:
            facts = {"weights": status, "trained_on": trained_on, "tiles": tiles.name}
            save_file(tensors, temporary, facts)
        except SafetensorError as exc:
            raise OSError(str(exc)) from exc


def _tensors(projection: Projection) -> dict[str, Tensor]:
    values = (projection.mean, projection.basis, torch.tensor(projection.variance_kept))
    return dict(zip(_PROJECTION, values, strict=True))
