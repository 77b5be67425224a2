"""A SAM to train: batches of pictures of any size, many objects each."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from export.decoder import DecoderStage
from export.sam import Sam
from training.transport import SentEmbeddings


class Promptable(nn.Module):
    """A SAM in the block order its encoder has, on square pictures up to its canvas.

    On smaller pictures the position tables are interpolated (relative ones by SAM's own attention).
    `low_memory` computes the blocks' activations again for the gradients. `sent` is what embeddings go
    through between the last window block and the first global one.
    """

    def __init__(self, sam: Sam, low_memory: bool = False, sent: SentEmbeddings | None = None) -> None:
        super().__init__()
        self.sam = sam
        self.sent = sent
        self._low_memory = low_memory
        self._decoder = DecoderStage(sam)

    def forward(self, pixels: Tensor) -> Tensor:
        """Image embedding [B, 256, E, E] of pixels [B, 3, S, S]."""
        return self.encode(pixels)[0]

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Image embedding [B, 256, E, E] and the tokens [B, D, E, E] before the neck; pixels [B, 3, S, S]."""
        encoder = self.sam.image_encoder
        x = encoder.patch_embed(pixels)
        x = x + _resized(encoder.pos_embed, x.shape[1])
        last = sum(block.window_size > 0 for block in encoder.blocks)  # these come first
        for number, block in enumerate(encoder.blocks, start=1):
            x = checkpoint(block, x, use_reentrant=False) if self._low_memory else block(x)
            if self.sent is not None and number == last:
                x = self.sent(x)
        tokens = x.permute(0, 3, 1, 2)
        return encoder.neck(tokens), tokens

    def decode(
        self, embedding: Tensor, coords: Tensor, labels: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Mask logits [n, 4, 4E, 4E] and rated IoU [n, 4], fp32.

        A row is one embedding [n, 256, E, E] and one prompt: coords [n, k, 2] are pixels of the picture that
        was encoded, labels [n, k] SAM's, mask [n, 1, 4E, 4E] logits or None.
        """
        side = embedding.shape[-1]
        encoder, decoder = self.sam.image_encoder, self._decoder
        scale = encoder.pos_embed.shape[1] / side
        keys = embedding + decoder.dense(mask)
        with torch.autocast(coords.device.type, enabled=False):  # positions are lost in bf16
            image_pe = self.sam.prompt_encoder.pe_layer((side, side))[None]
            tokens = decoder.tokens((coords + 0.5) * scale - 0.5, labels)
        masks, iou = decoder.decode(keys, image_pe, tokens)
        return masks.float(), iou.float()


def _resized(positions: Tensor, side: int) -> Tensor:
    """Position table [1, E, E, D] for `side` tokens a side."""
    if positions.shape[1] == side:
        return positions
    return F.interpolate(positions.permute(0, 3, 1, 2), (side, side), mode="bicubic").permute(0, 2, 3, 1)
