"""Window blocks at the edge: head, rest and global stage are the encoder, and travelling is what is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from export.checkpoints.bundle_weights import weights_of
from export.checks.numerics import measure_numerics, window_tensors
from export.components import choose_head
from export.head import Head, travel
from export.modules import GlobalStage, HeadStage, RestStage, WholeStage, WindowStage, reordered_encoder
from export.precision import FP32, stage_precisions
from export.projection import Projection
from export.sam import Sam, Weights
from export.stages import StagePlan, stage_plans
from pedsam.command import main
from runtime.frames.canvas import make_canvas
from stages.bundle import Bundle
from stages.errors import InputError, ParityError
from stages.geometry import GEOMETRIES
from stages.tile_code import RGB
from tests.support.bundles import SPLIT_TINY, random_weights
from tests.support.pictures import photo

MINI = GEOMETRIES["mini"]
PLAIN = Head(2, "fp32")

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture(scope="module")
def sam() -> Sam:
    return random_weights(MINI).sam


@pytest.fixture(scope="module")
def trained() -> Callable[[int, str], tuple[HeadStage, RestStage]]:
    """Head and rest of tiny, random weights: trained(blocks, form)."""
    tiny = random_weights(SPLIT_TINY).sam
    return lambda blocks, form: (
        HeadStage(tiny, SPLIT_TINY, Head(blocks, form)),
        RestStage(tiny, SPLIT_TINY, torch.float32, Head(blocks, form)),
    )


def through(sam: Sam, head: Head, inputs: tuple[Tensor, ...]) -> Tensor:
    """The embedding of windows through head and rest."""
    hidden, *scale = HeadStage(sam, MINI, head)(*inputs)
    return RestStage(sam, MINI, torch.float32, head).encode(hidden, inputs[1], *scale)


def reference(sam: Sam, picture: np.ndarray, head: Head | None = None) -> Tensor:
    """The image embedding by segment_anything's own encoder, reordered, run whole."""
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float()
    own = sam.image_encoder.blocks
    embedding: Tensor = reordered_encoder(sam.image_encoder, MINI, head=head)(sam.preprocess(pixels))
    sam.image_encoder.blocks = own
    return embedding


def picture_of(shape: str) -> tuple[np.ndarray, tuple[Tensor, ...]]:
    """A photograph as it lies on the canvas, and the inputs of all windows."""
    canvas = make_canvas(photo(shape), MINI)
    picture = np.ascontiguousarray(canvas.pixels[: canvas.rows, : canvas.cols])
    return picture, window_tensors(RGB, MINI, picture)


@pytest.mark.parametrize(
    ("blocks", "shape"), [(1, "16:9"), (2, "16:9"), (2, "portrait"), (4, "1000x667"), (7, "square")]
)
def test_head_rest_and_global_stage_are_the_whole_encoder(sam: Sam, blocks: int, shape: str) -> None:
    picture, inputs = picture_of(shape)
    embedding = through(sam, Head(blocks, "fp32"), inputs)
    split = GlobalStage(sam, MINI)(embedding)
    expected = reference(sam, picture)
    assert expected.std() > 0.1
    assert (split - expected).abs().max() < 1e-4


@pytest.mark.parametrize(("form", "most"), [("fp16", 2e-3), ("int8", 3e-2)])
def test_forms_round_and_nothing_else(sam: Sam, form: str, most: float) -> None:
    """Relative RMS of the embedding; in fp32 it is below 1e-6."""
    _, inputs = picture_of("16:9")
    exact = WindowStage(sam, MINI, torch.float32).encode(*inputs)

    def off(name: str) -> float:
        return float((through(sam, Head(2, name), inputs) - exact).square().mean().sqrt() / exact.std())

    assert off("fp32") < 1e-6
    assert off("fp32") < off(form) < most


def test_whole_does_to_hidden_states_what_travelling_does(sam: Sam) -> None:
    """int8 and components, as in segment_anything's encoder with that step put in."""
    basis = torch.linalg.qr(torch.randn((192, 96), generator=torch.Generator().manual_seed(3)))[0]
    head = Head(2, "int8", Projection(torch.zeros(192), basis, 0.9))
    picture, (tile, index, extent) = picture_of("16:9")
    expected = reference(sam, picture, head)
    whole = WholeStage(sam, MINI, head=head)(tile, extent)
    split = GlobalStage(sam, MINI)(through(sam, head, (tile, index, extent)))
    assert (whole - expected).abs().max() < 1e-3 * expected.abs().max()
    assert (split - expected).abs().max() < 1e-2 * expected.abs().max()  # a value may fall to either step
    assert (reference(sam, picture) - expected).abs().max() > 3e-2 * expected.abs().max()


def test_a_hidden_state_is_its_windows_own_and_zero_off_the_canvas(sam: Sam) -> None:
    stage = HeadStage(sam, MINI, PLAIN)
    _, (tile, index, extent) = picture_of("square")
    (together,) = stage(tile, index, extent)
    (alone,) = stage(tile[6:7], index[6:7], extent[6:7])
    assert torch.allclose(together[6:7], alone, atol=1e-4)
    corner = stage.canvas_tokens[-1].expand_as(together[-1])
    assert (together[-1][~corner] == 0).all()
    assert (together[-1][corner] != 0).all()


