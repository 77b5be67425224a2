"""The forms that hidden states travel in, and bundles that say so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jetson.budget import bundle_budget
from stages.bundle import MANIFEST, Bundle, shipped_bundle
from stages.errors import BundleError
from stages.geometry import GEOMETRIES
from stages.hidden import HiddenForm, after_head
from stages.places import edge_stages, part_files, stages_for
from stages.weights import stage_parameters

MINI = GEOMETRIES["mini"]


def test_what_a_window_travels_as() -> None:
    (half,) = HiddenForm("fp16", 192).specs(MINI)
    assert (half.name, half.dtype, half.shape) == ("hidden", "float16", ("n", 5, 5, 192))
    values, scale = HiddenForm("int8", 64).specs(MINI)
    assert (values.dtype, values.shape) == ("int8", ("n", 5, 5, 64))
    assert (scale.name, scale.dtype, scale.shape) == ("hidden_scale", "float16", ("n", 5, 5, 1))


def test_the_inputs_of_the_window_stage_are_what_the_head_gave_and_the_index() -> None:
    tiles = {"tile": np.zeros((1, 9)), "index": np.ones((1, 1)), "extent": np.zeros((1, 4))}
    assert list(after_head({"hidden": np.zeros(1)}, tiles)) == ["hidden", "index"]
    whole = after_head({"hidden": np.zeros(1), "hidden_scale": np.zeros(1)}, tiles)
    assert list(whole) == ["hidden", "index", "hidden_scale"]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"form": "int4", "components": 9, "variance_kept": 1},
        {"form": "int8", "components": 0, "variance_kept": 1},
        {"form": "int8", "components": True, "variance_kept": 1},
        {"form": "int8", "components": 9, "variance_kept": None},
    ],
)
def test_what_is_no_form(data: dict[str, Any]) -> None:
    with pytest.raises((LookupError, TypeError, ValueError)):
        HiddenForm.from_json(data)


def test_a_form_is_read_as_it_was_written() -> None:
    form = HiddenForm("int8", 64, 0.875)
    assert HiddenForm.from_json(json.loads(json.dumps(form.to_json()))) == form


# Bundles


@pytest.mark.parametrize(
    "change",
    [
        lambda b: replace(b, head_blocks=1),
        lambda b: replace(b, hidden=HiddenForm("fp16", 16)),
        lambda b: replace(b, hidden=HiddenForm("int8", 8)),
    ],
)
def test_the_digest_changes_with_blocks_and_form(
    tiny_head_bundle: Bundle, change: Callable[[Bundle], Bundle]
) -> None:
    assert change(tiny_head_bundle).site_digest != tiny_head_bundle.site_digest


def test_a_bundle_without_a_head_is_as_before() -> None:
    """Its manifest says nothing of hidden states, and gives its digest."""
    manifest = json.loads((shipped_bundle() / MANIFEST).read_text())
    assert (manifest["format"], manifest["head_blocks"], "hidden" in manifest) == (2, 0, False)
    bundle = Bundle.load(shipped_bundle())
    assert bundle.hidden is None
    assert bundle.site_digest == manifest["site_digest"]
    assert edge_stages(bundle) == ("global", "decoder")


def edited(bundle: Bundle, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a bundle's manifest, changed, with the digest that then fits."""
    path.mkdir()
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    change(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))
    try:
        manifest["site_digest"] = Bundle._from_manifest(path, manifest).site_digest
    except (LookupError, ValueError):
        return path
    (path / MANIFEST).write_text(json.dumps(manifest))
    return path


def test_a_copied_manifest_loads(tiny_head_bundle: Bundle, tmp_path: Path) -> None:
    assert Bundle.load(edited(tiny_head_bundle, tmp_path / "b", dict.copy)).hidden == tiny_head_bundle.hidden


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(head_blocks=0), "of format 3 gives 0 head blocks"),
        (lambda m: m.update(head_blocks=3), "gives 3 head blocks, expected 1 to 2"),
        (lambda m: m.update(head_blocks=True), "gives True head blocks"),
        (lambda m: m.update(format=2), "of format 2 gives 2 head blocks"),
        (lambda m: m.pop("hidden"), "is damaged"),
        (lambda m: m["hidden"].update(form="int4"), "is damaged"),
        (
            lambda m: m["hidden"].update(form="fp16", components=24),
            r"a head stage whose hidden is .* expected",
        ),
        (lambda m: m["stages"].pop("head"), "describes no stage 'head'"),
        (
            lambda m: m["stages"]["window"]["inputs"][2].update(shape=["n", 9]),
            "a window stage whose hidden_scale",
        ),
        (lambda m: m["tiles"].update(name="dct:1/1", luma_steps=[8], chroma_steps=[8]), "and dct:1/1 tiles"),
    ],
)
def test_a_manifest_that_contradicts_itself(
    tiny_head_bundle: Bundle, tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    with pytest.raises(BundleError, match=words):
        Bundle.load(edited(tiny_head_bundle, tmp_path / "b", change))


# Places and memory


def test_an_edge_needs_the_head_and_a_site_gets_none(tiny_head_bundle: Bundle, tmp_path: Path) -> None:
    assert stages_for(tiny_head_bundle, "edge") == ("head", "global", "decoder", "window")
    assert stages_for(tiny_head_bundle, "site") == ("window",)
    assert not any(file.name.startswith("head/") for file in part_files(tiny_head_bundle, "site"))
    shutil.copytree(tiny_head_bundle.path, tmp_path / "b")
    shutil.rmtree(tmp_path / "b/head")
    with pytest.raises(BundleError, match="does not hold head, which an edge needs"):
        stages_for(Bundle.load(tmp_path / "b"), "edge")


def test_weights_are_shared_out(tiny_head_bundle: Bundle) -> None:
    """By the dimensions as by the files; a board's memory counts the head."""
    g = tiny_head_bundle.geometry
    whole, parts = stage_parameters(g), stage_parameters(g, 2)
    assert set(parts) == {"head", "window", "global", "decoder"}
    assert parts["head"].products + parts["window"].products == whole["window"].products
    assert parts["head"].rest + parts["window"].rest == whole["window"].rest
    for name in ("head", "window"):
        stored = (tiny_head_bundle.path / f"{name}/model.onnx.data").stat().st_size
        assert stored == pytest.approx(parts[name].bytes("fp32"), rel=0.15)
    terms = [term.name for term in bundle_budget(tiny_head_bundle).running]
    assert "weights of head, global, decoder, window" in terms
