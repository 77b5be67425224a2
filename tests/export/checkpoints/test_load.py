"""A SAM out of what trainings and hubs leave, or a sentence that says what the file holds instead."""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from export.checkpoints.load import load_weights, read_checkpoint, save_weights
from export.projection import Projection
from export.sam import build_sam, randomise
from stages.errors import CheckpointError, InputError
from stages.geometry import GEOMETRIES, Geometry
from stages.tile_code import RGB, TileCode
from tests.support.checkpoints import sam_state
from tests.support.disks import limited_to

MINI, VIT_B = GEOMETRIES["mini"], GEOMETRIES["vit_b"]
SCORE = "mask_decoder.iou_token.weight"


def saved(tmp_path: Path, tree: object) -> Path:
    torch.save(tree, tmp_path / "sam.pth")
    return tmp_path / "sam.pth"


def token(path: Path) -> float:
    """The number that the SAM's token for its score has; see `sam_state`."""
    return float(read_checkpoint(path).state[SCORE][0, 0])


def refusal(path: Path, geometry: Geometry | None = MINI) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_weights(geometry, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "geometry", [MINI, pytest.param(VIT_B, marks=pytest.mark.full)], ids=lambda geometry: geometry.name
)
def test_a_checkpoint_of_the_official_layout_loads(tmp_path: Path, geometry: Geometry) -> None:
    kept = build_sam(geometry)
    randomise(kept, seed=9)
    loaded = load_weights(geometry, saved(tmp_path, kept.state_dict())).sam
    assert not loaded.training
    expected = dict(kept.named_parameters()) | dict(kept.named_buffers())  # pixel_mean and pixel_std too
    for name, tensor in (dict(loaded.named_parameters()) | dict(loaded.named_buffers())).items():
        assert torch.equal(tensor, expected[name]), name


def _inside(state: Mapping[str, Tensor], part: str, word: str) -> dict[str, Tensor]:
    return {name.replace(f"{part}.", f"{part}.{word}.", 1): tensor for name, tensor in state.items()}


