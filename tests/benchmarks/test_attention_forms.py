"""Each way to compute attention gives what the exported one gives."""

from __future__ import annotations

import pytest
import torch

from benchmarks.attention_forms import FORMS
from export.modules import attention
from export.sam import build_sam, randomise
from tests.support.bundles import TINY


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block", [*TINY.window_blocks, *TINY.global_blocks])
def test_a_form_is_the_exported_one(form: str, block: int) -> None:
    sam = build_sam(TINY)
    randomise(sam)
    layer = sam.image_encoder.blocks[block].attn
    for table in (layer.rel_pos_h, layer.rel_pos_w):
        torch.nn.init.normal_(table)
    side = (len(layer.rel_pos_h) + 1) // 2
    x = torch.randn((2, side, side, TINY.dim), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, wanted = FORMS[form](layer, x), attention(layer, x)
    assert wanted.std() > 0.01
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
