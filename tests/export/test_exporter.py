"""A whole bundle: its probe, its padding, any batch, memory of the global stage."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from export.exporter import ExportOptions, blank_window, export_bundle, put_in_place
from export.modules import WindowStage
from export.sam import Weights
from stages.bundle import Bundle
from stages.engines.backends import make_engine
from stages.errors import EngineError, InputError
from stages.probe import difference
from tests.support.bundles import TINY, random_weights
from tests.support.disks import limited_to
from tests.support.noise import noise_windows


def test_the_probe_is_answered_and_padding_is_what_the_window_stage_makes_of_nothing(
    mini_bundle: Bundle,
) -> None:
    probe, padding = mini_bundle.probe(), mini_bundle.padding_embeddings()
    engine = make_engine(mini_bundle, "window")
    engine.open()
    answer = engine.infer(probe.inputs)["embedding"]
    blanks = [engine.infer(blank_window(mini_bundle, i))["embedding"][0] for i in (0, 12, 24)]
    engine.close()
    assert np.abs(answer.astype(np.float32) - probe.embedding).max() < 1e-3 * np.abs(probe.embedding).max()
    assert np.allclose(padding[[0, 12, 24]], blanks, atol=1e-2)
    assert not np.allclose(padding[0], padding[12], atol=1e-1)  # they depend on the position


def test_batches_of_any_size_up_to_25_agree(mini_bundle: Bundle) -> None:
    g = mini_bundle.geometry
    ends = {window: (bottom, right) for window, (*_, bottom, right) in enumerate(g.extents(300, 384))}
    feeds = noise_windows(mini_bundle, ends)
    engine = make_engine(mini_bundle, "window")
    engine.open()
    together = engine.infer(feeds)
    for start, stop in ((0, 1), (3, 5), (16, 25)):
        part = engine.infer({name: array[start:stop] for name, array in feeds.items()})
        close = np.isclose(
            part["embedding"].astype(np.float32),
            together["embedding"][start:stop].astype(np.float32),
            rtol=2e-3,
            atol=2e-3,
        )
        assert close.all()
    engine.close()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_bundle_records_precision_and_what_was_measured(
    tiny: Callable[[str], Bundle], precision: str
) -> None:
    bundle = tiny(precision)
    assert {stage.precision for stage in bundle.stages.values()} == {precision}
    assert bundle.description == f"tiny (untrained weights, {precision})"
    assert bundle.stage("global").parity["image_embedding"] < 1e-4  # the graph is the module's
    assert bundle.stage("decoder").parity["low_res_masks"] < 1e-4
    assert 0 < bundle.parity["rounded_embedding"] < 0.1
    assert bundle.parity["rounded_masks_iou_mean"] > 0.97
    assert 0 < bundle.parity["global_largest"] < 65504


@pytest.mark.parametrize("kind", ["fp16-8", "float32-8"])
def test_embeddings_of_components(tiny: Callable[[str], Bundle], kind: str) -> None:
    """Specs, padding and probe are of 8 components, and what they lose is said."""
    bundle = tiny(kind)
    shape = (TINY.window, TINY.window, 8)
    assert (bundle.components, bundle.embedding_shape) == (8, shape)
    assert 0.3 < bundle.variance_kept < 0.99
    outputs = {spec.name: spec.shape for spec in bundle.stage("window").outputs}
    assert outputs["embedding"] == outputs["embedding_q8"] == ("n", *shape)
    assert bundle.stage("global").inputs[0].shape == (TINY.windows, *shape)
    assert bundle.padding_embeddings().shape == (TINY.windows, *shape)
    assert bundle.probe().embedding.shape == (1, *shape)


def test_the_probe_leaves_room_for_what_int8_rounds(mini_bundle: Bundle) -> None:
    probe = mini_bundle.probe()
    engine = make_engine(mini_bundle, "window")
    engine.open()
    answer = engine.infer(probe.inputs)
    engine.close()
    rounded = difference(probe, answer["embedding_q8"] * answer["scale"].astype(np.float32))
    assert probe.tolerance["float16"] == 0.01
    assert 0 < rounded < probe.tolerance["int8"] - probe.tolerance["float16"] < 0.03


def test_stages_of_fp32_round_nothing(mini_bundle: Bundle) -> None:
    assert set(mini_bundle.parity) == {"chain", "chain_pytorch", "whole"}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_probe_is_near_that_of_fp32(
    tiny_weights: Weights, tiny: Callable[[str], Bundle], precision: str
) -> None:
    """So a site in fp32 and one in fp16 of the same weights would pass each other's."""
    probe = tiny(precision).probe()
    inputs = (torch.from_numpy(probe.inputs[name]) for name in ("tile", "index", "extent"))
    with torch.no_grad():
        exact = WindowStage(tiny_weights.sam, TINY, torch.float32).encode(*inputs).numpy()
    assert 0 < difference(probe, exact) < probe.tolerance["float16"] / 2


