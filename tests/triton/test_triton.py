"""A real Triton 2.51: the edge works through it, and the conformance table says what it answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.triton.__main__ import measured
from benchmarks.triton.report import CLIENTS, DIRECT, ENGINE, NOTHING, PEDSAM, TRITON
from benchmarks.triton.servers import Work
from pedsam.command import main
from runtime.objects.masks import decode_mask, iou
from stages.bundle import Bundle, shipped_bundle
from tests.server.conformance.table import captured
from tests.support.edge import sites_file, write_photo
from tests.support.processes import serving
from tests.triton.capture import MAX_BATCH, capture
from tests.triton.server import interpreter, model_config, triton

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def python() -> Path:
    path = interpreter()
    if path is None:
        pytest.fail("TRITON_PYTHON names no interpreter; run `make test-triton`")
    return path


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(shipped_bundle())


@pytest.fixture(scope="module")
def site(python: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The shipped window stage on Triton, as an operator would set it up."""
    stage = bundle.stage("window")
    parameters = {"site_digest": bundle.site_digest, "model": str((bundle.path / stage.file).resolve())}
    folder = tmp_path_factory.mktemp("triton")
    with triton(python, folder, model_config(stage, MAX_BATCH, parameters)) as running:
        yield running.url


def run(out: Path, *arguments: str) -> list[str]:
    """The masks of a run, a line an object."""
    result = CliRunner().invoke(main, ["run", "--out", str(out), "--box", "40,40,300,200", *arguments])
    assert result.exit_code == 0, result.output
    return (out / "masks.jsonl").read_text().splitlines()


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo(tmp_path_factory.mktemp("photo") / "photo.png")


def through(out: Path, url: str, photo: Path, wire_format: str) -> list[str]:
    """Masks of a run through two sites that are one server."""
    out.mkdir()
    other = url.replace("127.0.0.1", "localhost")
    sites = sites_file(out / "sites.toml", ("a", url), ("b", other))
    return run(out, "--source", str(photo), "--sites", str(sites), "--wire", wire_format)


@pytest.mark.parametrize("wire_format", ["fp16", "int8"])
def test_triton_gives_the_masks_that_our_own_site_gives(
    tmp_path: Path, site: str, bundle: Bundle, photo: Path, wire_format: str
) -> None:
    with serving(bundle.path, "--max-batch", "1") as own:  # Triton, too, runs tiles one by one
        ours = through(tmp_path / "ours", own.url, photo, wire_format)
    assert through(tmp_path / "triton", site, photo, wire_format) == ours
    told = json.loads((tmp_path / "triton" / "summary.json").read_text())["sites"]
    assert all(told[name]["tiles_served"] > 0 for name in "ab")


def test_triton_gives_the_masks_of_a_run_without_sites(tmp_path: Path, site: str, photo: Path) -> None:
    """To rounding: the edge runs another number of windows in a call, which some processors sum otherwise."""
    (here,) = run(tmp_path / "here", "--source", str(photo))
    (there,) = through(tmp_path / "triton", site, photo, "fp16")
    ours, theirs = (decode_mask(json.loads(line)["segmentation"]) for line in (here, there))
    assert ours.any()
    assert iou(ours, theirs) >= 0.999


def test_an_operator_who_forgets_the_digest_is_told_so(python: Path, bundle: Bundle, tmp_path: Path) -> None:
    photo = write_photo(tmp_path / "photo.png")
    stage = bundle.stage("window")
    with triton(python, tmp_path / "triton", model_config(stage, MAX_BATCH, {})) as running:
        sites = sites_file(tmp_path / "sites.toml", ("a", running.url))
        arguments = ["run", "--source", str(photo), "--box", "40,40,300,200", "--out", str(tmp_path / "out")]
        result = CliRunner().invoke(main, [*arguments, "--sites", str(sites), "--accept-exposure"])
    assert "names no site digest" in " ".join(result.output.split())


def test_triton_answers_what_the_conformance_table_says(python: Path, tmp_path: Path) -> None:
    assert capture(python, tmp_path) == captured()


def test_a_site_and_triton_are_measured_side_by_side(python: Path, bundle: Bundle, tmp_path: Path) -> None:
    """Both clients at both servers, with the engine and with one that does nothing."""
    found = measured(Work("mini", bundle, 16, 16), python, tmp_path, rounds=1, threads=1)
    four = {f"{server}, {client}" for server in (PEDSAM, TRITON) for client in CLIENTS}
    assert set(found[NOTHING]["rows"]) == four
    assert set(found[ENGINE]["rows"]) == four | {DIRECT}
    assert found[ENGINE]["ratios"].keys() > found[NOTHING]["ratios"].keys()
    assert all(row["processor_us_a_tile"]["median"] > 0 for row in found[ENGINE]["rows"].values())
