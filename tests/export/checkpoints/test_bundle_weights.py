"""Weights read back from a bundle are those it was exported from; what cannot be read is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import numpy_helper
from torch import Tensor

from export.checkpoints.bundle_weights import load_bundle_weights, weights_of
from export.checkpoints.load import load_weights, save_weights
from export.compact import round_weights
from export.layers import lowered
from export.sam import Weights
from pedsam.command import main
from stages.bundle import MANIFEST, Bundle, hash_files, shipped_bundle
from stages.errors import BundleError
from stages.geometry import GEOMETRIES
from tests.support.bundles import random_weights
from tests.support.checkpoints import sam_state

TRAINED = Path(__file__).parents[3] / "assets/mini.safetensors"


def differing(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that are not the same bit for bit."""
    assert found.keys() == expected.keys()
    return [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]


def test_the_shipped_bundle_gives_the_trained_weights_back() -> None:
    """As `--compact` rounded those that lie beside it."""
    shipped, trained = Bundle.load(shipped_bundle()), load_weights(None, TRAINED)
    said: list[str] = []
    weights = weights_of(shipped.path, said.append)
    assert differing(weights.sam.state_dict(), round_weights(trained.sam).state_dict()) == []
    assert torch.equal(weights.sam.pixel_mean, trained.sam.pixel_mean)
    assert torch.equal(weights.sam.pixel_std, trained.sam.pixel_std)
    assert not weights.sam.training
    assert weights.geometry == GEOMETRIES["mini"]
    assert (weights.status, weights.trained_on) == (shipped.weights, shipped.trained_on)
    assert said == [f"{shipped.path}: {shipped.description} read back, which its export rounded to fp16"]


def test_fp32_stages_give_every_tensor_back_bit_for_bit(mini_bundle: Bundle) -> None:
    said: list[str] = []
    weights = weights_of(mini_bundle.path, said.append)
    assert differing(weights.sam.state_dict(), random_weights(GEOMETRIES["mini"]).sam.state_dict()) == []
    assert (weights.status, weights.trained_on) == ("untrained", "random numbers")
    assert said == [f"{mini_bundle.path}: mini (untrained weights) read back"]


def test_compact_stages_give_the_rounded_weights_back(
    tiny: Callable[[str], Bundle], tiny_weights: Weights
) -> None:
    weights = load_bundle_weights(tiny("compact"))
    assert differing(weights.sam.state_dict(), round_weights(tiny_weights.sam).state_dict()) == []
    assert weights.trained_on == "random numbers"  # --compact rounds them to themselves


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_stages_of_a_lower_precision_give_what_they_compute_with(
    tiny: Callable[[str], Bundle], tiny_weights: Weights, precision: str, dtype: torch.dtype
) -> None:
    weights = load_bundle_weights(tiny(precision))
    expected = {
        name: tensor.float() for name, tensor in lowered(tiny_weights.sam, dtype).state_dict().items()
    }
    assert differing(weights.sam.state_dict(), expected) == []
    assert weights.trained_on == f"random numbers; rounded to {precision}"
    again = replace(tiny(precision), trained_on=weights.trained_on)
    assert load_bundle_weights(again).trained_on == weights.trained_on


def test_a_projection_comes_back_with_them(tiny: Callable[[str], Bundle]) -> None:
    bundle = tiny("fp16-8")
    held = load_bundle_weights(bundle).projection
    assert held is not None
    undone = {tensor.name: tensor for tensor in onnx.load(bundle.verified_file("global")).graph.initializer}
    assert np.array_equal(held.basis.numpy().T, numpy_helper.to_array(undone["restore.rows"]))
    assert np.array_equal(held.mean.numpy(), numpy_helper.to_array(undone["restore.mean"]))
    assert torch.allclose(held.basis.T @ held.basis, torch.eye(8), atol=1e-5)
    assert held.variance_kept == bundle.variance_kept
    assert load_bundle_weights(tiny("fp16")).projection is None


def copy_of(bundle: Bundle, path: Path, *stages: str) -> Path:
    """A smaller bundle: some of its stages."""
    path.mkdir()
    shutil.copy(bundle.path / MANIFEST, path)
    for stage in stages:
        shutil.copytree(bundle.path / stage, path / stage)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(BundleError) as refused:
        load_bundle_weights(Bundle.load(path))
    return str(refused.value)


def test_a_copy_without_a_stage_is_refused(tiny: Callable[[str], Bundle], tmp_path: Path) -> None:
    edge = copy_of(tiny("compact"), tmp_path / "edge", "global", "decoder")
    assert refusal(edge) == (
        f"{edge}/window/model.onnx is missing; copy it from the full bundle or export the bundle again"
    )


def test_a_damaged_stage_is_refused(tiny: Callable[[str], Bundle], tmp_path: Path) -> None:
    path = copy_of(tiny("compact"), tmp_path / "bundle", "window", "global", "decoder")
    data = path / "global/model.onnx.data"
    data.write_bytes(b"\1" + data.read_bytes()[1:])
    assert refusal(path) == f"{data} differs from what bundle.json records; copy or export it again"


def changed(bundle: Bundle, path: Path, stage: str, change: Callable[[onnx.GraphProto], None]) -> Path:
    """A bundle with another graph of one stage, recorded as its own."""
    copy_of(bundle, path, "window", "global", "decoder")
    file = path / bundle.stage(stage).file
    model = onnx.load(file, load_external_data=False)
    change(model.graph)
    file.write_bytes(model.SerializeToString())
    record = replace(bundle.stage(stage), files=hash_files(path, bundle.stage(stage).files))
    replace(bundle, path=path, stages={**bundle.stages, stage: record}).save()
    return path


