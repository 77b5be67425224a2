"""Loading checkpoints of segment-anything's layout, and refusing everything else in one sentence."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from export.sam import build_sam, load_weights, randomise
from stages.errors import CheckpointError
from stages.geometry import GEOMETRIES

MINI, VIT_B = GEOMETRIES["mini"], GEOMETRIES["vit_b"]


@pytest.mark.parametrize("geometry", [MINI, VIT_B], ids=lambda geometry: geometry.name)
def test_a_checkpoint_of_the_official_layout_loads(tmp_path: Path, geometry: object) -> None:
    saved = build_sam(geometry)  # type: ignore[arg-type]
    randomise(saved, seed=9)
    torch.save(saved.state_dict(), tmp_path / "sam.pth")
    loaded = load_weights(geometry, tmp_path / "sam.pth").sam  # type: ignore[arg-type]
    assert not loaded.training
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, saved.state_dict()[name]), name


class _Evil:
    """Leaves a file `trace` behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return exec, (f"open({str(self._trace)!r}, 'w').close()",)


def _mini_state() -> OrderedDict[str, torch.Tensor]:
    return OrderedDict(build_sam(MINI).state_dict())


def _write_truncated(path: Path) -> None:
    torch.save(_mini_state(), path)
    path.write_bytes(path.read_bytes()[:-5000])


def _write_without(path: Path, key: str) -> None:
    state = _mini_state()
    del state[key]
    torch.save(state, path)


def _write_foreign_shape(path: Path) -> None:
    state = _mini_state()
    state["image_encoder.pos_embed"] = torch.zeros(1, 7, 7, 192)
    torch.save(state, path)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "does not exist"),
    "empty": (lambda path: path.write_bytes(b""), "truncated or no PyTorch file"),
    "text": (lambda path: path.write_text("<html>404</html>"), "no PyTorch file"),
    "truncated": (_write_truncated, "truncated or no PyTorch file"),
    "code": (
        lambda path: path.write_bytes(pickle.dumps(_Evil(path.with_name("evil")))),
        "no plain checkpoint",
    ),
    "code in a checkpoint": (
        lambda path: torch.save({"a": _Evil(path.with_name("evil"))}, path),
        "no plain checkpoint",
    ),
    "list": (lambda path: torch.save([1, 2], path), "expected a dictionary of tensors"),
    "nested": (lambda path: torch.save({"model": {"a": torch.ones(1)}}, path), "expected a dictionary"),
    "other network": (lambda path: torch.save({"conv1.weight": torch.ones(1)}, path), "no SAM checkpoint"),
    "other size": (_write_foreign_shape, "expected that of one of mini, vit_b"),
    "missing key": (lambda path: _write_without(path, "mask_decoder.iou_token.weight"), "iou_token"),
}


@pytest.mark.parametrize("case", FILES)
def test_anything_else_is_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    write, words = FILES[case]
    path = tmp_path / "sam.pth"
    write(path)
    with pytest.raises(CheckpointError) as caught:
        load_weights(MINI, path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "evil").exists()


def test_the_wrong_model_is_named(tmp_path: Path) -> None:
    torch.save(_mini_state(), tmp_path / "sam.pth")
    with pytest.raises(CheckpointError, match="holds mini weights; export it with --model mini"):
        load_weights(VIT_B, tmp_path / "sam.pth")
