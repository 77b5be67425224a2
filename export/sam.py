"""SAM models from the segment-anything package: the one module that imports it.

Encoders returned here are in SAM's own block order; `export.stages` reorders them.
"""

from __future__ import annotations

import math
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from stages.bundle import WEIGHT_STATUS
from stages.errors import CheckpointError
from stages.geometry import GEOMETRIES, Geometry


def _import_torchvision() -> Any:
    """Make torchvision importable where its compiled operators do not load (they need the very torch build
    they were compiled for): declare the two schemas it looks for. segment_anything only needs its transforms.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # "operator torchvision::nms does not exist"
        pass
    else:
        return None
    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


_torchvision_library = _import_torchvision()  # the declarations live as long as this object

from segment_anything import SamPredictor, sam_model_registry  # noqa: E402
from segment_anything.modeling import (  # noqa: E402
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from segment_anything.modeling.common import LayerNorm2d  # noqa: E402
from segment_anything.modeling.image_encoder import window_partition, window_unpartition  # noqa: E402

__all__ = [
    "ImageEncoderViT",
    "Sam",
    "SamPredictor",
    "Weights",
    "build_sam",
    "load_weights",
    "neck",
    "randomise",
    "read_checkpoint",
    "sam_model_registry",
    "save_weights",
    "window_partition",
    "window_unpartition",
]

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
DOWNLOADS = {
    "vit_b": ("https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth", "375 MB"),
    "vit_l": ("https://dl.fbaipublicfiles.com/segment_anything/sam_vit_l_0b3195.pth", "1.25 GB"),
    "vit_h": ("https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth", "2.56 GB"),
}


def build_sam(geometry: Geometry) -> Sam:
    """A SAM of this geometry, in evaluation mode, with the weights its modules start from."""
    if geometry.name in sam_model_registry:
        return sam_model_registry[geometry.name]()
    sam = Sam(
        image_encoder=_encoder(geometry),
        prompt_encoder=PromptEncoder(
            embed_dim=geometry.prompt_dim,
            image_embedding_size=(geometry.tokens, geometry.tokens),
            input_image_size=(geometry.image_size, geometry.image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=geometry.prompt_dim, mlp_dim=2048, num_heads=8
            ),
            transformer_dim=geometry.prompt_dim,
        ),
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    )
    return sam.eval()


def _encoder(geometry: Geometry) -> ImageEncoderViT:
    return ImageEncoderViT(
        img_size=geometry.image_size,
        patch_size=geometry.patch,
        embed_dim=geometry.dim,
        depth=geometry.depth,
        num_heads=geometry.heads,
        out_chans=geometry.prompt_dim,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=geometry.window,
        global_attn_indexes=geometry.global_blocks,
    )


def neck(width: int, channels: int = 256) -> nn.Sequential:
    """The layers that end SAM's image encoder: tokens [B, width, E, E] to embeddings [B, channels, E, E]."""
    return nn.Sequential(
        nn.Conv2d(width, channels, 1, bias=False),
        LayerNorm2d(channels),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        LayerNorm2d(channels),
    )


@torch.no_grad()
def randomise(sam: Sam, seed: int = 0) -> None:
    """Fill every tensor with non-zero random values of a size that keeps activations near one.

    SAM's own initialisation leaves position tables and norm biases at zero, where mistakes with them
    would not show.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in sam.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim == 1 and name.endswith("weight"):  # norms
            tensor.copy_(1 + 0.1 * noise)
        elif "bias" in name or "rel_pos" in name:
            tensor.copy_(0.1 * noise)
        elif name.endswith("pos_embed"):
            tensor.copy_(0.5 * noise)
        elif (
            name.endswith(("_embed.weight", "_token.weight", "_tokens.weight", "gaussian_matrix"))
            or "point_embeddings" in name
        ):
            tensor.copy_(noise)
        else:  # linear and convolution weights, scaled by their fan-in
            tensor.copy_(noise / math.sqrt(tensor[0].numel()))


@dataclass(frozen=True)
class Weights:
    """A SAM in its own block order, with what is known about its weights (see Bundle)."""

    sam: Sam
    geometry: Geometry
    status: str
    trained_on: str


def load_weights(geometry: Geometry | None, path: Path) -> Weights:
    """Weights from a segment-anything 1.0 checkpoint (`.pth`) or from a `.safetensors` file of ours.

    Without `geometry` the model is what the file holds. Nothing but tensors is read. Raises CheckpointError
    for a file that is missing, truncated, of another kind or of another model.
    """
    if path.suffix == ".safetensors":
        state, facts = _read_safetensors(path)
    else:
        state = read_checkpoint(path)
        facts = {"weights": "undistilled", "trained_on": f"checkpoint {path.name}"}
    found = GEOMETRIES[_model_of(state, path)]
    if geometry is not None and found != geometry:
        raise CheckpointError(f"{path} holds {found.name} weights; export it with --model {found.name}")
    return Weights(_sam_of(found, state, path), found, facts["weights"], facts["trained_on"])


def save_weights(state: Mapping[str, Tensor], path: Path, status: str, trained_on: str) -> None:
    """Write weights in SAM's key layout and own block order, with their status, for `load_weights`."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, {"weights": status, "trained_on": trained_on})
    temporary.replace(path)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except FileNotFoundError as exc:
        raise CheckpointError(f"{path} does not exist; give the path of a checkpoint") from exc
    except (SafetensorError, OSError) as exc:
        raise CheckpointError(f"{path} is truncated or no safetensors file; make or copy it again") from exc
    if facts.get("weights") not in WEIGHT_STATUS or "trained_on" not in facts:
        raise CheckpointError(
            f"{path} does not say what its weights are; make it with pedsam train or distill"
        )
    return state, facts


def _sam_of(geometry: Geometry, state: dict[str, Tensor], path: Path) -> Sam:
    sam = build_sam(geometry)
    try:
        sam.load_state_dict(state, assign=True)
    except RuntimeError as exc:
        raise CheckpointError(f"{path} does not fit {geometry.name}: {_first_lines(exc)}") from exc
    return sam.float().eval()


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch checkpoint. Raises CheckpointError for a file that holds anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files it then refuses, torch also says how they were pickled
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as exc:
        raise CheckpointError(f"{path} does not exist; give the path of a SAM checkpoint") from exc
    except pickle.UnpicklingError as exc:
        raise CheckpointError(
            f"{path} is no plain checkpoint (it holds code or is no PyTorch file); download it again"
        ) from exc
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as exc:
        raise CheckpointError(f"{path} is truncated or no PyTorch file; download it again") from exc
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} is no SAM checkpoint: expected a dictionary of tensors")
    return state


def _model_of(state: dict[str, Tensor], path: Path) -> str:
    """The model name, from the shape of the position table and the number of blocks."""
    pos_embed = state.get("image_encoder.pos_embed")
    if pos_embed is None or pos_embed.ndim != 4:
        raise CheckpointError(f"{path} is no SAM checkpoint: it has no image_encoder.pos_embed")
    depth = len({key.split(".")[2] for key in state if key.startswith("image_encoder.blocks.")})
    shape = (depth, *pos_embed.shape[1:])
    for geometry in GEOMETRIES.values():
        if shape == (geometry.depth, geometry.tokens, geometry.tokens, geometry.dim):
            return geometry.name
    raise CheckpointError(
        f"{path} holds an encoder of {depth} blocks and position table {list(pos_embed.shape)}, "
        f"expected that of one of {', '.join(GEOMETRIES)}"
    )


def _first_lines(exc: Exception) -> str:
    return " ".join(str(exc).split())[:300]