def renamed(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Give a constant, or what a Cast makes of one, another name in all of its graph."""
    for item in (*graph.initializer, *graph.value_info):
        item.name = new if item.name == old else item.name
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]


CHANGES: dict[str, tuple[str, Callable[[onnx.GraphProto], None], str]] = {
    "a norm": (
        "window",
        lambda graph: renamed(graph, "blocks.0.norm2.weight", "val_7"),
        "window/model.onnx holds image_encoder.blocks.0.norm2.weight [24] in no form",
    ),
    "a bias, and so its weight": (
        "global",
        lambda graph: renamed(graph, "blocks.0.attn.qkv.bias", "val_7"),
        "global/model.onnx holds image_encoder.blocks.1.attn.rel_pos_h [9, 8] in no form",
    ),
    "a convolution before a norm": (
        "decoder",
        lambda graph: renamed(graph, "prompts.mask_downscaling.3.weight", "val_7000"),
        "decoder/model.onnx holds prompt_encoder.mask_downscaling.3.weight [16, 4, 2, 2] in no form",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_tensor_in_another_form_is_named(case: str, tiny: Callable[[str], Bundle], tmp_path: Path) -> None:
    stage, change, words = CHANGES[case]
    path = changed(tiny("fp16"), tmp_path / "bundle", stage, change)
    assert refusal(path) == f"{path}/{words} known here; export again from a checkpoint"


def recorded(path: Path, stage: str, graph: bytes) -> Path:
    """The shipped bundle with other bytes as a stage's graph, recorded as its own."""
    shipped = Bundle.load(shipped_bundle())
    copy_of(shipped, path, "window", "global", "decoder")
    (path / shipped.stage(stage).file).write_bytes(graph)
    record = replace(shipped.stage(stage), files=hash_files(path, shipped.stage(stage).files))
    replace(shipped, path=path, stages={**shipped.stages, stage: record}).save()
    return path


def data_elsewhere() -> bytes:
    """The shipped graph of the global stage, whose numbers lie in another folder."""
    shipped = Bundle.load(shipped_bundle())
    model = onnx.load(shipped.path / shipped.stage("global").file, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../../elsewhere" if entry.key == "location" else entry.value
    graph: bytes = model.SerializeToString()
    return graph


@pytest.mark.parametrize(
    "graph",
    [b"\xff no graph", b"", onnx.ModelProto().SerializeToString(), data_elsewhere()],
    ids=["noise", "nothing", "no graph", "data in another folder"],
)
def test_a_stage_that_is_recorded_and_no_graph_is_refused(graph: bytes, tmp_path: Path) -> None:
    path = recorded(tmp_path / "bundle", "global", graph)
    words = refusal(path)
    assert words.startswith(f"{path}/global/model.onnx ")
    assert words.endswith("; export again from a checkpoint")
    assert "\n" not in words


def test_a_geometry_that_is_not_known_is_refused(tiny: Callable[[str], Bundle]) -> None:
    bundle = tiny("compact")
    with pytest.raises(BundleError) as refused:
        weights_of(bundle.path)
    assert str(refused.value) == (
        f"{bundle.path} holds 'tiny' of a geometry unknown here, expected one of mini, small, vit_b, vit_l, "
        "vit_h; use the pedsam that exported it"
    )


def test_safetensors_give_their_own_weights(tmp_path: Path) -> None:
    save_weights(sam_state("mini"), tmp_path / "w.safetensors", "distilled", "a test")
    weights = weights_of(tmp_path / "w.safetensors")
    assert differing(weights.sam.state_dict(), sam_state("mini")) == []
    assert (weights.geometry.name, weights.status, weights.trained_on) == ("mini", "distilled", "a test")


def export(*arguments: str) -> str:
    """What the command says, which must fail without a traceback."""
    result = CliRunner().invoke(main, ["export", *arguments])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code != 0
    return " ".join(result.output.split())


def test_the_command_reads_a_bundle(tmp_path: Path) -> None:
    """And writes nothing: --out holds something else."""
    (tmp_path / "thesis.txt").touch()
    output = export("--recode", str(shipped_bundle()), "--out", str(tmp_path))
    assert "mini (distilled weights, dct:15/6) read back, which its export rounded to fp16" in output
    assert "is no bundle" in output


REFUSALS = {
    "a model too": (["--recode", ".", "--model", "mini"], "takes the model from what it reads"),
    "random weights too": (
        ["--recode", ".", "--random-weights"],
        "give one of --checkpoint, --random",
    ),
    "a checkpoint too": (["--recode", ".", "--checkpoint", "x"], "give one of --checkpoint, --random"),
    "no bundle": (["--recode", str(Path(__file__).parent)], "is no bundle"),
    "nothing there": (["--recode", "nowhere"], "nowhere does not exist"),
    "nothing to recode and no model": (["--random-weights"], "give --model, or --recode and a bundle"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_the_command_refuses(case: str, tmp_path: Path) -> None:
    arguments, words = REFUSALS[case]
    assert words in export(*arguments, "--out", str(tmp_path / "bundle"))
    assert list(tmp_path.iterdir()) == []
