"""SAM's weights read back from a bundle, so that another bundle of them needs no checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from torch import Tensor

from export.checkpoints.load import Say, empty_sam, load_weights, sam_of
from export.checkpoints.stage_graph import StageGraph
from export.projection import Projection
from export.sam import Weights
from stages.bundle import Bundle
from stages.errors import BundleError
from stages.geometry import GEOMETRIES, Geometry
from stages.hidden import HEAD

_STAGES = ("window", "global", "decoder")  # they hold all of SAM between them, and HEAD where there is one
# What stages of a precision round weights to. Compact ones stay what they are when exported so again.
_LOWER = {"fp16": "fp16", "bf16": "bf16"}
_COMPACT = {"fp32 from fp16 weights": "fp16"}


def weights_of(path: Path, say: Say = click.echo) -> Weights:
    """Weights of a bundle's folder, or of .safetensors that pedsam wrote.

    Raises BundleError for a folder that is no whole bundle of a model known here, and CheckpointError for a
    file that holds no SAM.
    """
    if not path.exists():
        raise BundleError(f"{path} does not exist; give a bundle's folder or .safetensors of pedsam")
    if not path.is_dir():
        return load_weights(None, path, say)
    bundle = Bundle.load(path)
    if bundle.geometry not in GEOMETRIES.values():
        raise BundleError(
            f"{path} holds {bundle.geometry.name!r:.80} of a geometry unknown here, expected one of "
            f"{', '.join(GEOMETRIES)}; use the pedsam that exported it"
        )
    weights = load_bundle_weights(bundle)
    rounded = _rounded_to(bundle, {**_LOWER, **_COMPACT})
    note = f", which its export rounded to {rounded}" if rounded else ""
    say(f"{path}: {bundle.description} read back{note}")
    return weights


def load_bundle_weights(bundle: Bundle) -> Weights:
    """The SAM and the projection whose stages a bundle holds, in fp32, with what is known of the weights.

    Without the projection of hidden states, which belongs to how many blocks a head has.

    Its tensors are those exported, bit for bit; of fp16 and bf16 stages they are the rounded ones, which
    `trained_on` says. Raises BundleError that names the file which is missing or damaged, or the tensor that
    a stage lacks.
    """
    geometry = bundle.geometry
    files = {stage: bundle.verified_file(stage) for stage in _stages(bundle)}
    graphs = {}
    for stage, file in files.items():
        with _readable(file):
            graphs[stage] = StageGraph.load(file, geometry)

    def read(name: str, shape: Sequence[int]) -> Tensor:
        stage, inner = _place(name, geometry, bundle.head_blocks)
        with _readable(files[stage]):
            found = graphs[stage].find(inner, shape)
        if found is None:
            raise BundleError(
                f"{files[stage]} holds {name} {list(shape)} in no form known here; "
                "export again from a checkpoint"
            )
        return found

    state = {name: read(name, tensor.shape) for name, tensor in empty_sam(geometry).state_dict().items()}
    projection = None
    if bundle.components != geometry.dim:
        mean = read("projection.mean", (geometry.dim,))
        basis = read("projection.basis", (geometry.dim, bundle.components))
        projection = Projection(mean, basis, bundle.variance_kept)
    sam = sam_of(geometry, state, bundle.path)
    return Weights(sam, geometry, bundle.weights, _trained_on(bundle), projection, bundle.tiles)


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Raises BundleError for whatever reading a stage raises: its hashes may be right and its graph none."""
    try:
        yield
    except Exception as exc:  # the errors of onnx_ir and protobuf share no base class
        reason = " ".join(str(exc).split())
        raise BundleError(
            f"{file} cannot be read ({type(exc).__name__}: {reason:.200}); export again from a checkpoint"
        ) from exc


def _trained_on(bundle: Bundle) -> str:
    rounded = _rounded_to(bundle, _LOWER)
    note = f"; rounded to {rounded}" if rounded else ""
    return bundle.trained_on.removesuffix(note) + note


def _rounded_to(bundle: Bundle, stored: Mapping[str, str]) -> str:
    """Dtypes of `stored` that weights of stages are in: "fp16", "bf16 and fp16", or nothing."""
    precisions = {bundle.stage(stage).precision for stage in _stages(bundle)}
    return " and ".join(sorted({stored[precision] for precision in precisions & stored.keys()}))


def _stages(bundle: Bundle) -> tuple[str, ...]:
    return (HEAD, *_STAGES) if bundle.head_blocks else _STAGES


def _place(name: str, geometry: Geometry, head_blocks: int) -> tuple[str, str]:
    """The stage that holds a tensor of SAM's or of the projection, and the name that its module has there."""
    part, _, inner = name.partition(".")
    if part == "projection":
        return "window", f"project.{inner}"
    if part == "prompt_encoder":
        return "decoder", f"prompts.{inner}"
    if part == "mask_decoder":
        return "decoder", f"decoder.{inner}"
    if not inner.startswith("blocks."):
        return ("global" if inner.startswith("neck.") else HEAD if head_blocks else "window"), inner
    _, block, rest = inner.split(".", 2)
    for stage, blocks in (
        (HEAD, geometry.window_blocks[:head_blocks]),
        ("window", geometry.window_blocks[head_blocks:]),
        ("global", geometry.global_blocks),
    ):
        if int(block) in blocks:
            return stage, f"blocks.{blocks.index(int(block))}.{rest}"
    raise ValueError(name)
