"""What is lost between camera, sites and edge, in the loop of training.

That is by the code of tiles, and by the few int8 components that embeddings travel as. A model that was
trained with the losses it will meet makes up for part of them: its window blocks put into the components
that travel what its global blocks need.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.projection import Projection, principal
from export.quantise import quantise
from stages.tile_code import MACRO, OFFSET, TileCode, analysis, synthesis

REFIT_EVERY = 50  # steps; the tokens change slowly
MEMORY = 0.98  # what a step keeps of the moments before it: those of about 50 steps count


class CodedPixels(nn.Module):
    """Pixels as a window stage decodes them: `TileCode.encode` and `decode` of whole canvases, on any device.

    Windows are whole macroblocks, so where they lie makes no difference.
    """

    analysis: Tensor
    synthesis: Tensor

    def __init__(self, code: TileCode) -> None:
        super().__init__()
        self.register_buffer("analysis", torch.from_numpy(analysis(code)))
        self.register_buffer("synthesis", torch.from_numpy(synthesis(code)))

    def forward(self, pixels: Tensor, extent: Tensor) -> Tensor:
        """fp32 [B, 3, S, S] -> the same, 0 to 255; `extent` [B, 2] are the rows and columns of the picture.

        What lies outside of the picture is of no meaning, before and after.
        """
        blocks = _macroblocks(_border_repeated(pixels, extent)) - OFFSET
        levels = (blocks @ self.analysis).round().clamp(-OFFSET, OFFSET - 1)
        return _canvas((levels @ self.synthesis + OFFSET).clamp(0, 255))


def _border_repeated(pixels: Tensor, extent: Tensor) -> Tensor:
    """Pixels [B, 3, S, S] with the picture's last row and column repeated to the canvas's end."""
    steps = torch.arange(pixels.shape[-1], device=pixels.device)
    rows, cols = (torch.minimum(steps, extent[:, axis, None].long() - 1) for axis in (0, 1))
    pixels = pixels.gather(2, rows[:, None, :, None].expand_as(pixels))
    return pixels.gather(3, cols[:, None, None, :].expand_as(pixels))


def _macroblocks(pixels: Tensor) -> Tensor:
    """[B, 3, S, S] -> [B, S / 16, S / 16, 768] in the order of `stages.tile_code.synthesis`."""
    count = pixels.shape[-1] // MACRO
    blocks = pixels.reshape(len(pixels), 3, count, MACRO, count, MACRO).permute(0, 2, 4, 3, 5, 1)
    return blocks.reshape(len(pixels), count, count, -1)


def _canvas(blocks: Tensor) -> Tensor:
    """What `_macroblocks` took apart."""
    n, count = blocks.shape[:2]
    pixels = blocks.reshape(n, count, count, MACRO, MACRO, 3).permute(0, 5, 1, 3, 2, 4)
    return pixels.reshape(n, 3, count * MACRO, count * MACRO)


class SentEmbeddings(nn.Module):
    """Tokens as the global blocks get them: projected onto `components`, rounded to int8, and restored.

    The projection follows the tokens while these are learned: it is fitted again and again to the moments of
    the last steps, whose gradients are not taken. Gradients of the tokens pass the rounding as if it were
    none. Where no gradients are taken, moments and projection stay what they are.
    """

    mean: Tensor
    basis: Tensor
    variance_kept: Tensor
    moments: Tensor

    def __init__(self, dim: int, components: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("basis", torch.eye(dim)[:, :components].contiguous())
        self.register_buffer("variance_kept", torch.tensor(0.0))
        # of tokens with a one behind them, the mean of x x.T: its last row is that of x
        self.register_buffer("moments", torch.zeros(dim + 1, dim + 1, dtype=torch.float64))
        self._until_refit = 0  # no buffer: to read one waits for the device

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., D] -> fp32 [..., D]."""
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = tokens.float()
            if torch.is_grad_enabled():
                self._follow(tokens.detach().flatten(0, -2))
            sent = (tokens - self.mean) @ self.basis
            with torch.no_grad():
                values, scale = quantise(sent)
                lost = values * scale.float() - sent
            return (sent + lost) @ self.basis.T + self.mean

    def projection(self) -> Projection:
        """The projection as it is now."""
        return Projection(self.mean.cpu(), self.basis.cpu(), float(self.variance_kept))

    @torch.no_grad()
    def _follow(self, tokens: Tensor) -> None:
        ones = torch.cat([tokens, torch.ones_like(tokens[:, :1])], dim=1).double()
        self.moments.lerp_(ones.T @ ones / len(ones), 1 - MEMORY)
        if self._until_refit == 0:
            self._until_refit = REFIT_EVERY
            seen = self.moments / self.moments[-1, -1]
            fitted = principal(seen[-1, :-1], seen[:-1, :-1], self.basis.shape[1])
            self.mean.copy_(fitted.mean)
            self.basis.copy_(fitted.basis)
            self.variance_kept.fill_(fitted.variance_kept)
        self._until_refit -= 1
