"""`pedsam bench` as it is typed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from media.pictures import read_picture
from pedsam.command import main
from stages.bundle import MANIFEST, Bundle, sha256
from tests.support.edge import sites_file
from tests.support.processes import serving

QUICK = ("--frame", "640x360", "--runs", "3", "--threads", "1", "--backend", "onnxruntime-cpu")
STEPS = {"canvas", "inputs", "windows", "global", "decode", "mask", "frame"}


def pedsam_bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


@pytest.fixture
def two_sites(mini_bundle: Bundle, tmp_path: Path) -> Iterator[Path]:
    with serving(mini_bundle.path) as a, serving(mini_bundle.path) as b:
        yield sites_file(tmp_path / "sites.toml", ("a", a.url), ("b", b.url))


def test_offloaded_beside_all_local(mini_bundle: Bundle, two_sites: Path, tmp_path: Path) -> None:
    out = tmp_path / "new/out"
    result = pedsam_bench("--bundle", mini_bundle.path, "--sites", two_sites, "--out", out, *QUICK)
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    for words in (
        "all local ┃ offloaded",
        "all local, one after another, is limited by ",
        "all local, overlapped, is limited by ",
        "offloaded, one after another, is limited by ",
        "offloaded, overlapped, is limited by ",
        "a frame offloaded takes ",
        "sites a, b on this machine (loopback) took its cores meanwhile",
        "what was sent to sites are probes and noise made here, never a picture",
    ):
        assert words in said
    written = json.loads((out / "bench.json").read_text(encoding="utf-8"))
    assert written["bundle"]["site_digest"] == mini_bundle.site_digest
    assert written["bundle"]["sha256"] == sha256(mini_bundle.path / MANIFEST)
    assert written["machine"]["date"][:2] == "20"
    assert (written["wire"], written["frame"]) == ("fp16", {"height": 360, "width": 640})
    assert list(written["ways"]) == ["local", "offloaded"]
    for way in written["ways"].values():
        assert way["runs"] == 3
        assert way["ms"].keys() == STEPS
        assert all(
            0 <= each["least"] <= each["p50"] <= each["p95"] <= each["most"] for each in way["ms"].values()
        )
        assert way["fps"] == pytest.approx(1e3 / way["ms"]["frame"]["mean"], rel=1e-3)
        assert f"is limited by {way['limited_by']}" in said
    sites = written["ways"]["offloaded"]["sites"]
    assert {site["windows"] for site in sites.values()} <= {7, 8}
    assert all(site["up"]["mbit_s"] > 0 and site["line_ms"] > 0 for site in sites.values())
    assert read_picture(out / "bench.png").shape[2] == 3
    assert [path.name for path in tmp_path.glob("*ledger*")] == []


def test_without_sites_it_is_all_local_alone(mini_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text(
        f'[loop]\nbundle = "{mini_bundle.path}"\nthreads = 1\n[sinks]\nout = "here"\n',
        encoding="utf-8",
    )
    result = pedsam_bench("--config", tmp_path / "edge.toml", "--runs", "1", "--frame", "64x36")
    assert result.exit_code == 0, result.output
    assert "with --sites sites.toml (docs/sites.md) it measures offloading too" in result.output
    assert "offloaded" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["edge.toml"]  # `out` there is a run's


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--runs", "0"), "Invalid value for '--runs': 0 is not in the range"),
        (("--seconds", "0"), "Invalid value for '--seconds': 0.0 is not in the range"),
        (("--frame", "big"), "expected a size in pixels like 1920x1080, not 'big'; sides are below "),
        (("--wire", "fp32"), "does not offer --wire fp32"),
        (("--encoder", "streaming"), "--encoder streaming needs the parts of the global stage"),
        (("--sites", "absent.toml"), "sites file absent.toml cannot be read"),
        (("--bundle", "absent"), "absent is no bundle"),
        (("--out", "/proc/none"), "cannot write /proc/none"),
        (("--out", "file"), "is a file where a folder is needed"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(
    mini_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    result = pedsam_bench("--bundle", mini_bundle.path, *QUICK, *more)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2)
    assert words in result.output.splitlines()[-1]


def test_what_is_read_is_not_written_over(mini_bundle: Bundle, tmp_path: Path) -> None:
    sites = sites_file(tmp_path / "bench.json", ("a", "http://127.0.0.1:1"))
    before = sites.read_bytes()
    result = pedsam_bench("--bundle", mini_bundle.path, "--sites", sites, "--out", tmp_path)
    assert "which is the file of --sites" in result.output.splitlines()[-1]
    assert sites.read_bytes() == before


def test_a_bundle_without_its_window_stage_needs_sites(mini_bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(mini_bundle.path, tmp_path / "edge")
    shutil.rmtree(tmp_path / "edge/window")
    result = pedsam_bench("--bundle", tmp_path / "edge", *QUICK)
    assert result.exit_code == 1
    assert "give --sites to measure offloading alone" in result.output.splitlines()[-1]
