"""The memory budget: its numbers against what was measured, and what a refusal says."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jetson.budget import (
    ACTIVATIONS_MB,
    COMPUTED,
    ESTIMATED,
    HEADLESS_SAVES,
    MEASURED,
    ORIN_NANO_8GB,
    PROCESS_BYTES,
    PUBLISHED,
    SYSTEM_BYTES,
    BoardMemory,
    bundle_budget,
    fits,
    model_budget,
    refusal,
    require_fit,
)
from stages.bundle import Bundle, shipped_bundle
from stages.errors import BundleError, InputError
from stages.geometry import GEOMETRIES
from tests.support.bundles import TINY

RESULTS = Path(__file__).parents[2] / "benchmarks/results"
NANO = BoardMemory(ORIN_NANO_8GB)
VIT_H = GEOMETRIES["vit_h"]


def measured(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


# Where the numbers come from


def test_activations_are_those_that_were_measured() -> None:
    rows = measured("engine_memory.json")["stages"]
    found = {(row["model"], row["precision"]): [0.0, 0.0, 0.0] for row in rows}
    for row in rows:
        column = ("window", "global", "decoder").index(row["stage"])
        found[row["model"], row["precision"]][column] = row["activations_mb"]
    assert {key: tuple(figures) for key, figures in found.items()} == ACTIVATIONS_MB
    assert {name for name, _ in ACTIVATIONS_MB} == set(GEOMETRIES)


def test_the_process_is_the_largest_of_the_soak() -> None:
    assert measured("soak_mini.json")["range_after_warm_up"]["edge_mb"][1] * 1_000_000 == PROCESS_BYTES


def test_each_stage_counts_with_its_own_figures() -> None:
    without = model_budget(GEOMETRIES["vit_b"], "fp16", fallback=False).running[3]
    assert without.bytes == 107_300_000 + 59_200_000  # global and decoder


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("model", GEOMETRIES)
def test_every_term_has_its_evidence_and_the_sums_are_theirs(model: str, precision: str) -> None:
    budget = model_budget(GEOMETRIES[model], precision)
    terms = (*budget.running, *budget.building)
    assert {term.evidence for term in terms} == {MEASURED, COMPUTED, PUBLISHED, ESTIMATED}
    assert all(term.bytes > 0 and term.source for term in terms)
    assert budget.running_bytes == sum(term.bytes for term in budget.running)
    assert budget.peak_bytes == max(budget.running_bytes, budget.building_bytes)


def test_a_bundles_budget_is_that_of_its_model(mini_bundle: Bundle) -> None:
    found, expected = bundle_budget(mini_bundle), model_budget(mini_bundle.geometry, "fp32")
    assert found.description == expected.description == "mini in fp32"
    for term, by_model in zip(found.running, expected.running, strict=True):
        assert term.bytes == pytest.approx(by_model.bytes, rel=0.02)  # files hold the graph besides
        assert term.bytes >= by_model.bytes
    assert found.building_bytes == pytest.approx(expected.building_bytes, rel=0.001)


def test_weights_stored_in_fp16_count_as_what_they_compute_in() -> None:
    shipped = Bundle.load(shipped_bundle())
    assert shipped.stage("window").precision == "fp32 from fp16 weights"
    assert bundle_budget(shipped).running[2].bytes == model_budget(shipped.geometry, "fp32").running[2].bytes


def test_a_bundle_without_its_window_stage_has_no_fallback_to_count(tmp_path: Path) -> None:
    path = shutil.copytree(shipped_bundle(), tmp_path / "bundle")
    whole, chosen = Bundle.load(path), bundle_budget(Bundle.load(path), fallback=False)
    shutil.rmtree(path / "window")
    without = bundle_budget(whole)
    assert without == chosen
    assert (without.fallback, without.description) == (False, "mini in fp32 without its fallback")
    assert without.running[2].name == "weights of global, decoder"
    shutil.rmtree(path / "global")
    with pytest.raises(BundleError, match="does not hold global, which an edge needs"):
        bundle_budget(whole)


def test_a_model_that_nobody_measured_counts_as_the_next_larger_one() -> None:
    odd = replace(GEOMETRIES["vit_b"], name="odd", dim=800)
    assert (
        model_budget(odd, "fp16").running[3].bytes
        == model_budget(GEOMETRIES["vit_l"], "fp16").running[3].bytes
    )
    assert (
        model_budget(TINY, "bf16").running[3].bytes
        == model_budget(GEOMETRIES["mini"], "fp16").running[3].bytes
    )
    huge = replace(VIT_H, name="huge", dim=4096)
    assert model_budget(huge, "fp32").running[3].bytes == model_budget(VIT_H, "fp32").running[3].bytes


# Boards


def test_what_is_left_for_programs() -> None:
    assert NANO.for_programs == ORIN_NANO_8GB - SYSTEM_BYTES
    assert NANO.headless().for_programs == NANO.for_programs + HEADLESS_SAVES
    asked = BoardMemory(ORIN_NANO_8GB, desktop=True, available_bytes=4_000_000_000)
    assert asked.for_programs == 4_000_000_000
    assert asked.headless().for_programs == 4_000_000_000 + HEADLESS_SAVES
    off = BoardMemory(ORIN_NANO_8GB, desktop=False, available_bytes=6_000_000_000)
    assert off.headless() == off


def test_a_budget_fits_up_to_the_last_byte() -> None:
    budget = model_budget(VIT_H, "fp16")
    assert fits(budget, BoardMemory(ORIN_NANO_8GB, available_bytes=budget.peak_bytes))
    assert not fits(budget, BoardMemory(ORIN_NANO_8GB, available_bytes=budget.peak_bytes - 1))


# Refusals


def test_vit_h_in_fp32_is_refused_and_fp16_named() -> None:
    assert refusal(model_budget(VIT_H, "fp32"), VIT_H, NANO) == (
        "vit_h in fp32 needs 6.84 GB to run, and this board has 5.36 GB of 7.99 GB for programs with the "
        "desktop; what fits: vit_h in fp16 (4.40 GB), or vit_l in fp16 (3.19 GB)"
    )


def test_what_fits_without_the_desktop_is_offered_first() -> None:
    budget = model_budget(VIT_H, "fp16")
    tight = BoardMemory(ORIN_NANO_8GB, available_bytes=budget.peak_bytes - 1)
    text = refusal(budget, VIT_H, tight)
    assert "needs 4.40 GB to build its engines" in text
    assert text.endswith("what fits: the same with --headless, or vit_l in fp16 (3.19 GB)")
    off = refusal(budget, VIT_H, replace(tight, desktop=False))
    assert "for programs without a desktop; what fits: vit_l in fp16 (3.19 GB), or vit_b in fp16" in off


def test_a_board_for_which_nothing_is_small_enough_is_told_so() -> None:
    small = BoardMemory(3602 << 20, available_bytes=1_000_000_000)
    text = refusal(model_budget(VIT_H, "fp32"), VIT_H, small)
    assert text.endswith("has 1.00 GB of 3.78 GB for programs with the desktop; no model of pedsam fits")
    assert "has 0.00 GB" in refusal(model_budget(VIT_H, "fp32"), VIT_H, BoardMemory(1 << 30))


@pytest.mark.parametrize("available", range(1_000_000_000, 7_000_000_000, 250_000_000))
def test_what_is_named_does_fit(available: int) -> None:
    memory = BoardMemory(ORIN_NANO_8GB, available_bytes=available)
    budget = model_budget(VIT_H, "fp32")
    for name, precision in re.findall(r"(\w+) in (\w+) \(", refusal(budget, VIT_H, memory)):
        assert fits(model_budget(GEOMETRIES[name], precision), memory)


def test_a_bundle_is_refused_by_an_input_error(mini_bundle: Bundle) -> None:
    assert require_fit(mini_bundle, NANO) == bundle_budget(mini_bundle)
    with pytest.raises(
        InputError, match=r"^mini in fp32 needs 2\.17 GB to build its engines, and this board"
    ):
        require_fit(mini_bundle, BoardMemory(ORIN_NANO_8GB, available_bytes=2_000_000_000))