def test_onnxruntime_runs_fp16(tiny: Callable[[str], Bundle]) -> None:
    probe = tiny("fp16").probe()
    engine = make_engine(tiny("fp16"), "window", "onnxruntime-cpu")
    engine.open()
    answer = engine.infer(probe.inputs)["embedding"].astype(np.float32)
    engine.close()
    assert np.abs(answer - probe.embedding).max() < 1e-3 * np.abs(probe.embedding).max()


def test_no_cpu_runs_bf16(tiny: Callable[[str], Bundle]) -> None:
    engine = make_engine(tiny("bf16"), "global", "onnxruntime-cpu")
    with pytest.raises(EngineError) as refused:
        engine.open()
    assert str(refused.value) == (
        "stage global computes in bf16, which onnxruntime cannot on a CPU: run it on an NVIDIA GPU (pedsam "
        "build), or export it with --precision global=fp16 or =fp32"
    )


_GLOBAL_RUN = """
import json, sys
import numpy as np
from stages.bundle import Bundle
from stages.engines.backends import make_engine
from tests.support.memory import peak_bytes
engine = make_engine(Bundle.load(sys.argv[1]), "global")
engine.open()
spec = engine.stage.inputs[0]
embedding = np.random.default_rng(0).standard_normal(spec.shape).astype(spec.dtype)
for _ in range(2):
    result = engine.infer({"embedding": embedding})["image_embedding"]
print(json.dumps({"peak_bytes": peak_bytes(), "finite": bool(np.isfinite(result).all())}))
"""


@pytest.mark.full
def test_the_global_stage_of_vit_b_needs_less_than_1_gb(exported: Callable[[str, str], Bundle]) -> None:
    bundle = exported("vit_b", "float32")
    done = subprocess.run(
        [sys.executable, "-c", _GLOBAL_RUN, str(bundle.path)], capture_output=True, text=True, check=True
    )
    measured = json.loads(done.stdout)
    assert measured["finite"]
    assert measured["peak_bytes"] < 1.0e9


def test_a_new_bundle_takes_the_place_of_an_old_one(tmp_path: Path) -> None:
    old, new = tmp_path / "out", tmp_path / "scratch/new"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / folder.name).touch()
    put_in_place(new, old, tmp_path / "scratch/replaced")
    assert [path.name for path in old.iterdir()] == ["new"]
    with pytest.raises(FileNotFoundError):  # a second time there is no new one: the old one is put back
        put_in_place(new, old, tmp_path / "scratch/again")
    assert [path.name for path in old.iterdir()] == ["new"]


def test_a_disk_that_is_full_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    with limited_to(30_000), pytest.raises(InputError, match=r"cannot write .*bundle; check free space"):
        export_bundle(weights, TINY, tmp_path / "bundle", ExportOptions(), lambda text: None)
    assert list(tmp_path.iterdir()) == []
