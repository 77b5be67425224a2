"""Bundles on disk: what was saved comes back, and each kind of damage is named."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.bundle import MANIFEST, PADDING_FILE, PROBE_FILE, Bundle, Stage, hash_files
from stages.engines.backends import make_engine
from stages.errors import BundleError, EngineError
from stages.geometry import GEOMETRIES
from stages.tile_code import RGB, TileCode
from tests.support.fakes import INPUTS, OUTPUTS, TINY, answers, tiles, tiny_bundle

WINDOW_FILES = ("window/model.onnx", "window/model.onnx.data")
GLOBAL_FILES = ("global/model.onnx",)


@pytest.fixture
def saved(tmp_path: Path) -> Bundle:
    """A bundle whose stage files are no ONNX but whose hashes are right."""
    for name in (*WINDOW_FILES, *GLOBAL_FILES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"the bytes of " + name.encode())
    (tmp_path / "edge").mkdir()
    np.save(tmp_path / PADDING_FILE, np.arange(4))
    probe: dict[str, Any] = {"embedding": answers(tiles(24))["embedding"], **tiles(24)}
    np.savez(tmp_path / PROBE_FILE, **probe)
    bundle = replace(
        tiny_bundle(tmp_path),
        stages={
            "window": stage("window", tmp_path, WINDOW_FILES),
            "global": stage("global", tmp_path, GLOBAL_FILES),
        },
        edge_files=hash_files(tmp_path, (PADDING_FILE, PROBE_FILE)),
        parity={"chain": 1e-5},
    )
    bundle.save()
    return bundle


def stage(name: str, root: Path, files: tuple[str, ...]) -> Stage:
    return Stage(name, files[0], hash_files(root, files), INPUTS, OUTPUTS, "fp32", {"embedding": 1e-6})


def of_format_2(bundle: Bundle, tiles: TileCode, components: int) -> Bundle:
    """The same with tiles of 16 x 16 pixels in this code, and a window stage that takes and gives them."""
    geometry = replace(TINY, image_size=80, window=8)
    inputs = (replace(INPUTS[0], shape=("n", tiles.tile_bytes(geometry))), *INPUTS[1:])
    outputs = (replace(OUTPUTS[0], shape=("n", 8, 8, components)), *OUTPUTS[1:])
    window = replace(bundle.stage("window"), inputs=inputs, outputs=outputs)
    stages = {**bundle.stages, "window": window}
    return replace(bundle, format=2, geometry=geometry, tiles=tiles, components=components, stages=stages)


def test_what_was_saved_is_loaded(saved: Bundle) -> None:
    assert Bundle.load(saved.path) == saved
    assert Bundle.load(str(saved.path)) == saved


def test_what_travels_is_saved_too(saved: Bundle) -> None:
    changed = replace(of_format_2(saved, RGB, 2), variance_kept=0.875, measured={"miou": {"box": 0.7}})
    changed.save()
    assert Bundle.load(saved.path) == changed
    assert changed.embedding_shape == (8, 8, 2)
    assert changed.is_coded
    assert not saved.is_coded
    assert replace(saved, tiles=TileCode.parse("dct:10/3")).is_coded
    assert changed.site_digest not in (saved.site_digest, replace(changed, components=3).site_digest)
    assert saved.probe().by_largest  # it is of format 1
    assert not changed.probe().by_largest


@pytest.mark.parametrize(
    ("model", "size"),
    [("vit_b", 301056), ("vit_l", 401408), ("vit_h", 501760), ("mini", 9600), ("small", 25088)],
)
def test_bytes_of_a_windows_embedding_in_fp16(model: str, size: int) -> None:
    geometry = GEOMETRIES[model]
    bundle = replace(tiny_bundle(), geometry=geometry, components=geometry.dim)
    assert np.empty(bundle.embedding_shape, np.float16).nbytes == size


def test_saving_leaves_only_the_manifest_and_can_be_repeated(saved: Bundle) -> None:
    before = sorted(saved.path.iterdir())
    saved.save()
    assert sorted(saved.path.iterdir()) == before
    assert Bundle.load(saved.path) == saved


def test_every_part_is_served_from_a_whole_bundle(saved: Bundle) -> None:
    assert saved.verified_file("window") == saved.path / "window/model.onnx"
    assert saved.verified_file("global") == saved.path / "global/model.onnx"
    assert saved.padding_embeddings().tolist() == [0, 1, 2, 3]
    probe = saved.probe()
    assert {name: array.tolist() for name, array in probe.inputs.items()} == {
        name: array.tolist() for name, array in tiles(24).items()
    }
    assert probe.embedding.tolist() == answers(tiles(24))["embedding"].tolist()
    assert probe.tolerance == {"float16": 0.02}


@pytest.mark.parametrize("described", [True, False])
def test_the_unsplit_model_that_is_not_here_says_who_needs_it(saved: Bundle, described: bool) -> None:
    stages = {**saved.stages, "whole": replace(saved.stage("window"), file="whole/model.onnx")}
    bundle = replace(saved, stages=stages) if described else saved
    with pytest.raises(BundleError, match=r"whole/model.onnx is missing; .* leave --verify and --whole out"):
        bundle.verified_file("whole")


def test_a_copy_with_the_window_stage_alone_is_a_bundle(saved: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(saved.path / "window", copy / "window")
    shutil.copy(saved.path / MANIFEST, copy)
    site = Bundle.load(copy)
    assert (site.has("window"), site.has("global"), site.has("decoder")) == (True, False, False)
    assert site.site_digest == saved.site_digest
    assert site.verified_file("window") == copy / "window/model.onnx"
    with pytest.raises(BundleError, match=re.escape(f"{copy / 'global/model.onnx'} is missing; copy it")):
        site.verified_file("global")
    with pytest.raises(BundleError, match=re.escape(f"{copy / PADDING_FILE} is missing")):
        site.padding_embeddings()


def test_an_unknown_stage_is_named(saved: Bundle) -> None:
    with pytest.raises(BundleError, match="describes no stage 'decoder'; export it again"):
        saved.verified_file("decoder")


# Damage to files


def edit_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (Path.unlink, "is missing"),
        (edit_byte, "differs from what bundle.json records"),
        (truncate, "differs from what bundle.json records"),
        (replace_by_folder, "cannot be read"),
    ],
)
@pytest.mark.parametrize("name", [*WINDOW_FILES, PADDING_FILE, PROBE_FILE])
def test_a_damaged_file_is_named(
    saved: Bundle, name: str, damage: Callable[[Path], None], words: str
) -> None:
    damage(saved.path / name)
    bundle = Bundle.load(saved.path)
    use: dict[str, Callable[[], object]] = {PADDING_FILE: bundle.padding_embeddings, PROBE_FILE: bundle.probe}
    with pytest.raises(BundleError, match=re.escape(f"{saved.path / name} {words}")):
        use.get(name, lambda: bundle.verified_file("window"))()
    assert bundle.verified_file("global")  # the other parts are still good


def test_no_engine_runs_on_a_damaged_file(saved: Bundle) -> None:
    edit_byte(saved.path / "window/model.onnx.data")
    with pytest.raises(BundleError, match=r"model\.onnx\.data differs"):
        make_engine(saved, "window").open()


def test_a_file_that_is_no_onnx_is_an_engine_error(saved: Bundle) -> None:
    with pytest.raises(EngineError, match=r"onnxruntime cannot load .*window/model\.onnx"):
        make_engine(saved, "window").open()


# Damage to bundle.json


@dataclass(frozen=True)
class Edit:
    what: str
    words: str
    path: tuple[str | int, ...]
    value: object = None  # None deletes


OUTSIDE = "a file outside the bundle; do not use it"
WINDOW = ("stages", "window")
EDITS = [
    Edit(
        "another format", "has format 4, expected one of (1, 2, 3); export the bundle again", ("format",), 4
    ),
    Edit("no format", "has format None, expected one of (1, 2, 3)", ("format",)),
    Edit("the next format", "is damaged (KeyError('tiles'))", ("format",), 2),
    Edit("a geometry", "its site digest does not fit", ("model", "image_size"), 24),
    Edit("a mean", "its site digest does not fit", ("pixel_mean", 0), 1.0),
    Edit("a hash", "its site digest does not fit", (*WINDOW, "files", WINDOW_FILES[0]), "0" * 64),
    Edit("the digest", "its site digest does not fit", ("site_digest",), "sha256:" + "0" * 64),
    Edit("no digest", "is damaged (KeyError('site_digest'))", ("site_digest",)),
    Edit("no window stage", "describes no stage 'window'", WINDOW),
    Edit("no stages", "is damaged (KeyError('stages'))", ("stages",)),
    Edit("stages as text", "is damaged", ("stages",), "window"),
    Edit("a stage as text", "is damaged", WINDOW, "window"),
    Edit("an unknown geometry field", "is damaged", ("model", "colour"), "red"),
    Edit("a geometry field less", "is damaged", ("model", "patch")),
    Edit("an unknown dtype", "is damaged", (*WINDOW, "inputs", 0, "dtype"), "float128"),
    Edit("a shape of text", "is damaged", (*WINDOW, "inputs", 0, "shape"), 5),
    Edit("no text of its origin", "gives trained_on 5, expected a text", ("weights", "trained_on"), 5),
    Edit("an unknown status", "weight status 'good', expected one of", ("weights", "status"), "good"),
    Edit("a path up", OUTSIDE, (*WINDOW, "file"), "../model.onnx"),
    Edit("an absolute path", OUTSIDE, (*WINDOW, "files", "/etc/passwd"), "0" * 64),
    Edit("a path up in edge files", OUTSIDE, ("edge_files", "edge/../../x"), "0" * 64),
    Edit("a number as path", "is damaged", (*WINDOW, "file"), 5),
    Edit(
        "a stage without hash", "records no hash of window/other.onnx", (*WINDOW, "file"), "window/other.onnx"
    ),
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.what)
def test_an_edited_manifest_is_refused(saved: Bundle, edit: Edit) -> None:
    def change(manifest: dict[str, Any]) -> None:
        entry: Any = manifest
        for key in edit.path[:-1]:
            entry = entry[key]
        if edit.value is None:
            del entry[edit.path[-1]]
        else:
            entry[edit.path[-1]] = edit.value

    rewrite(saved.path, change)
    with pytest.raises(BundleError, match=re.escape(edit.words)) as caught:
        Bundle.load(saved.path)
    assert str(saved.path) in str(caught.value)


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    change(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


def test_records_of_edge_files_may_be_absent_until_they_are_needed(saved: Bundle) -> None:
    rewrite(saved.path, lambda manifest: manifest["edge_files"].clear())
    with pytest.raises(BundleError, match=f"records no {PADDING_FILE}; export the bundle again"):
        Bundle.load(saved.path).padding_embeddings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 10**5, "cannot be read"),
        (b"[]", "has format None"),
        (b"null", "has format None"),
    ],
)
def test_a_manifest_that_is_no_json_object_is_refused(saved: Bundle, text: bytes, words: str) -> None:
    (saved.path / MANIFEST).write_bytes(text)
    with pytest.raises(BundleError, match=re.escape(f"{saved.path / MANIFEST} {words}")):
        Bundle.load(saved.path)


def test_a_directory_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match=re.escape(f"{tmp_path} is no bundle: it holds no bundle.json; make")
    ):
        Bundle.load(tmp_path)
    with pytest.raises(BundleError, match=r"missing is no bundle: nothing is there; make one"):
        Bundle.load(tmp_path / "missing")


def test_a_path_near_a_bundle_names_the_bundle(tmp_path: Path) -> None:
    bundle = tmp_path / "models/mini"
    (bundle / "window").mkdir(parents=True)
    (bundle / "bundle.json").write_text("{}")
    (bundle / "window/model.onnx").touch()
    for path in (bundle.parent, bundle / "bundle.json", bundle / "window", bundle / "window/model.onnx"):
        with pytest.raises(BundleError, match=re.escape(f"; give --bundle {bundle}") + "$"):
            Bundle.load(path)


def test_a_file_is_no_bundle(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(BundleError, match="is no bundle: it is a file, expected a folder; make one"):
        Bundle.load(file)


# Format 2: what travels is said


CODED = [
    Edit("another step", "its site digest does not fit", ("tiles", "luma_steps", 1), 5.0),
    Edit("fewer components", "its site digest does not fit", ("components",), 1),
    Edit("the format before", "its site digest does not fit", ("format",), 1),
    Edit("no code", "is damaged (KeyError('tiles'))", ("tiles",)),
    Edit("no components", "is damaged (KeyError('components'))", ("components",)),
    Edit("a code as text", "is damaged", ("tiles",), "dct:10/3"),
    Edit("a step of nothing", "is damaged", ("tiles", "chroma_steps", 0), 0),
]


@pytest.fixture
def coded(saved: Bundle) -> Bundle:
    bundle = of_format_2(saved, TileCode.parse("dct:10/3"), 2)
    bundle.save()
    return bundle


def test_a_coded_bundle_is_loaded_as_it_was_saved(coded: Bundle) -> None:
    loaded = Bundle.load(coded.path)
    assert loaded == coded
    assert loaded.embedding_shape == (8, 8, 2)
    assert loaded.description == "tiny (untrained weights, dct:10/3)"


@pytest.mark.parametrize("edit", CODED, ids=lambda edit: edit.what)
def test_an_edited_code_is_refused(coded: Bundle, edit: Edit) -> None:
    test_an_edited_manifest_is_refused(coded, edit)


NOT_OF_ITS_STAGE: dict[str, tuple[dict[str, Any], str]] = {
    **{
        f"{number} components": ({"components": number}, "a window stage whose embedding is [('n', 8, 8, 2)]")
        for number in (-5, 0, 7, 999_999_999)
    },
    "a code of pixels": ({"tiles": RGB}, "a window stage whose tile is [('n', 46)], expected [('n', 768)]"),
    "other coefficients": ({"tiles": TileCode.parse("dct:6/3")}, "[('n', 46)], expected [('n', 30)]"),
    "tiles of no whole blocks": ({"geometry": replace(TINY, window=7)}, "needs tiles of a multiple of 16"),
    "no tile": ({"inputs": INPUTS[1:]}, "a window stage whose tile is [], expected [('n', 46)]"),
    "no embedding": ({"outputs": OUTPUTS[1:]}, "a window stage whose embedding is [], expected"),
}


@pytest.mark.parametrize("case", NOT_OF_ITS_STAGE)
def test_what_travels_is_what_the_window_stage_takes_and_gives(coded: Bundle, case: str) -> None:
    """The digest fits: whoever wrote the record wrote it anew."""
    change, words = NOT_OF_ITS_STAGE[case]
    window = replace(
        coded.stage("window"), **{name: change[name] for name in change if name in ("inputs", "outputs")}
    )
    rest = {name: value for name, value in change.items() if name not in ("inputs", "outputs")}
    replace(coded, stages={**coded.stages, "window": window}, **rest).save()
    with pytest.raises(BundleError, match=re.escape(words)) as caught:
        Bundle.load(coded.path)
    assert str(caught.value).startswith(str(coded.path / MANIFEST))
    assert str(caught.value).endswith("; export the bundle again")


def test_a_code_on_a_stage_of_pixels_is_refused(saved: Bundle) -> None:
    plain = of_format_2(saved, RGB, 2)
    plain.save()
    assert Bundle.load(saved.path) == plain
    replace(plain, tiles=TileCode.parse("dct:10/3")).save()
    with pytest.raises(
        BundleError, match=r"dct:10/3 tiles, .* tile is \[\('n', 768\)\], expected \[\('n', 46\)"
    ):
        Bundle.load(saved.path)


def test_a_bundle_of_format_1_is_saved_as_one(saved: Bundle) -> None:
    manifest = json.loads((saved.path / MANIFEST).read_text())
    assert manifest["format"] == 1
    assert not {"tiles", "components"} & set(manifest)
    assert (saved.tiles, saved.embedding_shape) == (RGB, (2, 2, 3))


# The digest


def test_the_digest_of_a_bundle_of_format_1_is_what_it_was() -> None:
    """Sites and edges of before know it by this."""
    assert (
        tiny_bundle().site_digest == "sha256:4c5c5e0587f7dace28a652dc86b17ba3d880c3e2c043ee0f2f96ea44c4cb811a"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda b: replace(b, pixel_std=(1.0, 1.0, 1.0)),
        lambda b: replace(b, head_blocks=1),
        lambda b: replace(b, format=2),
        lambda b: replace(b, geometry=replace(b.geometry, heads=3)),
        lambda b: replace(
            b, stages={"window": replace(b.stages["window"], files={"window/model.onnx": "1"})}
        ),
    ],
)
def test_the_digest_changes_with_what_a_site_computes(
    saved: Bundle, change: Callable[[Bundle], Bundle]
) -> None:
    assert change(saved).site_digest != saved.site_digest


def test_the_digest_is_blind_to_everything_else(saved: Bundle) -> None:
    other = replace(saved, weights="distilled", parity={}, edge_files={}, path=Path("elsewhere"))
    assert other.site_digest == saved.site_digest
    assert re.fullmatch("sha256:[0-9a-f]{64}", saved.site_digest)
