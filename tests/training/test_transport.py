"""What training puts between camera, sites and edge is what these do with tiles and embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.checkpoints.load import load_weights, save_weights
from export.modules import reordered_encoder
from export.projection import Project, Projection, Restore, fit_projection
from export.quantise import quantise
from export.sam import build_sam
from stages.geometry import GEOMETRIES
from stages.tile_code import RGB, TileCode
from tests.support.pictures import photo
from tests.support.training import CPU, SHORT, TINY, Drawn, batches, invoke
from training.augmentation import Batches
from training.objective import Objective
from training.pictures import InMemory
from training.promptable import Promptable
from training.transport import REFIT_EVERY, CodedPixels, SentEmbeddings

CODE = TileCode.parse("dct:10/3")
CANVAS = TINY.grid * TINY.tile_px


@pytest.mark.parametrize("name", ["dct:10/3", "dct:6/3", "dct:64/36"])
@pytest.mark.parametrize(("rows", "cols"), [(80, 80), (50, 80), (33, 47), (1, 80), (80, 16)])
def test_pixels_are_what_a_site_decodes(name: str, rows: int, cols: int) -> None:
    code = TileCode.parse(name)
    picture = np.zeros((CANVAS, CANVAS, 3), np.uint8)
    picture[:rows, :cols] = photo("16:9")[:rows, :cols]
    windows = range(TINY.grid**2)
    side = TINY.tile_px
    corners = [(side * (w // TINY.grid), side * (w % TINY.grid)) for w in windows]
    extents = np.array(
        [[0, 0, *np.clip([rows - top, cols - left], 0, side)] for top, left in corners], np.int32
    )
    decoded = code.decode(code.encode(picture, extents, windows, TINY), TINY)
    expected = decoded.reshape(TINY.grid, TINY.grid, side, side, 3).transpose(0, 2, 1, 3, 4)
    expected = expected.reshape(CANVAS, CANVAS, 3)[:rows, :cols]
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    found = CodedPixels(code)(pixels, torch.tensor([[rows, cols]]))
    found = found[0].permute(1, 2, 0)[:rows, :cols].numpy()
    assert np.abs(found - expected).mean() < 0.01  # a level that is half-way may be rounded the other way
    assert np.abs(found - expected).max() < 8


def test_the_model_sees_coded_pixels_and_its_teacher_does_not() -> None:
    seen = []

    class Watching(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            seen.append(pixels)
            return torch.zeros(1).expand(len(pixels), 256, 5, 5) + torch.arange(5.0)

    pictures = InMemory([Drawn()] * 4, TINY, CPU)
    plain = Batches(pictures, CPU, 0).draw(2, 2, 80)
    coded = Batches(pictures, CPU, 0, tiles=CODE).draw(2, 2, 80)
    assert plain.coded is plain.pixels
    assert torch.equal(coded.pixels, plain.pixels)
    off = (coded.coded - coded.pixels)[:, :, :50].std()
    assert 0.02 < off < 0.5  # of a standard deviation of photographs: some detail, not the picture
    objective = Objective(Promptable(build_sam(TINY)), teacher=Watching(), masks=False)
    encoded = []
    objective.model.sam.image_encoder.patch_embed.register_forward_pre_hook(
        lambda _, given: encoded.append(given[0])
    )
    objective(coded, False, torch.Generator())
    assert torch.equal(seen[0], coded.pixels)
    assert torch.equal(encoded[0], coded.coded)


def test_what_lies_outside_of_the_picture_stays_zero() -> None:
    batch = next(
        iter(Batches(InMemory([Drawn()] * 4, TINY, CPU), CPU, 0, held_back=2, tiles=CODE).held_back(2, 2))
    )
    assert batch.coded[:, :, 50:].abs().max() == 0  # of 50 x 80 pixels, on a canvas of 80 x 80
    assert batch.coded[:, :, :50].abs().min(dim=1).values.median() > 0


def test_tokens_are_what_a_projection_and_int8_leave_of_them() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(4, 5, 5, 24) @ torch.randn(24, 24) + 3
    sent = SentEmbeddings(24, 6)
    found = sent(tokens.requires_grad_())
    fitted = fit_projection([tokens.detach().reshape(-1, 24)], 6)
    values, scale = quantise(Project(fitted)(tokens))
    expected = Restore(fitted)(values * scale.float())
    unrounded = Restore(fitted)(Project(fitted)(tokens))
    assert (found - expected).norm() < 0.1 * (unrounded - expected).norm()
    assert sent.projection().variance_kept == pytest.approx(fitted.variance_kept, abs=1e-5)


def test_gradients_pass_the_rounding_and_only_what_travels() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2, 5, 5, 24, requires_grad=True)
    sent, weight = SentEmbeddings(24, 6), torch.randn(24)
    (sent(tokens) @ weight).sum().backward()
    basis = sent.projection().basis
    expected = (basis @ basis.T @ weight).expand_as(tokens)
    torch.testing.assert_close(tokens.grad, expected, rtol=1e-4, atol=1e-5)


def test_the_projection_follows_the_tokens_in_training_alone() -> None:
    torch.manual_seed(0)
    first, then = torch.eye(24)[:6], torch.eye(24)[-6:]
    sent = SentEmbeddings(24, 6)

    def lost(directions: torch.Tensor, times: int) -> float:
        for _ in range(times):
            tokens = torch.randn(4, 5, 5, 6) @ directions
            off = (sent(tokens) - tokens).norm() / tokens.norm()
        return float(off)

    assert lost(first, 1) < 0.05
    with torch.no_grad():
        assert lost(then, 3 * REFIT_EVERY) > 0.9
    assert lost(then, 10 * REFIT_EVERY) < 0.05


def test_embeddings_are_sent_between_window_and_global_blocks() -> None:
    torch.manual_seed(0)
    sam = build_sam(TINY)
    reordered_encoder(sam.image_encoder, TINY)

    class Sent(SentEmbeddings):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            order.append("sent")
            return super().forward(tokens)

    order: list[str] = []
    for block in sam.image_encoder.blocks:
        block.register_forward_hook(
            lambda block, *_: order.append("window" if block.window_size else "global")
        )
    Promptable(sam, sent=Sent(TINY.dim, 6)).encode(batches().draw(2, 2, 80).coded)
    assert order == ["window"] * len(TINY.window_blocks) + ["sent"] + ["global"] * len(TINY.global_blocks)


@pytest.mark.parametrize("command", ["train", "distill"])
def test_weights_hold_what_they_were_trained_with(command: str, pairs: Path, tmp_path: Path) -> None:
    mini, out = GEOMETRIES["mini"], tmp_path / "thin.safetensors"
    teacher = tmp_path / "teacher.pth"
    torch.save(build_sam(mini).state_dict(), teacher)
    given = {
        "train": ("--model", "mini", "--data", pairs, "--no-hints"),
        "distill": ("--checkpoint", teacher, "--images", pairs),
    }
    thin = ("--tiles", "dct:10/3", "--components", 12, "--out", out)
    done = invoke(command, *given[command], *SHORT, *thin)
    assert done.exit_code == 0, done.output
    weights = load_weights(mini, out)
    assert weights.tiles == CODE
    assert weights.projection is not None
    assert weights.projection.components == 12
    assert 0 < weights.projection.variance_kept < 1
    done = invoke(command, *given[command], *SHORT, *thin, "--steps", 3)  # goes on from its state
    assert done.exit_code == 0, done.output
    before = out.read_bytes()
    done = invoke(command, *given[command], *SHORT, *thin, "--tiles", "dct:6/3")
    assert done.exit_code == 1
    assert (
        "'mini, reordered, dct:10/3 tiles and 12 components', and this one is of "
        "'mini, reordered, dct:6/3 tiles and 12 components'" in " ".join(done.output.split())
    )
    assert out.read_bytes() == before


def test_weights_of_plain_training_travel_plainly(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "plain.safetensors"
    given = ("train", "--model", "mini", "--data", pairs, "--no-hints", *SHORT, "--out", out)
    done = invoke(*given, "--components", 192)  # every channel
    assert done.exit_code == 0, done.output
    weights = load_weights(GEOMETRIES["mini"], out)
    assert (weights.tiles, weights.projection) == (RGB, None)


def test_training_goes_on_with_what_the_weights_hold(pairs: Path, tmp_path: Path) -> None:
    mini, thin, out = GEOMETRIES["mini"], tmp_path / "thin.safetensors", tmp_path / "out.safetensors"
    held = Projection(torch.zeros(mini.dim), torch.eye(mini.dim)[:, :5].contiguous(), 0.9)
    save_weights(build_sam(mini).state_dict(), thin, "distilled", "a test", held, CODE)
    given = ("train", "--model", "mini", "--init", thin, "--data", pairs, "--no-hints", *SHORT)
    for more, travels, said in (
        ((), (CODE, 5), "training with dct:10/3 tiles and 5 components, as in the weights"),
        (("--tiles", "rgb"), (RGB, 5), "training with 5 components, as in the weights"),
        (("--tiles", "rgb", "--components", 192), (RGB, None), ""),
        (("--order", "original"), (RGB, None), ""),
    ):
        done = invoke(*given, *more, "--out", out)
        assert done.exit_code == 0, done.output
        assert ("as in the weights" in " ".join(done.output.split())) == bool(said)
        assert said in " ".join(done.output.split())
        weights = load_weights(mini, out)
        found = weights.projection.components if weights.projection else None
        assert (weights.tiles, found) == travels
        for path in tmp_path.glob("out.*"):
            path.unlink()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--components", 193), "--components 193 is more than the 192 channels of the embedding"),
        (("--tiles", "jpeg"), "--tiles is 'jpeg', expected rgb, or dct:L/C"),
        (("--tiles", "dct:10/3", "--order", "original"), "are for --order reordered"),
        (("--components", 48, "--order", "original"), "are for --order reordered"),
    ],
)
def test_what_cannot_be_trained_is_a_sentence(
    more: tuple[object, ...], sentence: str, pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "w.safetensors"
    done = invoke("train", "--model", "mini", "--data", pairs, "--no-hints", *SHORT, *more, "--out", out)
    assert done.exit_code == 1
    assert sentence in " ".join(done.output.split())
    assert not out.exists()