def test_what_lies_off_the_canvas_reaches_no_token(
    trained: Callable[[int, str], tuple[HeadStage, RestStage]],
) -> None:
    """Whatever a hostile edge puts there."""
    _, rest = trained(1, "fp32")
    index = torch.tensor([[SPLIT_TINY.windows - 1]], dtype=torch.int32)
    hidden = torch.randn((1, 2, 2, 24), generator=torch.Generator().manual_seed(1))
    poisoned = torch.where(rest.canvas_tokens[-1], hidden, torch.full_like(hidden, torch.nan))
    assert 0 < rest.canvas_tokens[-1].sum() < 4
    assert torch.equal(rest.encode(hidden, index), rest.encode(poisoned, index))


def test_travelling_without_a_head_changes_nothing() -> None:
    x = torch.randn((2, 3, 4))
    assert torch.equal(travel(None)(x), x)
    assert torch.equal(travel(Head(1, "fp16"))(x), x)  # rounded by the wire, not by graphs
    assert not torch.equal(travel(Head(1, "int8"))(x), x)


def test_rounding_of_a_head_in_fp16_is_measured_with_the_rest() -> None:
    """And one that overflows is named."""
    weights, precisions = random_weights(SPLIT_TINY), stage_precisions(["head=fp16"], head=True)
    picture = np.random.default_rng(1).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    head = Head(1, "fp16")

    def plans(each: dict[str, str]) -> tuple[StagePlan, ...]:
        return stage_plans(weights.sam, SPLIT_TINY, "float32", each, head=head)

    numerics = measure_numerics(plans(dict(FP32)), plans(precisions), SPLIT_TINY, [picture])
    assert set(numerics.peaks) == {"head"}
    assert 0 < numerics.embedding < 1e-2
    weights.sam.image_encoder.blocks[0].mlp.lin1.weight *= 5e4
    weights.sam.image_encoder.blocks[0].mlp.lin2.weight *= 2e-5
    with pytest.raises(ParityError, match="stage head overflows float16"):
        measure_numerics(plans(dict(FP32)), plans(precisions), SPLIT_TINY, [picture])


# What is asked for


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"blocks": 8},
            "--head-blocks 8 leaves sites nothing to do: mini has 8 window blocks, so give at most 7",
        ),
        ({"components": 193}, "--hidden-components 193 is more than the 192 channels"),
        (
            {"components": 64, "status": "distilled"},
            "--hidden-components 64 is fitted to photographs: give --photos FOLDER with .* leave it out to",
        ),
    ],
)
def test_what_cannot_be_a_head_is_a_sentence(sam: Sam, options: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"blocks": 2, "components": None, "status": "untrained", **options}
    weights = Weights(sam, MINI, given["status"], "a test")
    with pytest.raises(InputError, match=words):
        choose_head(weights, given["blocks"], "fp16", given["components"], None, print)


def test_every_channel_is_no_projection(sam: Sam) -> None:
    weights = Weights(sam, MINI, "distilled", "a test")
    assert choose_head(weights, 0, "fp16", None, None, print) is None
    assert choose_head(weights, 2, "int8", 192, None, print) == Head(2, "int8")


REFUSALS = {
    "tiles too": (
        ["--head-blocks", "2", "--tiles", "dct:10/3"],
        "--tiles and --head-blocks exclude each other",
    ),
    "a form of nothing": (
        ["--hidden", "int8"],
        "--hidden says how hidden states travel; give --head-blocks K",
    ),
    "components of nothing": (
        ["--hidden-components", "9"],
        "--hidden-components says how hidden states travel",
    ),
    "every block": (["--head-blocks", "8"], "so give at most 7"),
    "fewer than none": (["--head-blocks", "-1"], "-1 is not in the range"),
    "a precision of nothing": (["--precision", "head=fp16"], "one stage of window, global, decoder, whole"),
    "no such form": (["--head-blocks", "2", "--hidden", "int4"], "'int4' is not one of"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_the_command_refuses(case: str, tmp_path: Path) -> None:
    arguments, words = REFUSALS[case]
    line = ["export", "--model", "mini", "--random-weights", *arguments, "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, line)
    assert result.exit_code != 0
    assert words in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


# An exported bundle


def test_weights_come_back_from_a_bundle_with_a_head(
    tiny_head_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit; how hidden states travelled does not come along."""
    monkeypatch.setitem(GEOMETRIES, "tiny", SPLIT_TINY)
    weights = weights_of(tiny_head_bundle.path, lambda line: None)
    expected = random_weights(SPLIT_TINY).sam.state_dict()
    found = weights.sam.state_dict()
    assert [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)] == []
    assert weights.projection is None


def test_an_export_checks_and_records_its_head(tiny_head_bundle: Bundle) -> None:
    assert (tiny_head_bundle.format, tiny_head_bundle.head_blocks) == (3, 2)
    assert tiny_head_bundle.hidden is not None
    assert tiny_head_bundle.hidden.text == "16 components a token in int8"
    assert 0.6 < tiny_head_bundle.hidden.variance_kept < 1
    assert set(tiny_head_bundle.stage("head").parity) == {"hidden", "hidden_scale"}
    assert [spec.name for spec in tiny_head_bundle.stage("window").inputs] == [
        "hidden",
        "index",
        "hidden_scale",
    ]
    assert tiny_head_bundle.parity["chain"] < 0.1
    assert (
        tiny_head_bundle.code
        == "hidden states after 2 blocks (16 components a token in int8), 24 components a token"
    )
    assert tiny_head_bundle.description == "tiny (untrained weights, head of 2)"
