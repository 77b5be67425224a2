"""Which stage computes in which precision, and what an export of a lower one writes and refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from export.layers import lowered
from export.modules import GlobalStage, WindowStage
from export.precision import stage_precisions
from export.sam import Sam, build_sam, load_weights, randomise, save_weights
from pedsam import main
from stages.bundle import Bundle
from stages.engine import make_engine
from stages.errors import CheckpointError, EngineError, InputError
from tests.export.conftest import TINY

WEIGHTS = Path(__file__).parent.parent.parent / "assets/mini.safetensors"


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ([], "fp32 fp32 fp32 fp32"),
        (["fp16"], "fp16 fp16 fp16 fp16"),
        (["fp16", "global=bf16"], "fp16 bf16 fp16 bf16"),
        (["global=bf16", "fp16", "whole=fp16"], "fp16 bf16 fp16 fp16"),
        (["window=fp16"], "fp16 fp32 fp32 fp32"),
        (["bf16", "window=fp16"], "fp16 bf16 bf16 bf16"),
    ],
)
def test_choices(choices: list[str], expected: str) -> None:
    found = stage_precisions(choices)
    assert " ".join(found[stage] for stage in ("window", "global", "decoder", "whole")) == expected


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (["fp8"], "--precision 'fp8' is unknown; give one of fp32, fp16, bf16, or STAGE=PRECISION"),
        (["head=fp16"], "'head=fp16' is unknown"),
        (["=fp16"], "'=fp16' is unknown"),
        (["fp16", "fp32"], "gives every stage both fp16 and fp32"),
        (["global=fp16", "global=bf16"], "gives global both fp16 and bf16"),
    ],
)
def test_other_words_are_refused(choices: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        stage_precisions(choices)


@pytest.fixture(scope="module")
def sam() -> Sam:
    model = build_sam(TINY)
    randomise(model)
    return model


def test_only_products_are_lowered_and_the_model_stays_as_it_was(sam: Sam) -> None:
    stage = lowered(WindowStage(sam, TINY, torch.float16), torch.float16)
    dtypes = {name: parameter.dtype for name, parameter in stage.named_parameters()}
    low = {name for name, dtype in dtypes.items() if dtype == torch.float16}
    assert low == {name for name in dtypes if "norm" not in name}
    assert {buffer.dtype for buffer in stage.buffers()} == {torch.float32, torch.bool}
    assert {parameter.dtype for parameter in sam.parameters()} == {torch.float32}


def test_fp32_is_the_module_itself(sam: Sam) -> None:
    stage = GlobalStage(sam, TINY)
    assert lowered(stage, torch.float32) is stage


def test_a_weight_beyond_the_range_is_refused() -> None:
    linear = nn.Linear(2, 2)
    nn.init.constant_(linear.weight, 7e4)
    layer = nn.Sequential(linear)
    with pytest.raises(CheckpointError, match=r"0\.weight has values beyond the range of float16"):
        lowered(layer, torch.float16)
    assert lowered(layer, torch.bfloat16) is not layer


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_bundle_records_precision_and_what_was_measured(
    tiny_bundle: Callable[[str], Bundle], precision: str
) -> None:
    bundle = tiny_bundle(precision)
    assert {stage.precision for stage in bundle.stages.values()} == {precision}
    assert bundle.description == f"tiny (untrained weights, {precision})"
    assert bundle.stage("global").parity["image_embedding"] < 1e-4  # the graph is the module's
    assert bundle.stage("decoder").parity["low_res_masks"] < 1e-4
    assert 0 < bundle.parity["rounded_embedding"] < 0.1
    assert bundle.parity["rounded_masks_iou_mean"] > 0.97
    assert 0 < bundle.parity["global_largest"] < 65504


def test_stages_of_fp32_round_nothing(mini_bundle: Bundle) -> None:
    assert set(mini_bundle.parity) == {"chain", "chain_pytorch", "whole"}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_probe_is_near_that_of_fp32(
    sam: Sam, tiny_bundle: Callable[[str], Bundle], precision: str
) -> None:
    """So a site in fp32 and one in fp16 of the same weights would pass each other's."""
    probe = tiny_bundle(precision).probe()
    inputs = (torch.from_numpy(probe.inputs[name]) for name in ("tile", "index", "extent"))
    with torch.no_grad():
        exact = WindowStage(sam, TINY, torch.float32).encode(*inputs).numpy()
    difference = np.abs(probe.embedding - exact).max() / np.abs(exact).max()
    assert 0 < difference < probe.tolerance["float16"] / 2


def test_onnxruntime_runs_fp16(tiny_bundle: Callable[[str], Bundle]) -> None:
    probe = tiny_bundle("fp16").probe()
    engine = make_engine(tiny_bundle("fp16"), "window", "onnxruntime-cpu")
    engine.open()
    answer = engine.infer(probe.inputs)["embedding"].astype(np.float32)
    engine.close()
    assert np.abs(answer - probe.embedding).max() < 1e-3 * np.abs(probe.embedding).max()


def test_no_cpu_runs_bf16(tiny_bundle: Callable[[str], Bundle]) -> None:
    engine = make_engine(tiny_bundle("bf16"), "global", "onnxruntime-cpu")
    with pytest.raises(EngineError) as refused:
        engine.open()
    assert str(refused.value) == (
        "stage global computes in bf16, which onnxruntime cannot on a CPU: run it on an NVIDIA GPU (pedsam "
        "build), or export it with --precision global=fp16 or =fp32"
    )


REFUSALS = {
    "unknown": (["--precision", "fp8"], "Error: --precision 'fp8' is unknown"),
    "compact": (["--precision", "fp16", "--compact"], "--compact is for fp32"),
    "photos alone": (["--photos", "."], "give --precision fp16 or bf16 too"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_the_command_refuses(case: str, tmp_path: Path) -> None:
    arguments, words = REFUSALS[case]
    line = ["export", "--model", "mini", "--random-weights", *arguments, "--out", str(tmp_path / "bundle")]
    result = CliRunner().invoke(main, line)
    assert result.exit_code != 0
    assert words in result.output


def test_the_command_keeps_nothing_of_a_stage_that_overflows(tmp_path: Path) -> None:
    weights = load_weights(None, WEIGHTS)
    block = weights.sam.image_encoder.blocks[weights.geometry.global_blocks[1]]
    block.mlp.lin1.weight.data *= 2e4  # in the range of fp16 itself
    save_weights(weights.sam.state_dict(), tmp_path / "large.safetensors", "distilled", "a test")
    line = ["export", "--model", "mini", "--checkpoint", str(tmp_path / "large.safetensors")]
    result = CliRunner().invoke(main, [*line, "--precision", "fp16", "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "Error: stage global overflows float16 in addmm of blocks.1.mlp.lin1" in result.output
    assert "give --precision global=bf16 (or fp32)" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["large.safetensors"]
