"""SAMs to learn from: any of SAM's own, and MobileSAM, SAM's decoder behind a small convolutional encoder.

Source: MobileSAM (arXiv 2306.14289), TinyViT (arXiv 2207.10666); the encoder is timm's, its checkpoint
mobile_sam.pt of github.com/ChaoningZhang/MobileSAM.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from torch import Tensor, nn
from torch.nn import functional as F

from export.checkpoints.foreign import MOBILE_SAM
from export.checkpoints.load import check_fit, empty_sam, load_weights, read_checkpoint, whole_sam
from export.sam import Weights, build_sam, neck
from stages.errors import CheckpointError, InputError
from stages.geometry import GEOMETRIES, Geometry
from training.enlarging import enlarged
from training.promptable import Promptable

# What every SAM has in the same shapes: all but the encoder's trunk and the layer that reads its width.
SHARED = ("prompt_encoder.", "mask_decoder.", *(f"image_encoder.neck.{n}." for n in (1, 2, 3)))
_WIDTH = 320  # channels that TinyViT-5M ends with


@dataclass(frozen=True)
class Teacher:
    """`encoder` makes image embeddings [B, 256, S/16, S/16] of pixels [B, 3, S, S]; `shared` are weights that
    a student of any geometry can start with; `own` is the whole teacher, where it has SAM's blocks.
    """

    encoder: nn.Module
    shared: Mapping[str, Tensor]
    own: Weights | None

    def student(self, geometry: Geometry | None, init: Path | None = None) -> Weights:
        """What is to learn from this teacher, in SAM's own block order: its copy, or a SAM of `geometry`.

        The latter's encoder starts from the weights in `init` or from scratch, all else from the teacher.
        Raises InputError where MobileSAM, which has none of SAM's blocks, is to teach its copy.
        """
        if geometry is None:
            if self.own is None:
                raise InputError(
                    "MobileSAM has no blocks to reorder; give the model that learns from it: --model mini"
                )
            return replace(self.own, sam=copy.deepcopy(self.own.sam))
        weights = starting_weights(geometry, init)
        weights.sam.load_state_dict({**weights.sam.state_dict(), **self.shared})
        return weights


def starting_weights(geometry: Geometry, init: Path | None) -> Weights:
    """What a training begins with: the weights in `init`, enlarged if they are a smaller model's (which is
    told), or a SAM from scratch."""
    if init is None:
        return Weights(build_sam(geometry), geometry, "untrained", "")
    weights = load_weights(None, init)
    if weights.geometry == geometry:
        return weights
    larger = enlarged(weights, geometry)
    click.echo(f"{geometry.name} starts from the {weights.geometry.name} weights in {init}, enlarged")
    return larger


class Enlarged(nn.Module):
    """A teacher that sees pictures enlarged; its embeddings are averaged to the tokens that pictures have."""

    def __init__(self, encoder: nn.Module, times: int) -> None:
        super().__init__()
        self.encoder = encoder
        self._times = times

    def forward(self, pixels: Tensor) -> Tensor:
        larger = F.interpolate(pixels, scale_factor=self._times, mode="bicubic")
        return F.avg_pool2d(self.encoder(larger), self._times)


def load_teacher(path: Path) -> Teacher:
    """A teacher from any checkpoint that `export.checkpoints.load` reads, or MobileSAM's mobile_sam.pt.

    Raises CheckpointError for a file that holds none of these.
    """
    checkpoint = read_checkpoint(path)
    if MOBILE_SAM in checkpoint.state:
        shared = _shared(checkpoint.state)
        if "mask_decoder" not in checkpoint.missing:
            check_fit(
                _shared(empty_sam(GEOMETRIES["mini"]).state_dict()),
                shared,
                f"{path} is no MobileSAM checkpoint",
            )
        return Teacher(_MobileEncoder(checkpoint.state, path), shared, None)
    weights = whole_sam(None, checkpoint)
    return Teacher(Promptable(weights.sam), _shared(weights.sam.state_dict()), weights)


def _shared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name.startswith(SHARED)}


class _MobileEncoder(nn.Module):
    """MobileSAM's image encoder, on square pictures of any size that 16 divides."""

    def __init__(self, state: Mapping[str, Tensor], path: Path) -> None:
        super().__init__()
        self.trunk = _tiny_vit()
        self.neck = neck(_WIDTH)
        named = {_own_name(name): tensor for name, tensor in state.items()}
        try:
            self.load_state_dict({name: tensor for name, tensor in named.items() if name})
        except RuntimeError as exc:
            raise CheckpointError(
                f"{path} is no MobileSAM checkpoint: {' '.join(str(exc).split())[:300]}"
            ) from exc

    def forward(self, pixels: Tensor) -> Tensor:
        embedding: Tensor = self.neck(self.trunk.forward_features(pixels))
        return embedding


def _tiny_vit() -> Any:
    try:
        import timm
    except ImportError as exc:
        raise InputError(
            "learning from MobileSAM needs timm; install it with: pip install 'pedsam[train]'"
        ) from exc
    trunk: Any = timm.create_model("tiny_vit_5m_224", num_classes=0)
    trunk.head = nn.Identity()
    trunk.stages[3].downsample.conv2.conv.stride = (1, 1)  # MobileSAM keeps 16 pixels a token
    return trunk


def _own_name(name: str) -> str | None:
    """What a tensor of the checkpoint is called here; None for those that make no embeddings."""
    encoder, _, rest = name.partition(".")
    if encoder != "image_encoder" or rest.startswith(("norm_head.", "head.")):
        return None
    if rest.startswith("neck."):
        return rest
    rest = rest.replace("patch_embed.seq.0.", "patch_embed.conv1.")
    rest = rest.replace("patch_embed.seq.2.", "patch_embed.conv2.")
    # the layers that shrink the picture end a stage there, and begin the next one here
    rest = re.sub(r"layers\.(\d)\.downsample", lambda found: f"stages.{int(found[1]) + 1}.downsample", rest)
    return "trunk." + rest.replace("layers.", "stages.").replace(".c.", ".conv.")
