"""`pedsam check` as it is typed."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pedsam.command import main
from stages.bundle import Bundle
from stages.console import LOG_COLUMNS
from tests.support.edge import sites_file
from tests.support.keys import keys_for
from tests.support.mosquitto import mosquitto
from tests.support.processes import MODULE, serving


def pedsam_check(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["check", *map(str, arguments)])


def test_three_sites_with_keys_as_processes(mini_bundle: Bundle, tmp_path: Path) -> None:
    """`keys`, three `serve --keys` and `check`, each as a person starts it."""
    toml, found = tmp_path / "sites.toml", tmp_path / "found.json"
    with ExitStack() as stack:
        tables = []
        for name in "abc":
            keys = keys_for(tmp_path / name, name)
            site = stack.enter_context(serving(mini_bundle.path, "--keys", str(keys)))
            tables.append(
                (tmp_path / name / "sites.toml")
                .read_text()
                .replace("https://127.0.0.1:8443", site.url)
                .replace('"edge/', f'"{name}/edge/')
            )
        toml.write_text("\n".join(tables))
        line = [*MODULE, "check", "--bundle", str(mini_bundle.path), "--sites", str(toml)]
        line += ["--frame", "640x360", "--json", str(found), "--threads", "1", "--allow-undistilled"]
        line += ["--kept", "3", "--keep", "faces", "--keep-px", "160"]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "3 of 3 sites can be used"
    assert "predicted: " in done.stdout
    assert all(len(text) <= LOG_COLUMNS for text in done.stdout.splitlines())  # one table for all sites
    written = json.loads(found.read_text())
    assert written["usable"] is True
    assert {name: site["windows"] for name, site in written["sites"].items()} == {"a": 4, "b": 4, "c": 4}
    assert written["prediction"]["fps"] > 0
    assert (written["windows_kept"], written["keeping"]["windows"]) == (3, 3)
    assert written["keeping"]["edge_s"] == pytest.approx(3 * written["edge"]["window_s"])
    tile_bytes = mini_bundle.geometry.tile_px**2 * 3
    assert 3 * tile_bytes < written["keeping"]["bytes_saved"][0] < 3 * (tile_bytes + 1000)
    assert "3 windows of every frame are kept: " in done.stdout
    assert 0 < written["edge"]["detect_s"] == written["prediction"]["steps_s"]["the detectors of --keep"]
    assert 0 < written["edge"]["detect_processor_s"] < written["edge"]["processor_s"]
    assert written["fps_without_detectors"] >= written["prediction"]["fps"]
    assert "the detectors of --keep take " in done.stdout
    assert written["frame"] == {"height": 360, "width": 640}
    assert written["problems"] == []
    assert not list(tmp_path.glob("sites.ledger.*"))


def test_a_site_that_fails_ends_with_1(mini_bundle: Bundle, tmp_path: Path) -> None:
    sites = sites_file(tmp_path / "sites.toml", ("a", "http://127.0.0.1:1"), ("b", "http://127.0.0.1:2"))
    found = tmp_path / "found.json"
    line: list[str | Path] = ["--bundle", mini_bundle.path, "--sites", sites, "--json", found]
    line.append("--allow-undistilled")
    result = pedsam_check(*line)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "site a: cannot be reached at 127.0.0.1:1" in " ".join(result.output.split())
    assert result.output.splitlines()[-1] == "0 of 2 sites can be used"
    assert json.loads(found.read_text())["sites"]["b"]["steps"]["tcp"]["state"] == "failed"


def test_a_broker_that_does_not_answer_is_a_warning(mini_bundle: Bundle, tmp_path: Path) -> None:
    toml = sites_file(tmp_path / "sites.toml", ("a", "http://127.0.0.1:1"))
    line = ("--bundle", mini_bundle.path, "--sites", toml, "--allow-undistilled", "--accept-exposure")
    result = pedsam_check(*line, "--threads", "1", "--mqtt", "mqtt://me:s3cret@127.0.0.1:1")
    assert "broker mqtt://127.0.0.1:1: it cannot be reached (Connection refused)" in result.output
    assert "s3cret" not in result.output


@pytest.mark.mosquitto
def test_without_sites_this_machine_and_the_broker_are_tried(tmp_path: Path) -> None:
    """All that somebody at home has: an edge.toml without sites."""
    found, toml = tmp_path / "found.json", tmp_path / "edge.toml"
    line = ("--config", toml, "--frame", "640x360", "--threads", "1", "--json", found)
    with mosquitto(tmp_path / "broker") as broker:
        toml.write_text(f'[mqtt]\nmqtt = "{broker.url}"\n[sinks]\nheartbeat = "beat"\n', encoding="utf-8")
        good = pedsam_check(*line)
    assert good.exit_code == 0, good.output
    assert good.output.splitlines()[-1] == "without --sites every window runs here, and nothing leaves"
    written = json.loads(found.read_text(encoding="utf-8"))
    assert written["usable"] is True
    assert (written["sites"], written["warnings"], written["problems"]) == ({}, [], [])
    assert written["notes"] == [f"broker mqtt://127.0.0.1:{broker.port}: it accepts the connection"]
    assert written["notes"][0] in " ".join(good.output.split())
    edge, steps = written["edge"], written["prediction"]["steps_s"]
    engines = edge["global_s"] + edge["decode_s"] + written["windows_at_edge"] * edge["window_s"]
    assert written["windows_at_edge"] == 15
    assert steps["the engines at the edge (global + decoder + 15 windows)"] == pytest.approx(engines)
    assert not any("site" in step for step in steps)
    assert (
        f"predicted: {written['prediction']['fps']:.1f} frames/s of 640 x 360 with one object\n"
        in good.output
    )
    toml.write_text('[sinks]\nheartbeat = "no/beat"\n', encoding="utf-8")
    bad = pedsam_check(*line)
    assert bad.exit_code == 1
    assert bad.output.splitlines()[-1].endswith("leaves, and a run would not start here: see above")


def test_without_sites_what_is_for_sites_does_nothing_and_is_told() -> None:
    result = pedsam_check("--frame", "640x360", "--keep", "faces", "--kept", "99", "--threads", "1")
    assert result.exit_code == 0, result.output
    for option in ("--keep", "--kept"):
        assert f"warning: {option} does nothing without --sites" in result.output.splitlines()
    assert "detectors" not in result.output


def test_without_sites_and_window_stage_no_run_can_be(mini_bundle: Bundle, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(mini_bundle.path, bundle, ignore=shutil.ignore_patterns("window"))
    result = pedsam_check("--bundle", bundle, "--allow-undistilled")
    assert result.exit_code == 1
    assert f"{bundle} has no window stage, and without --sites every window runs here; copy it" in " ".join(
        result.output.split()
    )
    assert result.output.splitlines()[-1].endswith("this machine cannot do its part: see above")


def test_a_detector_that_is_not_there_is_a_problem_of_the_run(mini_bundle: Bundle, tmp_path: Path) -> None:
    sites = sites_file(tmp_path / "sites.toml", ("a", "http://127.0.0.1:1"), ("b", "http://127.0.0.1:2"))
    (tmp_path / "edge.toml").write_text('[privacy]\nkeep = "faces,no_module:find"\n', encoding="utf-8")
    line = ("--config", tmp_path / "edge.toml", "--bundle", mini_bundle.path, "--sites", sites)
    result = pedsam_check(*line, "--allow-undistilled", "--json", tmp_path / "found.json")
    assert result.exit_code == 1
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert any("--keep no_module:find cannot be imported" in problem for problem in found["problems"])
    assert any("is not in the prediction" in warning for warning in found["warnings"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--frame", "big"], "expected a size in pixels like 1920x1080, not 'big'"),
        (["--frame", "0x9"], "like 1920x1080, not '0x9'"),
        (["--frame", "9x"], "like 1920x1080, not '9x'"),
        (["--frame", "99999x2"], "like 1920x1080, not '99999x2'"),
        (["--wire", "fp32"], "does not offer --wire fp32"),
        (["--sites", "absent.toml"], "sites file absent.toml cannot be read"),
        (["--kept", "15"], "it has 15; keep at most 14, so that one is sent"),
        (["--keep-box", "9,9,9,9"], "--keep-box 9,9,9,9 is empty"),
        (["--bundle", "absent"], "absent is no bundle"),
        (["--json", "absent/found.json"], "cannot write absent/found.json"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(
    mini_bundle: Bundle, tmp_path: Path, more: list[str], words: str
) -> None:
    sites = sites_file(tmp_path / "sites.toml", ("a", "http://127.0.0.1:1"), ("b", "http://127.0.0.1:2"))
    result = pedsam_check("--bundle", mini_bundle.path, "--sites", sites, *more)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2)
    assert words in result.output.splitlines()[-1]


def test_the_name_of_a_site_is_no_markup(mini_bundle: Bundle, tmp_path: Path) -> None:
    """It is shown while the site is measured, and above its column."""
    with serving(mini_bundle.path) as site:
        sites = sites_file(tmp_path / "sites.toml", ("[/a]", site.url))
        line = ("--bundle", mini_bundle.path, "--sites", sites, "--threads", "1")
        result = pedsam_check(*line, "--allow-undistilled", "--accept-exposure")
    assert result.exit_code == 0, result.output
    assert " [/a] " in result.output


@pytest.fixture
def two_sites(mini_bundle: Bundle, tmp_path: Path) -> Iterator[Path]:
    """A sites.toml of two sites that can be used."""
    with serving(mini_bundle.path) as a, serving(mini_bundle.path) as b:
        yield sites_file(tmp_path / "sites.toml", ("a", a.url), ("b", b.url))


def test_what_a_run_would_refuse_ends_with_1_though_every_site_can_be_used(
    mini_bundle: Bundle, two_sites: Path, tmp_path: Path
) -> None:
    found = tmp_path / "found.json"
    (tmp_path / "sites.ledger.json").write_text("{")
    (tmp_path / "edge.toml").write_text(
        f'[source]\nsource = "csi://0"\n[loop]\nbundle = "{mini_bundle.path}"\nthreads = 1\n'
        '[privacy]\nsites = "sites.toml"\n[sinks]\nheartbeat = "no/beat"\ntrace = "edge.toml/t"\n'
    )
    result = pedsam_check("--config", tmp_path / "edge.toml", "--frame", "640x360", "--json", found)
    assert result.exit_code == 1
    verdict = "2 of 2 sites can be used, and a run would not start here: see above"
    assert result.output.splitlines()[-1] == verdict
    problems = json.loads(found.read_text())["problems"]
    for problem, words in zip(
        problems,
        ["cannot write", "the heartbeat file", "untrained weights", "the exposure ledger"],
        strict=True,
    ):
        assert words in problem
        assert "".join(problem.split()) in "".join(result.output.split())
    assert not (tmp_path / "no").exists()


def test_one_operator_alone_ends_with_1_unless_it_is_accepted(mini_bundle: Bundle, tmp_path: Path) -> None:
    with serving(mini_bundle.path) as site:
        sites = sites_file(tmp_path / "sites.toml", ("a", site.url))
        line: list[str | Path] = ["--bundle", mini_bundle.path, "--sites", sites, "--threads", "1"]
        line += ["--frame", "640x360"]
        refused = pedsam_check(*line, "--allow-undistilled")
        accepted = pedsam_check(*line, "--allow-undistilled", "--accept-exposure")
    assert (refused.exit_code, accepted.exit_code) == (1, 0)
    for result in (refused, accepted):
        assert " ".join(result.output.split()).count("alone would see the whole picture") == 1


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("sites.toml", (), "which is the file of --sites"),
        ("p.json", ("--prompts",), "which is the file of --prompts"),
        ("sites.ledger.json", (), "which is --ledger"),
        ("t.png", ("--trace",), "which is the picture that --trace writes beside it"),
        ("out/masks.jsonl", ("--out",), "which is --out"),
    ],
)
def test_what_was_found_is_written_over_nothing_else(
    mini_bundle: Bundle, tmp_path: Path, name: str, more: tuple[str, ...], words: str
) -> None:
    sites = sites_file(tmp_path / "sites.toml", ("a", "http://127.0.0.1:1"))
    before = sites.read_bytes()
    named = {"--prompts": "p.json", "--trace": "t.json", "--out": "out"}
    given = [part for option in more for part in (option, str(tmp_path / named[option]))]
    result = pedsam_check(
        "--bundle", mini_bundle.path, "--sites", sites, *given, "--json", str(tmp_path / name)
    )
    error = result.output.splitlines()[-1]
    assert error.startswith(f"Error: --json would overwrite or remove {tmp_path / name}, {words}")
    assert sites.read_bytes() == before
