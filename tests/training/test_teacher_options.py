"""`train` with a teacher beside masks: how large it sees pictures, and how many of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.sam import build_sam
from tests.support.training import SHORT, TINY, batches, invoke
from training.objective import Objective
from training.promptable import Promptable
from training.teachers import Enlarged


class Averaging(nn.Module):
    """A teacher whose embedding is the mean red of each token's 16 x 16 pixels; notes what it was shown."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels
        self.shown: list[Tensor] = []

    def forward(self, pixels: Tensor) -> Tensor:
        self.shown.append(pixels)
        return F.avg_pool2d(pixels[:, :1], 16).expand(-1, self.channels, -1, -1)


@pytest.mark.parametrize("times", [2, 3])
def test_an_enlarged_picture_gives_the_tokens_that_it_has_itself(times: int) -> None:
    """Each token is the mean of what the teacher says in its place: its own mean here, whatever the size."""
    teacher = Averaging()
    each = torch.arange(25.0).reshape(1, 1, 5, 5)
    pixels = F.interpolate(each, scale_factor=16).expand(-1, 3, -1, -1)
    embedding = Enlarged(teacher, times)(pixels)
    assert teacher.shown[0].shape == (1, 3, 80 * times, 80 * times)
    torch.testing.assert_close(embedding, each, rtol=0, atol=0.3)  # bicubic blurs the borders of tokens


@pytest.mark.parametrize(("taught", "count"), [(1.0, 4), (0.5, 2), (0.0, 1)])
def test_a_share_of_the_batch_is_taught(taught: float, count: int) -> None:
    teacher = Averaging(256)
    objective = Objective(Promptable(build_sam(TINY)), teacher=teacher, taught=taught).eval()
    batch = batches().draw(4, 2, 80)
    loss = objective(batch, False, torch.Generator())["distil"]
    (shown,) = teacher.shown
    assert torch.equal(shown, batch.pixels[:count])
    with torch.no_grad():
        own, wanted = objective.model.encode(batch.pixels)[0][:count], teacher(shown)
    torch.testing.assert_close(loss.detach(), F.mse_loss(own, wanted) / wanted.var())


def test_a_teacher_learns_nothing_and_is_not_saved() -> None:
    teacher = nn.Conv2d(3, 256, 16, 16)
    objective = Objective(Promptable(build_sam(TINY)), teacher=teacher)
    losses = objective(batches().draw(2, 2, 80), False, torch.Generator())
    sum(losses.values()).backward()
    assert teacher.weight.grad is None
    assert not [name for name, _ in objective.named_parameters() if "teacher" in name]


def test_the_command_learns_masks_and_a_teachers_embeddings(
    checkpoint: Path, pairs: Path, tmp_path: Path
) -> None:
    """On one batch the loss of masks is the same, that of embeddings depends on what the teacher sees."""
    command = ("train", "--model", "mini", "--data", pairs, "--no-hints", *SHORT)
    one_step = (*command, "--steps", 1, "--pictures", 2)
    said: list[re.Match[str] | None] = []
    for more in ((), ("--taught", 0.5), ("--taught", 0.5, "--teacher-enlarges", 2)):
        out = tmp_path / f"{len(said)}.safetensors"
        done = invoke(*one_step, "--teacher", checkpoint, *more, "--out", out)
        assert "training is complete" in done.output, done.output
        said.append(re.search(r"mask ([\d.]+), distil ([\d.]+)", done.output))
    masks, embeddings = zip(*(each.groups() for each in said if each), strict=True)
    assert len(masks) == 3
    assert len(set(masks)) == 1
    assert len(set(embeddings)) == 3
    alone = invoke(*one_step, "--out", tmp_path / "alone.safetensors")
    assert f"mask {masks[0]}, images/s" in alone.output


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("--taught", 1.5), "1.5 is not in the range 0<=x<=1"),
        (("--teacher-enlarges", 0), "0 is not in the range x>=1"),
        (("--teacher", "no.pt"), "no.pt does not exist"),
    ],
)
def test_options_of_the_teacher_are_checked(
    pairs: Path, tmp_path: Path, change: tuple[str, object], sentence: str
) -> None:
    out = tmp_path / "o.safetensors"
    said = invoke("train", "--model", "mini", "--data", pairs, "--out", out, *SHORT, *change)
    assert said.exit_code != 0
    assert sentence in said.output, said.output
    assert not out.exists()
