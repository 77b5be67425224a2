"""What a masked autoencoder makes of what was not given: ViTMAE (K. He et al. 2022) through transformers,
with weights that the user has.

The model sees the picture squeezed to a square of its own, in patches. Those that lie wholly within what is
held are shown and all others are masked, in place of the random ones of its training.

A model that was trained on patches normalised each by itself (norm_pix_loss) tells neither the brightness
nor the contrast of a hidden patch. Then its mean is that of the membrane there, and its deviation the mean
of those of the patches shown.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from evaluation.audit.attacks import mean_colour, membrane
from evaluation.audit.views import Mask, View
from stages.errors import InputError
from stages.json_values import brief
from stages.tensors import Pixels
from stages.text_files import read_json

VITMAE = "vitmae"
MISSING = "--mae needs torch and transformers: install pedsam[mae]"
EXPECTED = "expected a folder that ViTMAEForPreTraining.save_pretrained wrote"
# What the model was trained on: RGB in these units (ImageNet's).
_CENTRE = np.array([0.485, 0.456, 0.406], np.float32) * 255
_SCALE = np.array([0.229, 0.224, 0.225], np.float32) * 255
_EPSILON = 1e-6  # that ViTMAE adds to the variance of a patch

# Of ViTMAEConfig, for what a config.json leaves out.
_DEFAULTS = {"image_size": 224, "patch_size": 16, "num_channels": 3}

_Square = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MaskedAutoencoder:
    """An attack. Its squares are RGB float32 [side_px, side_px, 3], 0..255, and `shown` is bool [grid, grid]:
    which of their patches the model sees."""

    folder: str
    side_px: int
    patch_px: int
    normalised: bool
    model: Any = field(repr=False)

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.side_px // self.patch_px

    def about(self) -> dict[str, Any]:
        """For the report."""
        return {
            "folder": self.folder,
            "image_px": self.side_px,
            "patch_px": self.patch_px,
            "normalised_patches": self.normalised,
        }

    def __call__(self, view: View) -> Pixels:
        """The picture with everything unknown as the model makes it; in the mean colour of what is known
        where not one patch can be shown. It blocks: use a thread."""
        shown = self.shown(view.known)
        if view.known.all() or not shown.any():
            return mean_colour(view)
        rows, cols = view.known.shape
        made = self.rebuild(_resized(membrane(view), self.side_px, self.side_px), shown)
        large = np.asarray(_resized(made, rows, cols).round(), np.uint8)
        large[view.known] = view.pixels[view.known]
        return large

    def shown(self, known: Mask) -> Mask:
        """The patches of which every pixel is known; `known` is bool [rows, cols] of the picture."""
        rows, cols = (self._edges(length) for length in known.shape)
        return np.array(
            [[known[top:bottom, left:right].all() for left, right in cols] for top, bottom in rows], bool
        )

    def _edges(self, length: int) -> list[tuple[int, int]]:
        """The pixels of a side that each patch shows something of: from, and up to."""
        grid = self.grid
        return [(n * length // grid, -(-(n + 1) * length // grid)) for n in range(grid)]

    def rebuild(self, square: _Square, shown: Mask) -> _Square:
        """The square with its masked patches as the model makes them. Of what it has in those, only where
        patches are `normalised` the mean counts."""
        values = np.asarray((square - _CENTRE) / _SCALE, np.float32)
        patches, made = self._patches(values), self.predicted(values, shown)
        if self.normalised:
            variance = patches[shown].reshape(int(shown.sum()), -1).var(axis=1, ddof=1)
            made = made * np.sqrt(variance + _EPSILON).mean() + patches.mean(axis=(2, 3, 4), keepdims=True)
        made[shown] = patches[shown]
        pixels = made.transpose(0, 2, 1, 3, 4).reshape(square.shape) * _SCALE + _CENTRE
        return np.asarray(pixels.clip(0, 255), np.float32)

    def predicted(self, values: _Square, shown: Mask) -> _Square:
        """What the model gives for each patch, [grid, grid, patch_px, patch_px, 3], of a square; both in its
        own units."""
        import torch

        # It keeps the patches of the least noise, as many as the share leaves: half a patch more than there
        # are, which it rounds down.
        self.model.config.mask_ratio = 1 - (int(shown.sum()) + 0.5) / shown.size
        noise = (~shown).ravel() * shown.size + np.arange(shown.size)
        pixels = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)[None]))
        with torch.inference_mode():
            output = self.model(pixels, noise=torch.from_numpy(noise).float()[None])
        if not np.array_equal(output.mask[0].numpy() == 0, shown.ravel()):
            raise RuntimeError("the model has seen other patches than it was to be shown")
        return np.array(output.logits.numpy().reshape(self.grid, self.grid, self.patch_px, self.patch_px, 3))

    def _patches(self, square: _Square) -> _Square:
        """A square as [grid, grid, patch_px, patch_px, 3]."""
        grid, side = self.grid, self.patch_px
        return np.asarray(square.reshape(grid, side, grid, side, 3).transpose(0, 2, 1, 3, 4))


def _resized(picture: npt.NDArray[Any], rows: int, cols: int) -> _Square:
    """Averaged along a side that shrinks, interpolated along one that grows."""
    narrow = cv2.resize(picture.astype(np.float32), (cols, len(picture)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(narrow, (cols, rows), interpolation=cv2.INTER_AREA))


def load_autoencoder(folder: Path) -> MaskedAutoencoder:
    """The model of a folder. Nothing is fetched, and no code of the folder runs. Raises InputError for one
    that holds none, and where a package is missing. It blocks: use a thread."""
    sizes = _sizes(folder)
    os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is imported
    try:
        import torch

        from export.torchvision_import import make_importable

        make_importable()
        import transformers
        from transformers import ViTMAEForPreTraining
    except ImportError as exc:
        raise InputError(f"{MISSING} ({_short(exc)})") from exc
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        model, found = ViTMAEForPreTraining.from_pretrained(
            folder, local_files_only=True, weights_only=True, dtype=torch.float32, output_loading_info=True
        )
    except Exception as exc:  # of many libraries
        raise InputError(f"--mae {folder} cannot be loaded ({_short(exc)}); {EXPECTED}") from exc
    if lacking := sorted(found["missing_keys"]):
        raise InputError(
            f"--mae {folder} lacks {len(lacking)} of its tensors, such as {lacking[0]}; {EXPECTED}"
        )
    return MaskedAutoencoder(folder.resolve().name, *sizes, bool(model.config.norm_pix_loss), model.eval())


def _sizes(folder: Path) -> tuple[int, int]:
    """Side of the picture and of a patch that config.json names. Raises InputError for what is no ViTMAE of
    square RGB pictures."""
    if not folder.is_dir():
        raise InputError(f"--mae {folder} is no folder; {EXPECTED}")
    config = read_json(folder / "config.json", "--mae")
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "vit_mae":
        said = f"its config.json says model_type {brief(kind)}, not 'vit_mae'"
        raise InputError(f"--mae {folder} holds no ViTMAE: {said}; {EXPECTED}")
    side, patch, channels = (config.get(*each) for each in _DEFAULTS.items())
    whole = all(type(value) is int and value > 0 for value in (side, patch))
    if not whole or side % patch or channels != 3:
        said = f"image_size {brief(side)} and patch_size {brief(patch)} with {brief(channels)} channels"
        raise InputError(
            f"--mae {folder} cannot be used: {said}; expected square patches that fill it, of RGB"
        )
    return side, patch


def _short(exc: Exception) -> str:
    return f"{' '.join(str(exc).split()):.200}"
