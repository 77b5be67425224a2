"""The part of a bundle for each place: the stages and files it gets, hashed, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from stages.bundle import MANIFEST, PADDING_FILE, PROBE_FILE, Bundle, sha256, shipped_bundle
from stages.errors import BundleError
from stages.places import PartFile, checksums, part_files, stages_for
from stages.streaming import PARTS, can_stream


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.load(shutil.copytree(shipped_bundle(), tmp_path / "bundle"))


def onnx(*stages: str) -> set[str]:
    return {f"{stage}/{name}" for stage in stages for name in ("model.onnx", "model.onnx.data")}


def copied(bundle: Bundle, files: tuple[PartFile, ...], to: Path) -> Bundle:
    for file in files:
        (to / file.name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(bundle.path / file.name, to / file.name)
    return Bundle.load(to)


def test_a_site_gets_its_stage_and_the_probe(bundle: Bundle) -> None:
    names = [file.name for file in part_files(bundle, "site")]
    assert set(names) == {MANIFEST, PROBE_FILE, *onnx("window")}
    assert names[-1] == MANIFEST


def test_an_edge_gets_its_stages_the_fallback_and_both_edge_files(bundle: Bundle) -> None:
    names = {file.name for file in part_files(bundle, "edge")}
    assert names == {MANIFEST, PADDING_FILE, PROBE_FILE, *onnx("window", "global", "decoder")}
    assert stages_for(bundle, "edge") == ("global", "decoder", "window")


def test_an_edge_can_do_without_its_fallback_alone(bundle: Bundle) -> None:
    without = {file.name for file in part_files(bundle, "edge", ("window", "global"))}
    assert without == {MANIFEST, PADDING_FILE, PROBE_FILE, *onnx("global", "decoder")}
    shutil.rmtree(bundle.path / "window")
    assert {file.name for file in part_files(bundle, "edge")} == without


def test_engines_and_whole_stay(bundle: Bundle, mini_bundle: Bundle) -> None:
    (bundle.path / "engines/orin").mkdir(parents=True)
    (bundle.path / "engines/orin/window.plan").write_bytes(b"machine code")
    assert not any("engines" in file.name for file in part_files(bundle, "edge"))
    assert mini_bundle.has("whole")
    assert not any("whole" in file.name for file in part_files(mini_bundle, "edge"))


@pytest.mark.parametrize("place", ["site", "edge"])
def test_what_is_copied_is_a_bundle_whose_files_verify(bundle: Bundle, tmp_path: Path, place: str) -> None:
    copy = copied(bundle, part_files(bundle, place), tmp_path / "copy")
    assert stages_for(copy, place) == stages_for(bundle, place)
    assert copy.site_digest == bundle.site_digest
    for stage in stages_for(copy, place):
        copy.verified_file(stage)
    copy.probe()


def test_sizes_and_hashes_are_those_of_the_files(bundle: Bundle) -> None:
    for file in part_files(bundle, "edge"):
        path = bundle.path / file.name
        assert (file.bytes, file.sha256) == (path.stat().st_size, sha256(path))


def test_a_copy_without_the_probe_is_told_as_it_is(bundle: Bundle) -> None:
    (bundle.path / PROBE_FILE).unlink()
    assert {file.name for file in part_files(bundle, "site")} == {MANIFEST, *onnx("window")}


def test_what_was_changed_is_not_handed_on(bundle: Bundle) -> None:
    (bundle.path / "decoder/model.onnx.data").write_bytes(b"other weights")
    with pytest.raises(BundleError, match=r"decoder/model.onnx.data differs from what bundle.json records"):
        part_files(bundle, "edge")
    assert part_files(bundle, "site")


def test_what_a_place_needs_and_the_bundle_lacks_is_named(bundle: Bundle) -> None:
    shutil.rmtree(bundle.path / "global")
    shutil.rmtree(bundle.path / "decoder")
    with pytest.raises(BundleError, match="does not hold global and decoder, which an edge needs; copy the"):
        part_files(bundle, "edge")
    shutil.rmtree(bundle.path / "window")
    with pytest.raises(BundleError, match="does not hold window, which a site needs; copy the folders from"):
        stages_for(bundle, "site")


def sha256sum(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    line = ["sha256sum", "--check", "--quiet", "--strict", "-"]
    return subprocess.run(line, input=text, cwd=folder, capture_output=True, text=True, check=False)


def test_sha256sum_verifies_a_copy(bundle: Bundle, tmp_path: Path) -> None:
    files = part_files(bundle, "edge")
    copy, text = copied(bundle, files, tmp_path / "copy"), checksums(files)
    assert sha256sum(copy.path, text).returncode == 0
    assert f"{sha256(copy.path / MANIFEST)}  {MANIFEST}\n" in text  # as sha256sum itself writes it
    (copy.path / "global/model.onnx").write_bytes(b"cut")
    (copy.path / MANIFEST).unlink()
    found = sha256sum(copy.path, text)
    assert found.returncode == 1
    assert "global/model.onnx: FAILED\n" in found.stdout
    assert "bundle.json: FAILED open or read" in found.stdout


@pytest.mark.parametrize("name", ["a\nb", "a\\b", "a\rb"])
def test_names_that_sha256sum_would_read_otherwise_are_refused(name: str) -> None:
    with pytest.raises(BundleError, match="a line break or a backslash in its name"):
        checksums([PartFile(name, "0" * 64, 1)])


def test_an_edge_gets_the_parts_of_its_global_stage_where_the_bundle_has_them(
    mini_streaming_bundle: Bundle, tmp_path: Path
) -> None:
    """Their graphs alone: the weights are the global stage's. Nothing is built of them, or sent to sites."""
    parts = {f"global/{part}.onnx" for part in PARTS}
    files = part_files(mini_streaming_bundle, "edge")
    assert parts <= {file.name for file in files}
    assert sum(file.bytes for file in files if file.name in parts) < 200_000
    assert can_stream(copied(mini_streaming_bundle, files, tmp_path / "copy"))
    assert stages_for(mini_streaming_bundle, "edge") == ("global", "decoder", "window")
    assert not any(file.name in parts for file in part_files(mini_streaming_bundle, "site"))