def _by_parts(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    return parts


WRAPPED: dict[str, Any] = {
    "bare": sam_state(),
    "model": {"model": sam_state(), "optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}}, "epoch": 3},
    "state_dict": {"state_dict": sam_state()},
    "model_state_dict": {"model_state_dict": sam_state(), "loss": 0.5},
    "module": {"module": sam_state()},
    "params": {"params": sam_state()},
    "ema alone": {"ema": sam_state()},
    "nested": {"checkpoint": {"model": sam_state()}},
    "list": [sam_state()],
    "lightning": {"state_dict": sam_state(prefix="model.sam."), "pytorch-lightning_version": "2.5"},
    "ddp": sam_state(prefix="module."),
    "compiled": sam_state(prefix="_orig_mod."),
    "all prefixes": {"model": sam_state(prefix="module._orig_mod.sam.")},
    "compiled encoder": _inside(sam_state(), "image_encoder", "_orig_mod"),
    "encoder under ddp": _inside(sam_state(), "image_encoder", "module"),
    "checkpointed blocks": _inside(sam_state(), "blocks.0", "_checkpoint_wrapped_module"),
    "a dictionary a part": _by_parts(sam_state()),
    "states by names": {
        "model": sam_state(),
        "optimizer": {"state": {name: {"exp_avg": tensor} for name, tensor in sam_state().items()}},
    },
    "words of a training inside others": {"optimized": {"upgraded": {"sam": sam_state()}}},
    "averaged": {**sam_state(prefix="module."), "n_averaged": torch.tensor(5)},
    "settings of another program": {**sam_state(), "args": argparse.Namespace(rate=1e-4)},
    "counted": {**sam_state(), "image_encoder.total_ops": torch.zeros(1, dtype=torch.float64)},
}


@pytest.mark.parametrize("case", WRAPPED)
def test_what_a_training_leaves_is_unwrapped(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert token(saved(tmp_path, WRAPPED[case])) == float(sam_state()[SCORE][0, 0])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floats_are_taken(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {name: tensor[..., :1].to(dtype).expand(tensor.shape) for name, tensor in sam_state().items()}
    loaded = load_weights(MINI, saved(tmp_path, state)).sam.state_dict()
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}


def test_the_model_is_taken_and_its_average_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, {"ema_model": sam_state(first=2), "model": sam_state()})
    assert token(path) == float(sam_state()[SCORE][0, 0])
    assert capsys.readouterr().out == (
        f"{path} holds several SAMs: the one under 'model' is taken, not 'ema_model'\n"
    )


def test_of_several_none_is_guessed(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": sam_state(), "b": sam_state()})
    assert "holds several SAMs, under 'a', 'b'; save the one you mean alone" in refusal(path)


def test_what_is_left_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = {f"model.head.{n}.weight": torch.ones(1) for n in range(5)}
    path = saved(tmp_path, {"state_dict": sam_state(prefix="model.") | more, "other": {"x": torch.ones(1)}})
    token(path)
    assert capsys.readouterr().out == (
        f"{path}: tensors that SAM does not have are left out: "
        "head.0.weight, head.1.weight, head.2.weight and 2 more\n"
    )


@pytest.mark.parametrize("times", [1, 255])
def test_pictures_are_normalised_as_sam_does(
    tmp_path: Path, times: float, capsys: pytest.CaptureFixture[str]
) -> None:
    mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1) / times
    token(saved(tmp_path, {**sam_state(), "pixel_mean": mean}))
    assert capsys.readouterr().out == ""
    path = saved(tmp_path, {**sam_state(), "pixel_mean": torch.zeros(1).expand(10**13)})
    assert "pixel_mean [10000000000000], expected SAM's" in refusal(path)
    path = saved(tmp_path, {**sam_state(), "pixel_mean": torch.zeros(3, 1, 1)})
    assert "pixel_mean [0.0, 0.0, 0.0], expected SAM's [123.675, 116.28, 103.53]" in refusal(path)


def _without(*starts: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in sam_state().items() if not name.startswith(starts)}


def _changed(name: str, tensor: Tensor) -> dict[str, Tensor]:
    assert name in sam_state()
    return {**sam_state(), name: tensor}


ONE = torch.ones(1)
BLOCK = "image_encoder.blocks.0"
REFUSED: dict[str, tuple[Any, str]] = {
    "nothing": ({"epoch": 3}, "holds no tensors"),
    "list": ([1, 2], "expected a dictionary"),
    "tensor": (torch.ones(3), "is no SAM checkpoint: it holds one tensor alone: "),
    "other network": ({"conv1.weight": ONE}, "it has no image_encoder, but conv1.weight"),
    "decoder alone": (
        _without("image_encoder", "prompt_encoder"),
        "holds mask_decoder of a SAM, without image_encoder and prompt_encoder; put it into the SAM",
    ),
    "encoder alone": (_without("mask_decoder", "prompt_encoder"), "without prompt_encoder and mask_decoder"),
    "encoder without its name": (
        _by_parts(sam_state())["image_encoder"],
        "SAM's image encoder alone, without image_encoder. before its names",
    ),
    "missing key": (_without(SCORE), f"it lacks {SCORE}"),
    "other size": (
        _changed("image_encoder.pos_embed", torch.zeros(1, 7, 7, 192)),
        "position table [1, 7, 7, 192], expected that of one of mini, small, vit_b",
    ),
    "volume": (
        _changed("image_encoder.pos_embed", torch.zeros(1, 8, 8, 8, 192)),
        "position table [1, 8, 8, 8, 192]",
    ),
    "no position table": (_without("image_encoder.pos_embed"), "no image_encoder.pos_embed"),
    "other classes": (
        _changed("mask_decoder.mask_tokens.weight", torch.ones(9, 256)),
        "mask_decoder.mask_tokens.weight is [9, 256], expected [4, 256]",
    ),
    "added layer": ({**sam_state(), f"{BLOCK}.new.weight": ONE}, f"SAM does not have: {BLOCK}.new.weight"),
    "lora": (
        {**sam_state(), f"{BLOCK}.attn.qkv.lora_A.weight": ONE},
        "holds LoRA adapters (as image_encoder",
    ),
    "samed": ({**sam_state(), f"{BLOCK}.attn.qkv.linear_a_q.weight": ONE}, "holds LoRA adapters"),
    "samed alone": ({"w_a_000": ONE, "w_b_000": ONE}, "holds LoRA adapters (as w_a_000)"),
    "adapter": ({**sam_state(), f"{BLOCK}.Adapter.channel.0.weight": ONE}, "holds adapter layers"),
    "packed": ({**sam_state(), f"{BLOCK}.attn.qkv._packed_params.dtype": ONE}, "holds quantised weights"),
    "int8": (_changed(SCORE, torch.ones(1, 256, dtype=torch.int8)), f"{SCORE} in int8: quantised weights"),
    "nan": (_changed(SCORE, torch.full((1, 256), torch.nan)), f"NaN or infinite numbers in {SCORE}"),
    "too large": (
        _changed(SCORE, torch.full((1, 256), 1e300, dtype=torch.float64)),
        "NaN or infinite numbers",
    ),
    "repeated": (
        _changed(SCORE, torch.ones(1).expand(10**13)),
        f"{SCORE} of [10000000000000], more numbers than any tensor of a SAM",
    ),
    "zero 3": (_changed(SCORE, torch.zeros(0)), f"{SCORE} empty: DeepSpeed keeps"),
    "sparse": (
        _changed(SCORE, torch.ones(1, 256).to_sparse()),
        f"has {SCORE} as cpu Tensor, expected a plain",
    ),
    "meta": (_changed(SCORE, torch.ones(1, 256, device="meta")), f"has {SCORE} as meta Tensor"),
    "object": (
        {**sam_state(), SCORE: argparse.Namespace()},
        f"has {SCORE} as argparse.Namespace, expected a",
    ),
    "sam-hq": ({**sam_state(), "mask_decoder.hf_token.weight": ONE}, "is SAM-HQ"),
    "sam 2": ({"model": {"image_encoder.trunk.pos_embed": ONE, "maskmem_tpos_enc": ONE}}, "is SAM 2"),
    "sam 2 of transformers": ({"vision_encoder.backbone.blocks.0.attn.qkv.weight": ONE}, "is SAM 2"),
    "memory of sam 2": ({"model": {"memory_encoder.fuser.weight": ONE}}, "is SAM 2"),
    "sam 3": ({"detector_model.vision_encoder.weight": ONE}, "is SAM 3"),
    "efficientvit-sam": ({"image_encoder.backbone.input_stem.weight": ONE}, "is EfficientViT-SAM"),
    "efficientsam": (
        {"model": {**sam_state(), "prompt_encoder.bbox_top_left_embeddings.weight": ONE}},
        "is EfficientSAM",
    ),
    "edgesam": ({"image_encoder.features.0.0.c.weight": ONE}, "is EdgeSAM or RepViT-SAM"),
    "mobilesam": (
        {"image_encoder.patch_embed.seq.0.c.weight": ONE},
        "is MobileSAM (or TinySAM), which has none of SAM's blocks: it can teach (pedsam distill",
    ),
    "mae": ({"model": {"cls_token": ONE, "blocks.0.attn.qkv.weight": ONE}}, "a plain vision transformer"),
    "yolo": ({"model.0.conv.weight": ONE}, "but a YOLO (FastSAM is one)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_anything_else_is_named_in_one_sentence(tmp_path: Path, case: str) -> None:
    tree, words = REFUSED[case]
    assert words in refusal(saved(tmp_path, tree))


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    """The one device of a training that is spread over one process."""
    address = (tmp_path / "store").as_uri()
    distributed.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def test_shards_of_a_training_are_named(tmp_path: Path, mesh: DeviceMesh) -> None:
    shard = distribute_tensor(torch.ones(1, 256), mesh, [Shard(0)])
    path = saved(tmp_path, {"model": {**sam_state(), SCORE: shard}})
    assert f"has {SCORE} as cpu DTensor, expected a plain tensor; gather its shards" in refusal(path)


def test_a_model_of_ultralytics_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("ultralytics.nn.tasks")
    module.SegmentationModel = type("SegmentationModel", (), {"__module__": module.__name__})
    with monkeypatch.context() as patched:
        for name in ("ultralytics", "ultralytics.nn", module.__name__):
            patched.setitem(sys.modules, name, module)
        path = saved(tmp_path, {"model": module.SegmentationModel(), "epoch": -1})
    assert "but a model of ultralytics (YOLO or FastSAM)" in refusal(path)


def test_the_wrong_model_is_named(tmp_path: Path) -> None:
    assert "holds mini weights; give --model mini" in refusal(saved(tmp_path, sam_state()), VIT_B)
    assert load_weights(None, saved(tmp_path, sam_state())).geometry == MINI


@pytest.mark.parametrize("prefix", ["", "sam."])
def test_safetensors_of_others_are_taken_as_undistilled(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "other.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in sam_state(prefix=prefix).items()}, path)
    loaded = load_weights(MINI, path)
    assert (loaded.status, loaded.trained_on) == ("undistilled", "checkpoint other.safetensors")


def test_weights_files_keep_their_status_and_bad_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(sam_state(), path, "distilled", "ten pictures")
    loaded = load_weights(MINI, path)
    assert (loaded.status, loaded.trained_on) == ("distilled", "ten pictures")
    assert torch.equal(loaded.sam.image_encoder.pos_embed, sam_state()["image_encoder.pos_embed"])
    path.write_bytes(path.read_bytes()[:1000])
    assert "truncated or no safetensors" in refusal(path)
    save_weights({"a": torch.ones(1)}, path, "good", "x")
    assert "does not say what its weights are" in refusal(path)


def projection(channels: int = MINI.dim) -> Projection:
    basis = torch.linalg.qr(torch.randn((channels, 5), generator=torch.Generator().manual_seed(1)))[0]
    return Projection(torch.arange(channels).float(), basis, 0.875)


def test_a_projection_is_kept_with_the_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(sam_state(), path, "distilled", "pictures", projection())
    found = load_weights(MINI, path).projection
    assert found is not None
    assert torch.equal(found.mean, projection().mean)
    assert torch.equal(found.basis, projection().basis)
    assert found.variance_kept == 0.875
    assert capsys.readouterr().out == ""  # nothing was left out
    save_weights(sam_state(), path, "distilled", "pictures")
    assert load_weights(MINI, path).projection is None


def test_the_code_of_tiles_is_kept_with_the_weights(tmp_path: Path) -> None:
    path, code = tmp_path / "w.safetensors", TileCode.parse("dct:10/3")
    save_weights(sam_state(), path, "distilled", "pictures", tiles=code)
    assert load_weights(MINI, path).tiles == code
    save_weights(sam_state(), path, "distilled", "pictures")
    assert load_weights(MINI, path).tiles == RGB


@pytest.mark.parametrize("facts", [{"weights": "distilled", "trained_on": "pictures"}, {}])
def test_a_code_that_is_unknown_is_a_sentence_in_files_of_our_own(
    facts: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in sam_state().items()}
    save_file(tensors, path, {**facts, "tiles": "wavelet:3"})
    if facts:
        assert "trained on tiles of 'wavelet:3', a code that is unknown here" in refusal(path)
    else:
        assert load_weights(MINI, path).tiles == RGB


def test_what_another_program_calls_a_projection_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = load_weights(MINI, saved(tmp_path, {**sam_state(), "projection.mean": torch.ones(9)}))
    assert found.projection is None
    assert "tensors that SAM does not have are left out: projection.mean" in capsys.readouterr().out


NO_PROJECTIONS = {
    "a part": {"projection.basis": projection().basis},
    "no matrix": {"projection.basis": torch.ones(MINI.dim)},
    "another mean": {"projection.mean": torch.ones(7)},
    "as many columns as channels": {"projection.basis": torch.eye(MINI.dim)},
    "wide": {"projection.basis": torch.ones((MINI.dim, MINI.dim + 1))},
    "scaled": {"projection.basis": 1.1 * projection().basis},
    "two shares": {"projection.variance_kept": torch.ones(2)},
}


@pytest.mark.parametrize("case", NO_PROJECTIONS)
def test_a_projection_that_is_none_is_refused(tmp_path: Path, case: str) -> None:
    kept = projection()
    tensors = {"projection.mean": kept.mean, "projection.basis": kept.basis}
    tensors["projection.variance_kept"] = torch.tensor(kept.variance_kept)
    changed = NO_PROJECTIONS[case] if case == "a part" else tensors | NO_PROJECTIONS[case]
    save_weights(sam_state() | changed, tmp_path / "w.safetensors", "distilled", "pictures")
    words = refusal(tmp_path / "w.safetensors")
    assert "holds a projection that is none (projection." in words
    assert "save it without its projection.* tensors" in words


def test_a_projection_of_other_channels_is_refused(tmp_path: Path) -> None:
    save_weights(sam_state(), tmp_path / "w.safetensors", "distilled", "pictures", projection(100))
    words = "holds a projection of 100 channels, expected 192 of mini"
    assert words in refusal(tmp_path / "w.safetensors")


def test_a_projection_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    kept = projection()
    kept.mean[3] = torch.nan
    save_weights(sam_state(), tmp_path / "w.safetensors", "distilled", "pictures", kept)
    assert "NaN or infinite numbers in projection.mean" in refusal(tmp_path / "w.safetensors")


def test_loaded_weights_can_be_trained_and_saved_over_their_file(tmp_path: Path) -> None:
    """They are mapped from the disk: a change must not reach the file before it is saved."""
    path = tmp_path / "w.safetensors"
    save_weights(sam_state(), path, "untrained", "numbers")
    before = path.read_bytes()
    loaded = load_weights(MINI, path).sam
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1)
    assert path.read_bytes() == before
    save_weights(loaded.state_dict(), path, "distilled", "pictures")
    assert token(path) == float(sam_state()[SCORE][0, 0]) + 1


def test_weights_that_cannot_be_written_leave_the_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights({"a": torch.ones(9)}, path, "distilled", "nothing")
    before = path.read_bytes()
    with limited_to(1000), pytest.raises(InputError, match=r"cannot write .*weights\.safetensors; check"):
        save_weights({"a": torch.ones(999)}, path, "distilled", "nothing")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
